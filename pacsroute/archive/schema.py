"""The tables of the index, in SQL that both SQLite and PostgreSQL accept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from pacsroute.archive.database import Database
from pacsroute.archive.model import TABLES, Model

_VERSION = 2

_MORE = {
    "study": ("id {identity}", "patient TEXT NOT NULL"),
    "series": ("id {identity}", "study BIGINT NOT NULL"),
    "image": (
        "id {identity}",
        "series BIGINT NOT NULL",
        "path TEXT NOT NULL",
        "transfer_syntax TEXT NOT NULL",
        "calling_ae TEXT NOT NULL",
        "received BIGINT NOT NULL",
    ),
}
"""The columns other than attributes."""

_INDEXES = {
    "study": (
        "UNIQUE StudyInstanceUID",
        "patient",
        "PatientID",
        "PatientName_key",
        "AccessionNumber",
        "StudyDate DESC, StudyTime DESC, StudyInstanceUID",
    ),
    "series": ("UNIQUE study, SeriesInstanceUID", "SeriesInstanceUID"),
    "image": ("SOPInstanceUID", "series, SOPClassUID", "path"),
}

# Facts that no file contains: rebuilding the index keeps them.
_LASTING = {
    "quarantine": "id {identity}, SOPInstanceUID TEXT, SOPClassUID TEXT, "
    "StudyInstanceUID TEXT, transfer_syntax TEXT, calling_ae TEXT, received BIGINT, reason TEXT, "
    "path TEXT UNIQUE",
    "leaving": "path TEXT PRIMARY KEY",
    "tombstone": "SOPInstanceUID TEXT PRIMARY KEY, SeriesInstanceUID TEXT, StudyInstanceUID TEXT, "
    "at TEXT, by TEXT",
    "hold": "StudyInstanceUID TEXT PRIMARY KEY",
    "issued": "StudyInstanceUID TEXT PRIMARY KEY, issuer TEXT",
    "correction": "StudyInstanceUID TEXT, keyword TEXT, value TEXT, original TEXT, at TEXT, "
    "by TEXT, reason TEXT, PRIMARY KEY (StudyInstanceUID, keyword)",
    "report": "id {identity}, calling_ae TEXT, called_ae TEXT, transaction_uid TEXT, "
    "refs TEXT, due DOUBLE PRECISION, begun DOUBLE PRECISION, UNIQUE (calling_ae, transaction_uid)",
    "fact": "name TEXT PRIMARY KEY, value TEXT",
    "attempt": "path TEXT PRIMARY KEY, at BIGINT",
    "decided": "key TEXT PRIMARY KEY",
}


SET_FACT = "INSERT INTO fact VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
FORGET_ATTEMPT = "DELETE FROM attempt WHERE path = ? RETURNING path"
LEAVES = "INSERT INTO leaving VALUES (?) ON CONFLICT DO NOTHING"


def signature(model: Model) -> str:
    """Return a string that changes if the model or the version requires other tables."""
    columns = repr([(table, model.columns(table)) for table in TABLES])
    return hashlib.sha256(f"{_VERSION} {columns}".encode()).hexdigest()


def lasting(database: Database) -> Iterator[str]:
    """Yield the statements that create the permanent tables if they do not exist."""
    for table, columns in _LASTING.items():
        yield f"CREATE TABLE IF NOT EXISTS {table} ({_typed(columns, database)})"
    yield "INSERT INTO fact VALUES ('flushed', '') ON CONFLICT DO NOTHING"
    yield "CREATE INDEX IF NOT EXISTS attempt_at ON attempt (at)"
    yield "CREATE INDEX IF NOT EXISTS quarantine_uid ON quarantine (SOPInstanceUID)"


def attributes(model: Model, database: Database) -> Iterator[str]:
    """Yield the statements that recreate the tables of studies, series and instances."""
    for table in TABLES:
        yield f"DROP TABLE IF EXISTS {table}"
        columns = [*_MORE[table], *(f"{key} {kind}" for key, kind in model.columns(table).items())]
        yield f"CREATE TABLE {table} ({_typed(', '.join(columns), database)})"
        for number, columns_of_index in enumerate(_INDEXES[table]):
            unique = "UNIQUE " if columns_of_index.startswith("UNIQUE ") else ""
            names = columns_of_index.removeprefix("UNIQUE ")
            yield f"CREATE {unique}INDEX {table}_{number} ON {table} ({names})"


def _typed(columns: str, database: Database) -> str:
    """Return the columns of a table with the types of a database."""
    return re.sub(r"\bTEXT\b", database.text, columns.replace("{identity}", database.identity))
