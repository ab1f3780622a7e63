"""UPS-RS: unified procedure steps as work items (PS3.18 §11).

There is no event channel: a subscription is taken for AE titles that DIMSE reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from pydicom import Dataset
from pydicom.uid import generate_uid
from werkzeug import exceptions
from werkzeug.exceptions import BadRequest, NotFound, UnsupportedMediaType
from werkzeug.wrappers import Response

from pacsroute import uids, ups
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.json_model import dicom_json, from_dicom_json
from pacsroute.dataset.parsing import identifier
from pacsroute.errors import DataSetError
from pacsroute.framework.requests import (
    NActionRequest,
    NCreateRequest,
    NGetRequest,
    NormalizedRequest,
    NSetRequest,
)
from pacsroute.framework.results import Outcome
from pacsroute.status import NOT_AUTHORIZED, SOP_CLASS_NOT_SUPPORTED
from pacsroute.web.exchange import NOTHING, Delivery, Exchange
from pacsroute.web.statuses import http_status

if TYPE_CHECKING:
    from pacsroute.framework.answering import Answering

_TRANSACTION = "00081195"
_EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN
_STATUSES = {
    **dict.fromkeys((0x0105, 0x0106, 0x0107, 0x0114, 0x0115, 0x0117, 0x0120, 0x0121), 400),
    **dict.fromkeys((0xC303, 0xC309), 400),
    **dict.fromkeys((0x0112, 0xC307, 0xC308), 404),
    **dict.fromkeys((0x0111, 0xC300, 0xC301, 0xC302, 0xC304, 0xC310, 0xC311), 409),
    **dict.fromkeys((0xC312, 0xC313, 0xC314), 409),
    **dict.fromkeys((SOP_CLASS_NOT_SUPPORTED, 0x0123, 0x0211), 501),
}
"""Statuses of the UPS service class as those of HTTP (PS3.4 Annex CC, PS3.18 §11)."""


def create(exchange: Exchange) -> Response:
    """Create a work item: 201, with its Location."""
    arguments = exchange.http.args
    bare = next((name for name in arguments if uids.is_uid(name)), "")
    named = arguments.get("workitem") or bare
    model = _payload(exchange)
    inside = (model.get("00080018", {}).get("Value") or [""])[0]
    uid = named or inside or str(generate_uid(prefix=None))
    request = exchange.make(
        NCreateRequest,
        sop_class=uids.UPS_PUSH,
        sop_instance=_uid(uid),
        attribute_list=_data_set(model),
    )
    outcome, answering = _asked(exchange, "UPS-RS create", request)
    response = _response(exchange, outcome, answering, 201)
    if response.status_code == 201:
        response.headers["Location"] = exchange.url("workitems", uid)
    return response


def retrieve(exchange: Exchange, workitem: str) -> Response:
    """Answer with a work item, without its Transaction UID."""
    _ = exchange.model_type  # refused before the handler is asked
    request = exchange.make(NGetRequest, sop_class=uids.UPS_PUSH, sop_instance=_uid(workitem))
    outcome, answering = _asked(exchange, "UPS-RS retrieve", request)
    if outcome.status.code == NOT_AUTHORIZED:
        answering.__exit__(None, None, None)
        raise NotFound(NOTHING)
    if outcome.status.category == "Failure" or outcome.data is None:
        return _response(exchange, outcome, answering, 200)
    model = dicom_json(encode(outcome.data, _EXPLICIT), _EXPLICIT)
    model.pop(_TRANSACTION, None)
    return exchange.models([exchange.written(model)], answering, is_one=True)


def update(exchange: Exchange, workitem: str) -> Response:
    """Change attributes of a work item."""
    arguments = exchange.http.args
    bare = next((name for name in arguments if uids.is_uid(name)), "")
    model = _payload(exchange)
    transaction = arguments.get("transaction") or bare
    if transaction:
        model[_TRANSACTION] = {"vr": "UI", "Value": [_uid(transaction)]}
    request = exchange.make(
        NSetRequest,
        sop_class=uids.UPS_PUSH,
        sop_instance=_uid(workitem),
        modification_list=_data_set(model),
    )
    return _response(exchange, *_asked(exchange, "UPS-RS update", request), 200)


def change_state(exchange: Exchange, workitem: str) -> Response:
    """Take a work item, complete or cancel it."""
    return _act(exchange, workitem, ups.CHANGE_STATE, _data_set(_payload(exchange)), 200)


def request_cancel(exchange: Exchange, workitem: str) -> Response:
    """Ask whoever performs a work item to cancel it: 202."""
    has_body = bool(exchange.http.content_length)
    information = _data_set(_payload(exchange)) if has_body else Dataset()
    return _act(exchange, workitem, ups.REQUEST_CANCEL, information, 202)


def subscribe(exchange: Exchange, workitem: str, aetitle: str) -> Response:
    """Subscribe an AE title to events, which go there over DIMSE: 201."""
    if exchange.app.resolve(aetitle) is None:
        raise exceptions.NotImplemented(
            "there is no event channel, and nobody knows where that AE title is reached by DIMSE"
        )
    information = _subscription(aetitle)
    lock = exchange.http.args.get("deletionlock", "false").lower() == "true"
    information.DeletionLock = "TRUE" if lock else "FALSE"
    return _act(exchange, workitem, ups.SUBSCRIBE, information, 201)


def unsubscribe(exchange: Exchange, workitem: str, aetitle: str) -> Response:
    """End a subscription."""
    return _act(exchange, workitem, ups.UNSUBSCRIBE, _subscription(aetitle), 200)


def suspend(exchange: Exchange, workitem: str, aetitle: str) -> Response:
    """Suspend a global subscription: of work items to come."""
    return _act(exchange, workitem, ups.SUSPEND, _subscription(aetitle), 200)


def _subscription(aetitle: str) -> Dataset:
    information = Dataset()
    information.ReceivingAE = aetitle
    return information


def _act(
    exchange: Exchange, workitem: str, action_type: int, information: Dataset, success: int
) -> Response:
    request = exchange.make(
        NActionRequest,
        sop_class=uids.UPS_PUSH,
        sop_instance=_uid(workitem),
        action_type=action_type,
        action_information=information,
    )
    return _response(exchange, *_asked(exchange, "UPS-RS action", request), success)


def _asked(exchange: Exchange, name: str, request: NormalizedRequest) -> tuple[Outcome, Answering]:
    """Let the handler answer; return how it went, and what ends with the response."""
    request.abstract_syntax = uids.UPS_PUSH
    answering = exchange.answering(name, request)
    try:
        outcome: Outcome = exchange.app.handle(request)
    except BaseException as error:
        answering.__exit__(type(error), error, None)
        raise
    answering.outcome = outcome
    return outcome, answering


def _response(exchange: Exchange, outcome: Outcome, answering: Answering, success: int) -> Response:
    """Return a response without a data set."""
    status = outcome.status
    failed = status.category == "Failure"
    code = (_STATUSES.get(status.code) or http_status(status)) if failed else success
    text = f"{status.comment or status.name} (0x{status.code:04X})\n" if failed else ""
    body = text.encode("utf-8", "replace")
    response = Response(status=code, content_type="text/plain; charset=utf-8")
    response.headers["Content-Length"] = str(len(body))
    response.response = Delivery([body] if body else [], answering)
    if status.category == "Warning":
        title = exchange.app.ae_title.replace(" ", "_")
        response.headers["Warning"] = f'299 {title} "{status.name} (0x{status.code:04X})"'
    return response


def _payload(exchange: Exchange) -> dict[str, Any]:
    """Return the data set in the body of a request."""
    http, most = exchange.http, exchange.app.config.max_identifier_length
    kind = http.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in ("application/dicom+json", "application/json"):
        raise UnsupportedMediaType("the body is application/dicom+json")
    data = http.stream.read(most + 1)
    if len(data) > most:
        raise BadRequest(f"a body of more than {most} bytes: max_identifier_length")
    if http.content_length is not None and len(data) != http.content_length:
        raise BadRequest("the body is cut off")
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadRequest("the body is not JSON") from None
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise BadRequest("the body is one data set")
    return found


def _data_set(model: dict[str, Any]) -> Dataset:
    try:
        return identifier(from_dicom_json(model), _EXPLICIT)
    except DataSetError as error:
        raise BadRequest(str(error)) from None


def _uid(text: str) -> str:
    if not uids.is_uid(text):
        raise BadRequest("a UID has digits and dots, and at most 64 of them")
    return text
