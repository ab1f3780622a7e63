"""Storage commitment: answer requests and send the reports (PS3.4 Annex J)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pacsroute import uids
from pacsroute.archive.database import Database, Transaction, UnavailableError
from pacsroute.archive.keeper import Keeper
from pacsroute.errors import Failure, PacsrouteError
from pacsroute.framework.requests import NActionRequest

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger("pacsroute")

# The reasons of a failure (PS3.3 §C.14.1.1).
PROCESSING_FAILURE, NO_SUCH_INSTANCE, RESOURCE_LIMITATION = 0x0110, 0x0112, 0x0213
CLASS_NOT_SUPPORTED, CLASS_CONFLICT, DUPLICATE_TRANSACTION = 0x0122, 0x0119, 0x0131
ALL_ARE_HERE, SOME_FAILED = 1, 2  # event types (PS3.4 §J.3.3)

_WAITS = (5, 30, 120, 600, 3600)  # seconds between attempts to report; the last repeats
_DAYS = 7 * 86_400  # seconds after which a report is given up
_LEASE = 300  # seconds before another process retries an attempt that has not finished
_STOP = 10  # seconds that a report in progress has to finish when the app stops

Reference = tuple[str, str]
"""A SOP Class and a SOP Instance UID."""


class Commitment:
    """Answers requests for storage commitment.

    Parameters
    ----------
    files, database : Keeper and Database
        The parts of the archive.
    """

    def __init__(self, files: Keeper, database: Database) -> None:
        self._files = files
        self._database = database
        self._app: Any = None
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------- requests

    def answer(self, request: NActionRequest) -> None:
        """Answer an N-ACTION of the Storage Commitment Push Model."""
        if request.sop_instance != uids.sop_instance("StorageCommitmentPushModel"):
            raise Failure(NO_SUCH_INSTANCE, "not the well-known SOP instance")
        asked = request.action_information
        for keyword in ("TransactionUID", "ReferencedSOPSequence"):
            if not asked.get(keyword):
                raise Failure(0x0115, f"{keyword} is missing")
        transaction, references = str(asked.TransactionUID), _references(asked)
        if request.app.resolve(request.calling_ae, called_ae=_title(request)) is None:
            kind, information = self.outcome(request.calling_ae, transaction, references)
            request.report(kind, information | {"RetrieveAETitle": _title(request)})
            return
        if not self._remember(request, transaction, references):
            return
        request.after(self._wake.set)

    def _remember(
        self, request: NActionRequest, transaction: str, references: list[Reference]
    ) -> bool:
        """Save a report; return False if it was already saved."""
        refs = json.dumps(references)
        row = [request.calling_ae, _title(request), transaction, refs, time.time(), time.time()]

        def work(db: Transaction) -> str | None:
            same = "SELECT refs FROM report WHERE calling_ae = ? AND transaction_uid = ?"
            there = db.execute(same, [request.calling_ae, transaction]).fetchone()
            if there is None:
                db.execute(f"INSERT INTO report ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", row)
            return there and str(there[0])

        try:
            there = self._database.write(work, flush=True)
        except UnavailableError as error:
            logger.error("the index: %s", error)
            raise Failure(RESOURCE_LIMITATION, "the index is not available") from None
        if there is not None and there != refs:
            failed = [_failed(reference, DUPLICATE_TRANSACTION) for reference in references]
            request.report(SOME_FAILED, _information(transaction, [], failed))
        return there is None

    def outcome(
        self, calling_ae: str, transaction: str, references: list[Reference]
    ) -> tuple[int, dict[str, Any]]:
        """Return the report: the event type, and the result of each reference."""
        kept, failed = [], []
        for reference in references:
            reason = self._why_not(calling_ae, *reference)
            if reason is None:
                kept.append(_item(reference))
            else:
                failed.append(_failed(reference, reason))
        kind = SOME_FAILED if failed else ALL_ARE_HERE
        return kind, _information(transaction, kept, failed)

    def _why_not(self, calling_ae: str, sop_class: str, sop_instance: str) -> int | None:
        """Return why an instance cannot be committed to, or None if it can."""
        if not uids.is_uid(sop_instance):
            return NO_SUCH_INSTANCE
        try:
            if self._database.rows(_REFUSED, [sop_instance, calling_ae]):
                return PROCESSING_FAILURE  # the stored content differs from what this peer sent
            found = self._database.rows(_FOUND, [sop_instance])
            if not found:
                known = uids.is_storage(sop_class)
                return NO_SUCH_INSTANCE if known else CLASS_NOT_SUPPORTED
            if all(row["SOPClassUID"] != sop_class for row in found):
                return CLASS_CONFLICT
            return None if all(map(self._is_whole, found)) else PROCESSING_FAILURE
        except (UnavailableError, OSError) as error:
            logger.error("storage commitment: %s", type(error).__name__)
            return RESOURCE_LIMITATION

    def _is_whole(self, row: Any) -> bool:
        """Return whether the file of a row exists and contains that instance."""
        found = self._files.instance(row["path"])
        try:
            return (found.sop_class, found.sop_instance) == (row["SOPClassUID"], row["uid"])
        except FileNotFoundError:
            logger.error("%s is missing, and storage commitment was requested for it", row["path"])
            return False
        except PacsrouteError:
            return False

    # ------------------------------------------------------------- reports

    def start(self, app: Any) -> None:
        """Start sending reports, including any left by an earlier run."""
        self._app = app
        self._stopped = False
        self._wake.clear()
        self._thread = threading.Thread(
            target=self._report_all, name="pacsroute-commitment", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop sending; the remaining reports are sent after the next start."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP)

    def _report_all(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                for row in self._due():
                    self._report(row)
                pause = self._pause()
            except UnavailableError as error:
                logger.error("reports of storage commitment: %s", error)
                pause = _WAITS[0]
            self._wake.wait(pause)

    def _due(self) -> Iterator[Any]:
        """Yield the due reports, each to one process only."""

        def take(db: Transaction) -> Any | None:
            now = time.time()
            row: Any | None = db.execute(
                f"{_DUE} LIMIT 1{self._database.for_update}", [now]
            ).fetchone()
            if row is not None:
                db.execute("UPDATE report SET due = ? WHERE id = ?", [now + _LEASE, row["id"]])
            return row

        while not self._stopped and self._is_any_due() and (row := self._database.write(take)):
            yield row

    def _is_any_due(self) -> bool:
        return bool(self._database.rows("SELECT 1 FROM report WHERE due <= ?", [time.time()]))

    def _pause(self) -> float | None:
        """Return the seconds until the next report is due, or None if none is waiting."""
        ((due,),) = self._database.rows("SELECT min(due) FROM report")
        return None if due is None else min(max(0.1, due - time.time()), _LEASE)

    def _report(self, row: Any) -> None:
        """Send the report; if that fails, retry later, for several days."""
        references = [(one[0], one[1]) for one in json.loads(row["refs"])]
        try:
            kind, information = self.outcome(row["calling_ae"], row["transaction_uid"], references)
            information["RetrieveAETitle"] = row["called_ae"]
            with self._app.connect(row["calling_ae"], calling_ae=row["called_ae"]) as client:
                client.n_event_report(
                    "StorageCommitment", "StorageCommitmentPushModel", kind, information
                )
        except (PacsrouteError, OSError) as error:
            age = time.time() - row["begun"]
            wait = next((one for one in _WAITS if age < 2 * one), _WAITS[-1])
            if age < _DAYS:
                again = "UPDATE report SET due = ? WHERE id = ?"
                self._change(again, [time.time() + wait, row["id"]])
                logger.warning("%s: no report yet, again in %d s: %s", row[1], wait, error)
                return
            logger.error("%s: no report, given up: %s", row["calling_ae"], error)
        self._change("DELETE FROM report WHERE id = ?", [row["id"]])

    def _change(self, sql: str, parameters: list[Any]) -> None:
        self._database.write(lambda db: db.execute(sql, parameters))


_DUE = "SELECT * FROM report WHERE due <= ? ORDER BY due"
_COLUMNS = "calling_ae, called_ae, transaction_uid, refs, due, begun"
_REFUSED = "SELECT 1 FROM quarantine WHERE SOPInstanceUID = ? AND calling_ae = ?"
_FOUND = "SELECT SOPClassUID, SOPInstanceUID AS uid, path FROM image WHERE SOPInstanceUID = ?"


def _references(asked: Dataset) -> list[Reference]:
    """Return the requested references, each once."""
    names = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
    found = (
        tuple(str(item.get(name) or "") for name in names) for item in asked.ReferencedSOPSequence
    )
    return [(sop_class, uid) for sop_class, uid in dict.fromkeys(found)]


def _title(request: NActionRequest) -> str:
    """Return the AE title for retrievals."""
    app = request.app
    return request.called_ae if request.called_ae in app.titles else str(app.ae_title)


def _item(reference: Reference) -> dict[str, Any]:
    return {"ReferencedSOPClassUID": reference[0], "ReferencedSOPInstanceUID": reference[1]}


def _failed(reference: Reference, reason: int) -> dict[str, Any]:
    return _item(reference) | {"FailureReason": reason}


def _information(
    transaction: str, kept: list[dict[str, Any]], failed: list[dict[str, Any]]
) -> dict[str, Any]:
    information: dict[str, Any] = {"TransactionUID": transaction}
    if kept:
        information["ReferencedSOPSequence"] = kept
    if failed:
        information["FailedSOPSequence"] = failed
    return information
