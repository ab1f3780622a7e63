"""`Archive`: the blueprint, and the methods that an app's own handlers can call."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pacsroute import uids
from pacsroute.archive import audited, corrections, queries
from pacsroute.archive.bucket import Bucket
from pacsroute.archive.commitment import NO_SUCH_INSTANCE, Commitment
from pacsroute.archive.corrections import Corrected, Correction
from pacsroute.archive.database import Database, UnavailableError
from pacsroute.archive.decisions import Decisions
from pacsroute.archive.deletion import Deletion, duration
from pacsroute.archive.entry import Entry, describe
from pacsroute.archive.files import Files
from pacsroute.archive.following import Following
from pacsroute.archive.journal import Journal, Lines, Notes
from pacsroute.archive.keeper import Keeper
from pacsroute.archive.layout import Layout
from pacsroute.archive.model import LEVELS, Model
from pacsroute.archive.room import Room
from pacsroute.archive.settings import (
    Issuers,
    check_choice,
    check_layout,
    consideration,
)
from pacsroute.archive.sqlite import SQLite
from pacsroute.archive.storing import Conflict, Mismatch, Storing
from pacsroute.archive.upkeep import Finding, Upkeep
from pacsroute.archive.values import Values, of_dataset, of_instance
from pacsroute.audit.event import SERIOUS
from pacsroute.config import Config
from pacsroute.errors import Failure, SetupError
from pacsroute.framework.blueprints import Blueprint
from pacsroute.framework.character_sets import default_charset
from pacsroute.framework.checks import check_callable
from pacsroute.framework.requests import FindRequest, GetRequest, NActionRequest, StoreRequest
from pacsroute.instances.atomic_files import make_folder, sweep
from pacsroute.instances.instance import Instance
from pacsroute.instances.stored import Storage
from pacsroute.status import CANCEL, IDENTIFIER_MISMATCH, OUT_OF_RESOURCES, Status
from pacsroute.storage import Objects

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacsroute.audit.event import Kind, Subject

logger = logging.getLogger("pacsroute")
F = TypeVar("F", bound=Callable[..., Any])

_ISSUED = "SELECT issuer FROM issued WHERE StudyInstanceUID = ?"
_NO_MATCHES = 0xA701  # refused: out of resources, unable to calculate the number of matches


class Archive(Blueprint):
    """An archive: it stores instances, answers queries, sends instances and commits to them.

    Registered with an app, it answers C-STORE of every storage class, C-FIND, C-GET and C-MOVE
    of Patient Root and Study Root at all levels, and storage commitment (PS3.4 §B, §C, §J). A route
    of the app that covers a request replaces the archive's, and may use the archive's methods.

    Parameters
    ----------
    where : path, str or Storage
        The folder of the files and the index, created at the first start; or a bucket, such as
        ``s3://bucket/prefix``, with the extra ``s3``; or a storage of `pacsroute.storage`.
    index : str or path, optional
        Another place for the index: an SQLite file, or ``postgresql://user@host/database``, with
        the extra ``postgres``. With PostgreSQL, several machines may serve a shared folder or a
        bucket. By default, the index of a bucket is a file in a folder named after the archive.
    name : str
        The archive's name in lists and messages.
    layout : str
        The folders of the files in a folder, such as ``{PatientID}/{StudyInstanceUID}``. Values are
        made safe for file systems; a Patient ID includes its issuer.
    keys : mapping of str to iterable of str
        More attributes to match and return, by level. If the archive has files already, it reads
        all of them at its next start.
    conflict : {"refuse", "replace", "keep-both"}
        How to treat different content with a known SOP Instance UID: refuse it and keep it in
        quarantine, replace the other within the same patient and study, or keep both. Equal
        content, in any transfer syntax, is answered with Success and changes nothing.
    mismatch : {"quarantine", "refuse", "accept"}
        How to treat an instance whose patient differs from its study's patient.
    default_issuer : str or mapping of str to str
        The Issuer of Patient ID of instances without one: one for all, or one for each rule as in
        the setting `allow`, such as ``{"CT1": "NORTH", "10.2.0.0/16": "SOUTH"}``.
    min_free : str or int
        The free space below which stores are refused with 0xA700: ``5%`` of the file system, or
        bytes. Other requests are still answered. With a bucket, this applies to the index file.
    retain : timedelta or str, optional
        How long a study cannot be deleted after its last instance arrived: ``10y``, ``6m``, ``2w``
        or ``30d``.

    Raises
    ------
    SetupError
        If a value is not valid.

    Examples
    --------
    >>> from pacsroute import App
    >>> app = App("ARCHIVE")
    >>> app.register_blueprint(Archive("archive"))
    >>> len(app.routes)
    6
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | Storage,
        *,
        index: str | os.PathLike[str] = "",
        name: str = "archive",
        layout: str = "",
        keys: Mapping[str, Iterable[str]] | None = None,
        conflict: Conflict = "refuse",
        mismatch: Mismatch = "quarantine",
        default_issuer: str | Mapping[str, str] = "",
        min_free: str | int = "5%",
        retain: timedelta | str | None = None,
    ) -> None:
        super().__init__(name)
        self.folder, storage = _place(where, name)
        self.where: object = storage or self.folder
        self._model = Model(keys)
        self._layout = Layout(layout)
        check_layout(self._layout, self._model)
        check_choice("conflict", conflict, get_args(Conflict))
        check_choice("mismatch", mismatch, get_args(Mismatch))
        self._issuers = Issuers(default_issuer)
        self._acceptor: Callable[[StoreRequest, Dataset], object] | None = None
        self._on_stored: Callable[[StoreRequest | Instance, Instance], object] | None = None
        self._app: Any = None  # once it runs
        self._any_patient = mismatch == "accept"

        # Create nothing here: some commands import an app only to inspect it.
        self._database = self._index(index)
        self._has_folder = storage is None or isinstance(self._database, SQLite)
        if storage is not None and index and self._has_folder:
            self.folder = Path(index).parent
        self._room = Room(name, self.folder if self._has_folder else None, min_free)
        self._files: Keeper
        journal: Journal
        if storage is None:
            self._files, journal = Files(self.folder, self._layout, self._flush), Lines(self.folder)
        else:
            self._files, journal = Bucket(storage, self._database), Notes(storage)
            if layout:
                raise SetupError("layout= applies to folders only: objects have keys of their own")
        decisions = Decisions(journal, self._database)
        self._storing = Storing(self._files, self._database, decisions, conflict, mismatch)
        self._decisions = decisions
        self._deletion = Deletion(self._database, decisions, self._storing, duration(retain))
        self._commitment = Commitment(self._files, self._database)
        self._upkeep = Upkeep(
            self._model,
            self._files,
            self._database,
            decisions,
            self._storing,
            self._entry_of_file,
            self._any_patient,
        )
        self._opened = 0
        self._opening = threading.Lock()
        self._add_defaults()
        self.considerations.append(consideration(name, conflict, mismatch))

    def _index(self, where: str | os.PathLike[str]) -> Database:
        if not str(where).startswith(("postgresql://", "postgres://")):
            return SQLite(Path(where) if where else self.folder / "index.db")
        try:
            from pacsroute.archive.postgresql import PostgreSQL  # noqa: PLC0415 - of an extra
        except ModuleNotFoundError:
            raise SetupError(
                "an index in PostgreSQL needs psycopg: pip install 'pacsroute[postgres]'"
            ) from None
        return PostgreSQL(str(where), self._model)

    def _add_defaults(self) -> None:
        self.store(self.answer_store)
        self.find("StudyRoot")(self.answer_find)
        self.find("PatientRoot")(self.answer_find)
        self.get(self.answer_retrieve)
        self.move(self.answer_retrieve)
        self.n_action("StorageCommitment", action_type=1)(self.answer_commitment)
        self.routes = [replace(route, default=True) for route in self.routes]
        self.lifespan(self._lifespan)
        self.ready(self._why_not_ready)
        self.gauges.append(self._room.gauges)

    # ------------------------------------------------------------- hooks and parts

    def accept(self, function: F) -> F:
        """Register a check that runs before an instance is stored.

        Parameters
        ----------
        function : callable
            Called with the request and its data set; it raises a `Failure` to refuse it.

        Examples
        --------
        >>> from pacsroute import Failure
        >>> archive = Archive("archive")
        >>> @archive.accept
        ... def only_images(request, dataset):
        ...     if "PixelData" not in dataset:
        ...         raise Failure(0xA900, "only images are kept here")
        """
        check_callable("accept", function, ("request", "dataset"))
        self._still_open("accept")
        self._acceptor = function
        return function

    def stored(self, function: F) -> F:
        """Register a function that queues jobs for each stored instance.

        If queue and index share a PostgreSQL database, the jobs are queued in the transaction
        that writes the instance's row: both are committed, or neither. Otherwise the function is
        called after the row is written, before Success, and again if the instance is resent.

        Parameters
        ----------
        function : callable
            Called with the request, or whatever was passed to `add`, and the instance in the
            archive; it may call `App.forward` and a job's `later`. It may run more than once.

        Examples
        --------
        >>> from pacsroute import App
        >>> app, archive = App("ARCHIVE"), Archive("archive")
        >>> @archive.stored
        ... def forward(request, instance):
        ...     app.forward(instance, to="RESEARCH")
        """
        check_callable("stored", function, ("request", "instance"))
        self._still_open("stored")
        self._on_stored = function
        return function

    def _following(self, what: StoreRequest | Instance, study: str) -> Following | None:
        """Return the function that queues jobs for an instance, corrections included."""
        if (function := self._on_stored) is None:
            return None

        def follow(instance: Instance) -> None:
            corrected = corrections.of_studies(self._database, [study]).get(study)
            function(what, Corrected(instance, corrected, self.name) if corrected else instance)

        return Following(follow, self._app.work, self._database.url)

    def add(self, what: StoreRequest | Instance) -> Status | None:
        """Store an instance: first write the file to the disk, then the row to the index.

        Parameters
        ----------
        what : StoreRequest or Instance
            The request, or an instance that the app created.

        Returns
        -------
        Status or None
            A warning for the handler to return, if the instance is kept in quarantine.

        Raises
        ------
        Failure
            If the instance is refused; with 0xA700 if files or index are not available.
        """
        self._check_open()
        self._room.check()
        instance = what if isinstance(what, Instance) else what.instance
        calling_ae = address = ""
        if isinstance(what, StoreRequest):
            calling_ae, address = what.calling_ae, what.remote_address
            if self._acceptor is not None:
                self._acceptor(what, instance.dataset)
        values = of_instance(self._model, instance)
        issuer = self._issuers.of(calling_ae, address)
        entry = self._described(values, instance.transfer_syntax, calling_ae, issuer)
        entry.image["SOPClassUID"] = entry.image["SOPClassUID"] or instance.sop_class
        told = entry.image["SOPClassUID"], entry.sop_instance
        if told != (instance.sop_class, instance.sop_instance):
            raise Failure(IDENTIFIER_MISMATCH, "the data set belongs to another instance")
        by_address = self._issuers.is_by_address(calling_ae, address)
        if isinstance(what, StoreRequest):  # its transport tells the audit functions
            return self._put(what, instance, entry, issuer if by_address else "")
        with self._audited("store", None, "", (audited.subject_of_entry(entry),)):
            return self._put(what, instance, entry, issuer if by_address else "")

    def _put(
        self, what: StoreRequest | Instance, instance: Instance, entry: Entry, issuer: str
    ) -> Status | None:
        """Store an instance; `issuer` is derived from its network and is in no file."""
        try:
            if issuer:
                self._remember_issuer(entry.study_instance, issuer)
            return self._storing.add(instance, entry, self._following(what, entry.study_instance))
        except (UnavailableError, OSError) as error:
            logger.error("%s cannot be stored: %s", instance.sop_instance, error)
            raise Failure(OUT_OF_RESOURCES, "the archive is not available") from None

    def find(self, *args: Any, **options: Any) -> Any:
        """Register a handler of C-FIND, or return the answers to a `FindRequest`.

        With a request, it returns the rows, newest study first. Rows are read in pages, so no
        index lock is held while they are sent, and the query ends when the peer cancels.
        `request.limit` and `request.offset` are applied.

        Raises
        ------
        Failure
            With 0xA900 for a level that the model does not have, and 0xA700 if the index is not
            available.
        """
        if len(args) == 1 and isinstance(args[0], FindRequest):
            return self._rows(args[0])
        return super().find(*args, **options)

    def _rows(self, request: FindRequest) -> Iterator[dict[str, Any]]:
        self._check_open()
        query = queries.Query(self._model, self._database, request.identifier, self._level(request))
        request.paged, request.total = True, query.count
        try:
            yield from query.rows(
                limit=request.limit,
                offset=request.offset,
                stop=lambda: request.cancelled,
            )
        except UnavailableError as error:
            if not request.cancelled:
                logger.error("the index: %s", error)
                raise Failure(OUT_OF_RESOURCES, "the index is not available") from None

    def instances(self, request: GetRequest) -> list[Instance]:
        """Return the instances of a C-GET or C-MOVE.

        Raises
        ------
        Failure
            With 0xA900 for a level that the model does not have, and for a Patient ID that several
            issuers use; with 0xA701 if the index is not available.
        """
        self._check_open()
        level = self._level(request)
        try:
            rows = queries.instances(
                self._database, request.identifier, level, lambda: request.cancelled
            )
        except UnavailableError as error:
            if request.cancelled:
                raise Failure(CANCEL) from None
            logger.error("the index: %s", error)
            raise Failure(_NO_MATCHES, "the index is not available") from None
        if level == "PATIENT":
            _check_issuers(request.identifier, {row["patient"] for row in rows})
        if request.app is not None and request.app.auditors:
            request.subjects = audited.subjects_of(self._database, rows)
        studies = dict.fromkeys(row["StudyInstanceUID"] for row in rows)
        corrected = corrections.of_studies(self._database, studies)
        found = [self._instance(row, corrected.get(row["StudyInstanceUID"])) for row in rows]
        return self._files.ahead(found)

    def _instance(self, row: Any, corrected: list[Correction] | None) -> Instance:
        instance = self._files.instance(
            row["path"],
            sop_class=row["SOPClassUID"],
            sop_instance=row["SOPInstanceUID"],
            transfer_syntax=row["transfer_syntax"],
        )
        return Corrected(instance, corrected, self.name) if corrected else instance

    def matching(
        self, identifier: Dataset, level: str = "STUDY", *, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of the index that match an identifier, as `find` does.

        Parameters
        ----------
        identifier : pydicom.Dataset
            The keys to match and to return.
        level : {"PATIENT", "STUDY", "SERIES", "IMAGE"}
            The level of the rows.
        limit : int, optional
            The maximum number of rows.
        """
        self._check_registered()
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
        with self.opened():
            query = queries.Query(self._model, self._database, identifier, level)
            yield from query.rows(limit=limit)

    def count(self) -> int:
        """Return the number of instances in the index."""
        self._check_registered()
        with self.opened():
            ((number,),) = self._database.rows("SELECT count(*) FROM image")
        return int(number)

    def delete(
        self,
        *,
        study: str = "",
        series: str = "",
        instance: str = "",
        reason: str,
        by: str,
    ) -> int:
        """Delete a study, a series or an instance; return the number of instances.

        Storing them again fails from then on, until `restore`.

        Parameters
        ----------
        study, series, instance : str
            One of these UIDs. Name a series with its study if its UID occurs in several.
        reason, by : str
            The reason, and the user who decided.

        Raises
        ------
        Failure
            With 0x0124 if the study is held, and 0x0112 if the UID is unknown.
        """
        self._check_registered()
        with self.opened():
            found = self._deletion.find(study, series, instance)
            subjects = audited.subjects_of(self._database, found)
            part = f"instance {instance}" if instance else f"series {series}" if series else ""
            with self._audited("deletion", by, reason, subjects, part):
                return self._deletion.delete(found, reason, by)

    def restore(
        self, *, study: str = "", series: str = "", instance: str = "", reason: str, by: str
    ) -> int:
        """Allow deleted instances to be stored again; return how many."""
        self._check_registered()
        with self.opened():
            return self._deletion.restore(study, series, instance, reason, by)

    def hold(self, study: str, *, reason: str, by: str) -> None:
        """Protect a study from deletion until `release`."""
        self._check_registered()
        with self.opened():
            self._deletion.hold(study, reason, by)

    def release(self, study: str, *, reason: str, by: str) -> None:
        """Release a study protected by `hold`."""
        self._check_registered()
        with self.opened():
            self._deletion.release(study, reason, by)

    def correct(self, study: str, *, reason: str, by: str, **values: str) -> None:
        """Correct attributes of a study and its patient.

        Query results and sent instances have the corrected values, with the old ones in the
        Original Attributes Sequence. The files are not changed.

        Parameters
        ----------
        study : str
            The Study Instance UID.
        reason, by : str
            The reason, and the user who decided.
        **values : str
            The values by keyword, such as ``PatientID="777"``; an empty value removes the old one.

        Raises
        ------
        Failure
            With 0x0112 if there is no such study.
        ValueError
            For an attribute of a study or patient that the index does not have.
        """
        self._check_registered()
        corrections.check_values(self._model, values)
        with self.opened():
            row = self._database.rows("SELECT * FROM study WHERE StudyInstanceUID = ?", [study])
            if not row:
                raise Failure(NO_SUCH_INSTANCE, "no study here has this UID")
            before = {keyword: row[0][keyword] for keyword in values}
            subjects = (audited.subject_of(self._database, study, {}),)
            with self._audited("correction", by, reason, subjects):
                self._decisions.decide(
                    "correct", by, reason, study=study, values=values, originals=before
                )

    def check(self, progress: Callable[[int], object] | None = None) -> Iterator[Finding]:
        """Yield differences between files and index, and the files in quarantine.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of files checked so far.
        """
        self._check_registered()
        with self.opened():
            yield from self._upkeep.check(progress)

    def reindex(
        self, since: datetime | None = None, progress: Callable[[int], object] | None = None
    ) -> int:
        """Add files that are not in the index; return how many.

        Parameters
        ----------
        since : datetime, optional
            Only add files written since then. By default, rows without a file are also removed.
        progress : callable, optional
            Called with the number of files examined so far; files to add count twice, because
            they are also read.
        """
        self._check_registered()
        with self.opened(), self._files.locked("reindex.lock"):
            return self._upkeep.reindex(since, progress)

    @contextlib.contextmanager
    def _audited(
        self, kind: Kind, by: str | None, reason: str, subjects: tuple[Subject, ...], part: str = ""
    ) -> Iterator[None]:
        """Send an audit event for an action without a request, done or refused."""
        count = sum(sum(one.sop_classes.values()) for one in subjects)
        told: dict[str, Any] = {"user": by, "subjects": subjects, "count": count, "what": part}
        try:
            yield
        except Exception as error:
            why = error.comment if isinstance(error, Failure) else type(error).__name__
            self.tell_auditors(kind, outcome=SERIOUS, why=why, **told)
            raise
        self.tell_auditors(kind, why=reason, **told)

    # ------------------------------------------------------------- routes

    def answer_store(self, request: StoreRequest) -> Status | None:
        """Answer a C-STORE."""
        return self.add(request)

    def answer_find(self, request: FindRequest) -> Iterator[dict[str, Any]]:
        """Answer a C-FIND."""
        return self._rows(request)

    def answer_retrieve(self, request: GetRequest) -> list[Instance]:
        """Answer a C-GET or C-MOVE."""
        return self.instances(request)

    def answer_commitment(self, request: NActionRequest) -> None:
        """Answer a request for storage commitment."""
        self._check_open()
        self._commitment.answer(request)

    # ------------------------------------------------------------- opening and closing

    def _lifespan(self, app: Any) -> Iterator[None]:
        if app.config.spool is None and isinstance(self._files, Files):  # saving is a rename then
            app.config.spool = os.fspath(self.folder / ".spool")
            sweep(app.config.spool)
        with self.opened():
            self._app, self._storing.observer = app, app.observer
            self._commitment.start(app)
            try:
                yield
            finally:
                self._commitment.stop()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the archive open while its app runs."""
        with self._opening:
            if not self._opened:
                if self._has_folder:
                    make_folder(os.fspath(self.folder))
                with self._files.locked("lock"):  # one worker recovers, the others wait
                    self._upkeep.start()
                self._files.open()
            self._opened += 1
        try:
            yield
        finally:
            with self._opening:
                self._opened -= 1
                if not self._opened:
                    self._files.close()
                    self._database.close()

    def _flush(self) -> None:
        counted = "UPDATE fact SET value = value || '' WHERE name = 'flushed'"
        self._database.write(lambda db: db.execute(counted), flush=True)

    def _check_registered(self) -> None:
        if not self.is_registered:
            raise SetupError(
                f"the archive {self.name!r} is not registered: app.register_blueprint(archive)"
            )

    def _check_open(self) -> None:
        self._check_registered()
        if not self._opened:
            raise SetupError(f"the archive {self.name!r} is not open: use it within app.running()")

    # ------------------------------------------------------------- within a request

    def _level(self, request: FindRequest | GetRequest) -> str:
        study_root = request.sop_class in _STUDY_ROOT
        if not request.level or (request.level == "PATIENT" and study_root):
            level = request.identifier.get("QueryRetrieveLevel")
            known = "is not supported" if level else "is missing"
            raise Failure(IDENTIFIER_MISMATCH, f"this Query/Retrieve Level {known}")
        return request.level

    def _described(self, values: Values, syntax: str, calling_ae: str, issuer: str) -> Entry:
        return describe(
            self._model,
            values,
            transfer_syntax=syntax,
            calling_ae=calling_ae,
            received=0,
            default_issuer=issuer,
        )

    def _remember_issuer(self, study: str, issuer: str) -> None:
        """Record decisions that no file contains, once for each study."""
        if not self._database.rows(_ISSUED, [study]):
            self._decisions.decide("issue", by="", reason="network", study=study, issuer=issuer)

    def _entry_of_file(self, name: str) -> Entry:
        """Return the entry of a file, with the data of its head and its date."""
        instance, sender = self._files.instance(name), self._files.sender(name)
        if sender:
            charset = default_charset(self._config, sender)
            instance.limits = instance.limits._replace(charset=charset)
        dataset = instance.dataset
        told = self._database.rows(_ISSUED, [str(dataset.get("StudyInstanceUID") or "")])
        issuer = told[0][0] if told else self._issuers.of(sender, "")
        values = of_dataset(self._model, dataset)
        entry = self._described(values, instance.transfer_syntax, sender, issuer)
        entry.image["SOPClassUID"] = entry.image["SOPClassUID"] or instance.sop_class
        entry.received = self._files.received(name)
        return entry

    @property
    def _config(self) -> Config:
        """The settings of the app that it is registered with."""
        scope: Any = self
        while isinstance(scope, Blueprint):
            scope = scope.parent
        config: Config = scope.config
        return config

    def _why_not_ready(self, app: Any) -> str | None:
        """Return why stores would be refused, for a load balancer."""
        return self._room.why_not()


def _place(where: str | os.PathLike[str] | Storage, name: str) -> tuple[Path, Storage | None]:
    """Return the folder on this machine, and the storage if it holds the files."""
    if isinstance(where, str) and _URL.match(where):
        return Path(name), Objects(where)
    if isinstance(where, (str, os.PathLike)):
        return Path(where), None
    if isinstance(where, Storage):
        return Path(name), where
    raise SetupError(f"an Archive needs a folder or a bucket, not {where!r:.40}")


_URL = re.compile(r"[a-z][a-z0-9]*://")
_STUDY_ROOT = frozenset(uids.QUERY_RETRIEVE[one]["StudyRoot"] for one in ("find", "get", "move"))


def _check_issuers(identifier: Dataset, patients: set[str]) -> None:
    """Refuse a retrieval by a Patient ID shared by several patients (IHE: several issuers)."""
    if identifier.get("IssuerOfPatientID"):
        return
    asked = [patient.split("\\")[0] for patient in patients]
    if len(asked) > len(set(asked)):
        raise Failure(
            IDENTIFIER_MISMATCH,
            "several issuers of this ID: IssuerOfPatientID is required",
        )
