"""The tables of the queue, in SQL that both SQLite and PostgreSQL accept."""

from __future__ import annotations

from pacsroute.jobs.database import Transaction

VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS jobs_owners (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    seen DOUBLE PRECISION NOT NULL,
    serving INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS jobs_lanes (
    name TEXT PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    failures INTEGER NOT NULL DEFAULT 0,
    retry_at DOUBLE PRECISION NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS jobs_slots (
    lane TEXT NOT NULL,
    slot INTEGER NOT NULL,
    owner TEXT NOT NULL REFERENCES jobs_owners (id) ON DELETE CASCADE,
    PRIMARY KEY (lane, slot)
);

CREATE TABLE IF NOT EXISTS jobs (
    id {identity},
    lane TEXT NOT NULL,
    function TEXT NOT NULL,
    key TEXT,
    study TEXT NOT NULL DEFAULT '',
    arguments TEXT NOT NULL,
    node TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 0,
    turn BIGINT NOT NULL DEFAULT 0,
    created DOUBLE PRECISION NOT NULL,
    due DOUBLE PRECISION NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    owner TEXT REFERENCES jobs_owners (id)
);

CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_key ON jobs (lane, function, key)
    WHERE key IS NOT NULL AND owner IS NULL AND failed = 0;
CREATE INDEX IF NOT EXISTS jobs_in_turn ON jobs (lane, priority DESC, turn, id)
    WHERE owner IS NULL AND failed = 0;
CREATE INDEX IF NOT EXISTS jobs_by_study ON jobs (lane, study, turn)
    WHERE study <> '' AND failed = 0;
CREATE INDEX IF NOT EXISTS jobs_under_way ON jobs (owner) WHERE owner IS NOT NULL;

CREATE TABLE IF NOT EXISTS jobs_series (
    lane TEXT NOT NULL,
    key TEXT NOT NULL,
    uid TEXT NOT NULL,
    study TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    called_ae TEXT NOT NULL,
    completions INTEGER NOT NULL DEFAULT 0,
    expected TEXT NOT NULL DEFAULT '[]',
    reason TEXT NOT NULL DEFAULT 'quiet',
    changed DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (lane, key)
);

CREATE TABLE IF NOT EXISTS jobs_arrivals (
    lane TEXT NOT NULL,
    key TEXT NOT NULL,
    sop_instance TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (lane, key, sop_instance)
);

CREATE TABLE IF NOT EXISTS jobs_commitments (
    transaction_uid TEXT NOT NULL,
    job BIGINT NOT NULL,
    sop_instance TEXT NOT NULL,
    asked INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (transaction_uid, job)
);
CREATE INDEX IF NOT EXISTS jobs_commitments_by_instance
    ON jobs_commitments (transaction_uid, sop_instance);
CREATE INDEX IF NOT EXISTS jobs_commitments_by_job ON jobs_commitments (job);
"""


def create(transaction: Transaction, identity: str) -> None:
    """Create the tables that do not exist yet.

    Parameters
    ----------
    transaction : Transaction
        The transaction to create them in.
    identity : str
        The SQL type of a number that the database assigns to each new row.
    """
    for statement in _TABLES.format(identity=identity).split(";"):
        if statement.strip():
            transaction.run(statement)
