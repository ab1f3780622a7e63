"""One waiting job for each key: the newest replaces older ones, and takes over their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pacsroute.jobs.database import Transaction
from pacsroute.jobs.rows import Job, select

# A job that is put back or released by a dead owner waits again, unless a newer job has the same
# key.
_REPLACED = """key IS NOT NULL AND EXISTS (
    SELECT 1 FROM jobs AS newer WHERE newer.lane = jobs.lane AND newer.function = jobs.function
        AND newer.key = jobs.key AND newer.failed = 0 AND newer.id <> jobs.id
        AND (newer.owner IS NULL OR newer.owner = :owner AND newer.id > jobs.id))
"""


def give_way(transaction: Transaction, condition: str, **values: Any) -> list[Job]:
    """Remove and return jobs that cannot wait again because a newer one with their key waits.

    If several jobs with one key are to wait again, only the newest stays.
    """
    gone = []
    while older := select(
        transaction, f"{condition} AND {_REPLACED} ORDER BY id LIMIT 1", **values
    ):
        (old,) = older
        (newer,) = select(
            transaction,
            "lane = :lane AND function = :function AND key = :key AND id <> :id AND failed = 0 "
            "ORDER BY (owner IS NULL) DESC, id DESC LIMIT 1",
            lane=old.lane,
            function=old.function,
            key=old.key,
            id=old.id,
        )
        transaction.run("DELETE FROM jobs WHERE id = :id", id=old.id)
        inherit(transaction, newer, old)
        gone.append(old)
    return gone


def inherit(transaction: Transaction, newer: Job, old: Job) -> None:
    """Merge into a job the unfinished work of an older one with the same key."""
    transaction.run(
        "UPDATE jobs SET arguments = :arguments WHERE id = :id",
        id=newer.id,
        arguments=with_inheritance(newer.arguments, old),
    )


def with_inheritance(arguments: Mapping[str, Any], old: Job) -> str:
    """Return the arguments of a job that replaces an older one, as JSON.

    It takes over the files to remove after delivery if the instance is the same, because they
    are versions of it.
    """
    left = old.arguments.get("delete")
    if left and old.arguments["sop_instance"] == arguments.get("sop_instance"):
        own = arguments["delete"]
        arguments = {**arguments, "delete": own + [one for one in left if one not in own]}
    return json.dumps(arguments, allow_nan=False)
