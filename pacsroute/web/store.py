"""STOW-RS storage of instances (PS3.18 §10.5, Annex I)."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.wrappers import Response

from pacsroute import uids
from pacsroute.errors import DataSetTooLarge
from pacsroute.framework.requests import StoreRequest
from pacsroute.framework.results import Outcome
from pacsroute.instances.incoming import Incoming
from pacsroute.instances.instance import Instance
from pacsroute.instances.spool import Spool, spool_for
from pacsroute.status import (
    IDENTIFIER_MISMATCH,
    INVALID_SOP_INSTANCE,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    UNABLE_TO_PROCESS,
    Status,
)
from pacsroute.web.exchange import Delivery, Exchange
from pacsroute.web.models import Made, Models
from pacsroute.web.parts import receive
from pacsroute.web.statuses import RETRY_AFTER, Failed
from pacsroute.web.xml_model import XML

logger = logging.getLogger("pacsroute")

_DICOM, _JSON = "application/dicom", "application/dicom+json"
_NO_TRANSFER_SYNTAX = 0xC122
_URL = "00081190"
_PIECE = 1 << 18
_OPEN = 32  # most answers, with their files, kept until the response; a body may have thousands
_WAITING = 1000  # most `request.after` functions kept until then; they may hold files as well


class _Result(NamedTuple):
    """The result for an instance."""

    outcome: Outcome
    sop_class: str = ""
    sop_instance: str = ""
    study: str = ""
    series: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the handler stored it."""
        return self.outcome.status.category in ("Success", "Warning")


def answer(exchange: Exchange, **unique: str) -> Response:
    """Answer a request to store instances, handling each one as it arrives.

    Parameters
    ----------
    exchange : Exchange
        The request.
    **unique : str
        ``StudyInstanceUID``, if the path names the study of all instances.
    """
    kind, _ = exchange.model_type
    content_type = exchange.http.headers.get("Content-Type", "")
    storing = _Storing(exchange, unique.get("StudyInstanceUID", ""))
    try:
        with _under_way(exchange):
            _receive(exchange, content_type, storing)
            storing.finish()
    except BaseException as error:
        _All(storing.answerings).__exit__(type(error), error, None)
        raise
    finally:
        storing.close()
    return _response(exchange, storing, kind, unique.get("StudyInstanceUID", ""))


@contextlib.contextmanager
def _under_way(exchange: Exchange) -> Iterator[None]:
    """Keep `@app.quiet` periods open while the body may contain more of a series."""
    if not exchange.app.declared.quiet:
        yield
        return
    exchange.app.work.receiving(exchange.caller)
    try:
        yield
    finally:
        exchange.app.work.answered(exchange.caller)


def _receive(exchange: Exchange, content_type: str, storing: _Storing) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (_DICOM, _JSON, XML):  # these may also come without multipart
        receive(exchange.body, content_type, storing, exchange.app.config.max_web_parts)
        return
    body = exchange.body
    storing.begin({"content-type": kind})
    while piece := body.read(_PIECE):
        storing.data(memoryview(piece))
    if exchange.length is not None and storing.size != exchange.length:
        raise BadRequest("the body is cut off")
    storing.end()


