"""The tables of the index, in SQLite's words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pacsroute.archive.model import TABLES, Model

_VERSION = 1

_MORE = {
    "study": ("id INTEGER PRIMARY KEY", "patient TEXT NOT NULL"),
    "series": ("id INTEGER PRIMARY KEY", "study INTEGER NOT NULL"),
    "image": (
        "id INTEGER PRIMARY KEY",
        "series INTEGER NOT NULL",
        "path TEXT NOT NULL",
        "transfer_syntax TEXT NOT NULL",
        "calling_ae TEXT NOT NULL",
        "received INTEGER NOT NULL",
    ),
}
"""The columns that hold no attributes."""

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
    "image": ("SOPInstanceUID", "series", "path"),
}

# What no file tells: it stays when the index is made anew.
_LASTING = {
    "quarantine": "id INTEGER PRIMARY KEY, SOPInstanceUID TEXT, SOPClassUID TEXT, "
    "StudyInstanceUID TEXT, transfer_syntax TEXT, calling_ae TEXT, received INTEGER, reason TEXT, "
    "path TEXT UNIQUE",
    "leaving": "path TEXT PRIMARY KEY",
    "tombstone": "SOPInstanceUID TEXT PRIMARY KEY, SeriesInstanceUID TEXT, StudyInstanceUID TEXT, "
    "at TEXT, by TEXT",
    "hold": "StudyInstanceUID TEXT PRIMARY KEY",
    "issued": "StudyInstanceUID TEXT PRIMARY KEY, issuer TEXT",
    "correction": "StudyInstanceUID TEXT, keyword TEXT, value TEXT, original TEXT, at TEXT, "
    "by TEXT, reason TEXT, PRIMARY KEY (StudyInstanceUID, keyword)",
    "report": "id INTEGER PRIMARY KEY, calling_ae TEXT, called_ae TEXT, transaction_uid TEXT, "
    "refs TEXT, due REAL, begun REAL, UNIQUE (calling_ae, transaction_uid)",
    "fact": "name TEXT PRIMARY KEY, value TEXT",
}


def signature(model: Model) -> str:
    """Return a text that differs where tables made for another model, or by another version, do."""
    columns = repr([(table, model.columns(table)) for table in TABLES])
    return hashlib.sha256(f"{_VERSION} {columns}".encode()).hexdigest()


def lasting() -> Iterator[str]:
    """Yield the statements that make the tables that stay, where they are not there."""
    for table, columns in _LASTING.items():
        yield f"CREATE TABLE IF NOT EXISTS {table} ({columns})"
    yield "CREATE INDEX IF NOT EXISTS quarantine_uid ON quarantine (SOPInstanceUID)"


def attributes(model: Model) -> Iterator[str]:
    """Yield the statements that make the tables of studies, series and instances anew."""
    for table in TABLES:
        yield f"DROP TABLE IF EXISTS {table}"
        columns = [*_MORE[table], *(f"{key} {kind}" for key, kind in model.columns(table).items())]
        yield f"CREATE TABLE {table} ({', '.join(columns)})"
        for number, columns_of_index in enumerate(_INDEXES[table]):
            unique = "UNIQUE " if columns_of_index.startswith("UNIQUE ") else ""
            names = columns_of_index.removeprefix("UNIQUE ")
            yield f"CREATE {unique}INDEX {table}_{number} ON {table} ({names})"