def _is(content_type: str, kind: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == kind


def _spool_of(exchange: Exchange, sop_class: str, head: bytes) -> Spool:
    """Return a spool in the folder where the handler of a class saved instances."""
    app, caller = exchange.app, exchange.caller
    route = sop_class and app.route("store", sop_class, caller.calling_ae, caller.called_ae)
    return spool_for(head, app.config, app.room, route.place if route else None)


class _Storing:
    """Receives the parts of a body, and calls the handler to store each instance."""

    def __init__(self, exchange: Exchange, study: str) -> None:
        self._exchange = exchange
        self._study = study
        self._incoming: Incoming | None = None
        config = exchange.app.config
        caller = exchange.caller
        self._titles = {
            "writer": exchange.app.ae_title,
            "sender": caller.calling_ae,
            "receiver": caller.called_ae,
        }
        self._models = Models(
            functools.partial(_spool_of, exchange),
            self._titles,
            exchange.limits,
            config.max_set_length,
            config.max_web_parts,
        )
        self.results: list[_Result] = []
        self.answerings: list[Any] = []
        self.size = 0

    def close(self) -> None:
        """Release everything except the results."""
        self._incoming = None  # breaks a reference cycle
        self._models.close()

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a part."""
        content_type = headers.get("content-type", _DICOM)
        self._incoming = None
        if _is(content_type, _DICOM):
            self._incoming = Incoming(self._open_spool, **self._titles)
        elif _is(content_type, _JSON) or _is(content_type, XML):
            self._models.begin_model(XML if _is(content_type, XML) else _JSON)
        elif headers.get("content-location"):
            self._models.begin_bulk_data(headers["content-location"], content_type)
        else:
            raise UnsupportedMediaType(
                f"parts must be {_DICOM}, or {_JSON} or {XML} and bulk data with a Content-Location"
            )

    def _open_spool(self, head: bytes) -> Spool:
        sop_class = "" if self._incoming is None else self._incoming.sop_class
        return _spool_of(self._exchange, sop_class, head)

    def data(self, piece: memoryview) -> None:
        """Add data to the part."""
        self.size += len(piece)
        if self._incoming is not None:
            self._incoming.data(piece)
        else:
            with _refused():
                self._models.data(piece)

    def end(self) -> None:
        """Store the instance, which is complete now."""
        incoming = self._incoming
        if incoming is not None:
            incoming.end()
            self._incoming = None
            self._store_file(incoming)
        else:
            with _refused():
                self._models.end()

    def finish(self) -> None:
        """Store the instances received as metadata and bulk data, after the last part."""
        for made in self._models:
            if made.error is None:
                self._store_file(made)
                continue
            logger.warning("STOW-RS: metadata that are not an instance: %s", made.error)
            too_large = isinstance(made.error, DataSetTooLarge)
            code = OUT_OF_RESOURCES if too_large else UNABLE_TO_PROCESS
            self._refuse(made, Status(code, str(made.error)))
        if not self.results:
            raise BadRequest("there is no instance in the body")

    def _refuse(self, incoming: Incoming | Made, why: Status) -> None:
        named = incoming.sop_class, incoming.sop_instance
        self.results.append(_Result(Outcome(why), *(named if all(map(uids.is_uid, named)) else ())))

    def _store_file(self, incoming: Incoming | Made) -> None:
        spool = incoming.spool
        why = None
        if spool is None or not spool.size or not incoming.sop_instance:
            why = Status(UNABLE_TO_PROCESS, "not a Part 10 file")
        elif not uids.is_uid(incoming.sop_instance):
            why = Status(INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID")
        elif spool.error is not None:
            logger.error("spooling an instance failed: %s", spool.error)
            why = Status(OUT_OF_RESOURCES, "the data set could not be kept")
        elif not incoming.transfer_syntax:
            why = Status(_NO_TRANSFER_SYNTAX, "it names no transfer syntax")
        if why is not None or spool is None:
            self._refuse(incoming, why or Status(UNABLE_TO_PROCESS))
            return
        instance = Instance(
            spool,
            sop_class=incoming.sop_class,
            sop_instance=incoming.sop_instance,
            transfer_syntax=incoming.transfer_syntax,
            limits=self._exchange.limits,
        )
        self._handle(instance, spool.size)

    def _handle(self, instance: Instance, size: int | None) -> None:
        """Call the handler for an instance, with the hooks of a C-STORE."""
        exchange = self._exchange
        request = exchange.make(StoreRequest, instance=instance)
        request.route = exchange.app.find_route(request)
        answering = exchange.answering("STOW-RS", request, size=size)
        self.answerings.append(answering)
        study, series = _of(instance)
        if request.route is None:
            answering.outcome = Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
        elif self._study and study != self._study:
            answering.outcome = Outcome(Status(IDENTIFIER_MISMATCH, "it is of another study"))
        else:
            answering.outcome = exchange.app.handle(request)
        result = answering.outcome
        self.results.append(
            _Result(result, instance.sop_class, instance.sop_instance, study, series)
        )
        if len(self.answerings) > _OPEN:
            self._end_first()

    def _end_first(self) -> None:
        """End the answer to the first instance; its `after` functions wait with the next answer."""
        first, following = self.answerings.pop(0), self.answerings[0].request
        functions = first.request.followers or []
        if len(functions) < _WAITING:
            following.followers = [*functions, *(following.followers or [])] or None
            first.request.followers = None
        first.__exit__(None, None, None)


def _of(instance: Instance) -> tuple[str, str]:
    """Return the study and series UIDs of an instance; empty if they cannot be read."""
    try:
        dataset = instance.dataset
        return str(dataset.get("StudyInstanceUID") or ""), str(
            dataset.get("SeriesInstanceUID") or ""
        )
    except Exception:  # noqa: BLE001 - the handler decides what to do with such a data set
        return "", ""


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Refuse the request if the process runs out of memory for it."""
    try:
        yield
    except DataSetTooLarge as error:
        logger.warning("STOW-RS: %s", error)
        raise Failed(Outcome(Status(OUT_OF_RESOURCES, str(error)))) from None


# ------------------------------------------------------------- the response


def _response(exchange: Exchange, storing: _Storing, kind: str, study: str) -> Response:
    """Return the Store Instances Response Module (PS3.18 Annex I)."""
    results = storing.results
    good = [one for one in results if one.is_stored]
    bad = [one for one in results if not one.is_stored]
    model: dict[str, Any] = {_URL: {"vr": "UR"}}  # empty if there are several studies
    studies = {one.study for one in good if one.study}
    if study or len(studies) == 1:
        model[_URL] = _url(exchange.url("studies", study or studies.pop()))
    if good:
        model["00081199"] = {"vr": "SQ", "Value": [_stored(exchange, one) for one in good]}
    named = [one for one in bad if one.sop_instance]
    if named:
        model["00081198"] = {"vr": "SQ", "Value": [_failed(one) for one in named]}
    if len(named) < len(bad):
        others = [_reason(one) for one in bad if not one.sop_instance]
        model["0008119A"] = {"vr": "SQ", "Value": others}
    status = _status(good, bad)
    body = exchange.written(model)
    response = Response(status=status, content_type=kind)
    response.headers["Content-Length"] = str(len(body))
    response.response = Delivery([body], _All(storing.answerings))  # type: ignore[arg-type]
    if good and "Value" in model[_URL]:
        response.headers["Content-Location"] = model[_URL]["Value"][0]
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


class _All:
    """The answers to several requests, which end together."""

    def __init__(self, answerings: list[Any]) -> None:
        self._answerings = answerings

    def __exit__(self, *lost: Any) -> None:
        for answering in self._answerings:
            answering.__exit__(*lost)


def _status(good: list[_Result], bad: list[_Result]) -> int:
    if good:
        clean = all(one.outcome.status.category == "Success" for one in good)
        return 200 if clean and not bad else 202
    codes = {one.outcome.status.code for one in bad}
    if codes and all(code & 0xFF00 == 0xA700 for code in codes):
        return 503
    if codes == {NOT_AUTHORIZED}:
        return 403
    return 409


def _url(text: str) -> dict[str, Any]:
    return {"vr": "UR", "Value": [text]}


def _named(result: _Result) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [result.sop_class]},
        "00081155": {"vr": "UI", "Value": [result.sop_instance]},
    }


def _stored(exchange: Exchange, result: _Result) -> dict[str, Any]:
    found = _named(result)
    if result.study and result.series:
        path = "studies", result.study, "series", result.series, "instances", result.sop_instance
        found[_URL] = _url(exchange.url(*path))
    status = result.outcome.status
    if status.category == "Warning":
        found["00081196"] = {"vr": "US", "Value": [status.code]}
    return found


def _reason(result: _Result) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [result.outcome.status.code]}}


def _failed(result: _Result) -> dict[str, Any]:
    return _named(result) | _reason(result)
