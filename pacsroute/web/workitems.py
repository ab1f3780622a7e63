"""UPS-RS: unified procedure steps as work items (PS3.18 §11).

There is no event channel: only AE titles reachable over DIMSE can be subscribed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from pydicom import Dataset
from pydicom.uid import generate_uid
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, UnsupportedMediaType
from werkzeug.wrappers import Response

from pacsroute import uids, ups
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.from_json import from_dicom_json
from pacsroute.dataset.json_model import dicom_json
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
from pacsroute.web.exchange import MODELS, NOTHING, Delivery, Exchange
from pacsroute.web.models import uid_in
from pacsroute.web.query import filter_of
from pacsroute.web.statuses import http_status
from pacsroute.web.xml_model import XML, model_of

if TYPE_CHECKING:
    from pacsroute.framework.answering import Answering

_TRANSACTION = "00081195"
_EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN
_STATUSES = {
    **dict.fromkeys((0x0105, 0x0106, 0x0107, 0x0114, 0x0115, 0x0117, 0x0120, 0x0121), 400),
    **dict.fromkeys((0xC301, 0xC303, 0xC309), 400),
    **dict.fromkeys((0x0112, 0xC307, 0xC308), 404),
    **dict.fromkeys((0x0111, 0xC300, 0xC302, 0xC304, 0xC310, 0xC311), 409),
    **dict.fromkeys((0xC312, 0xC313, 0xC314), 409),
    0xC315: 403,
    **dict.fromkeys((SOP_CLASS_NOT_SUPPORTED, 0x0123, 0x0211), 501),
}
"""Statuses of the UPS service class mapped to HTTP statuses (PS3.4 Annex CC, PS3.18 §11)."""

_WRONG_TRANSACTION, _FINAL = 0xC301, 0xC300
_INCONSISTENT = "The submitted request is inconsistent with the current state of the Workitem."
_WARNINGS = {
    0x0001: "Requested optional Attributes are not supported.",
    0xB300: "The Workitem was created with modifications.",
    0xB301: "Deletion Lock not granted.",
    0xB304: "The UPS is already in the requested state of CANCELED.",
    0xB305: "The Workitem was updated with modifications.",
    0xB306: "The UPS is already in the requested state of COMPLETED.",
    0xC310: "The target URI did not reference a claimed Workitem.",
    **dict.fromkeys((_FINAL, 0xC302, 0xC304, 0xC311), _INCONSISTENT),
}
"""The texts of the Warning header by status (PS3.18 Tables 11.4.3-2 to 11.10.3-2)."""


def create(exchange: Exchange) -> Response:
    """Create a work item: 201 with a Location header."""
    model = _payload(exchange)
    uid = (
        _named(exchange, "workitem") or uid_in(model, "00080018") or str(generate_uid(prefix=None))
    )
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
    _ = exchange.model_type  # refuses a bad Accept header before the handler runs
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
    model = _payload(exchange)
    transaction = _named(exchange, "transaction")
    if transaction:
        model[_TRANSACTION] = {"vr": "UI", "Value": [_uid(transaction)]}
    is_missing = not uid_in(model, _TRANSACTION)
    request = exchange.make(
        NSetRequest,
        sop_class=uids.UPS_PUSH,
        sop_instance=_uid(workitem),
        modification_list=_data_set(model),
    )
    outcome, answering = _asked(exchange, "UPS-RS update", request)
    response = _response(exchange, outcome, answering, 200, is_missing=is_missing)
    if outcome.status.code == _FINAL:  # §11.6.2, unlike a change of its state
        response.status_code = 400
    return response


def change_state(exchange: Exchange, workitem: str) -> Response:
    """Claim, complete or cancel a work item."""
    information = _data_set(_payload(exchange))
    is_missing = not information.get("TransactionUID")
    return _act(exchange, workitem, ups.CHANGE_STATE, information, 200, is_missing=is_missing)


def request_cancel(exchange: Exchange, workitem: str) -> Response:
    """Ask the performer of a work item to cancel it: 202."""
    headers = exchange.http.headers
    has_body = bool(exchange.http.content_length) or "Transfer-Encoding" in headers
    information = _data_set(_payload(exchange)) if has_body else Dataset()
    return _act(exchange, workitem, ups.REQUEST_CANCEL, information, 202)


def subscribe(exchange: Exchange, workitem: str, aetitle: str) -> Response:
    """Subscribe an AE title to events, which are sent over DIMSE: 201."""
    if exchange.app.resolve(aetitle) is None:
        raise Forbidden("there is no event channel, and no DIMSE address of that AE title is known")
    arguments, information = exchange.http.args, _subscription(aetitle)
    lock = arguments.get("deletionlock", "false")
    if lock not in ("true", "false"):
        raise BadRequest("deletionlock must be true or false")
    information.DeletionLock = lock.upper()
    if workitem == ups.FILTERED_GLOBAL:
        if "filter" not in arguments:
            raise BadRequest("a filtered subscription has a filter")
        information.update(filter_of(arguments["filter"], exchange.limits))
    return _act(exchange, workitem, ups.SUBSCRIBE, information, 201)


def unsubscribe(exchange: Exchange, workitem: str, aetitle: str) -> Response:
    """End a subscription."""
    return _act(exchange, workitem, ups.UNSUBSCRIBE, _subscription(aetitle), 200)


def suspend(exchange: Exchange, workitem: str, aetitle: str) -> Response:
    """Suspend a global subscription, so that it excludes future work items."""
    return _act(exchange, workitem, ups.SUSPEND, _subscription(aetitle), 200)


def _subscription(aetitle: str) -> Dataset:
    information = Dataset()
    information.ReceivingAE = aetitle
    return information


def _act(
    exchange: Exchange,
    workitem: str,
    action_type: int,
    information: Dataset,
    success: int,
    *,
    is_missing: bool = False,
) -> Response:
    request = exchange.make(
        NActionRequest,
        sop_class=uids.UPS_PUSH,
        sop_instance=_uid(workitem),
        action_type=action_type,
        action_information=information,
    )
    outcome, answering = _asked(exchange, "UPS-RS action", request)
    return _response(exchange, outcome, answering, success, is_missing=is_missing)


def _asked(exchange: Exchange, name: str, request: NormalizedRequest) -> tuple[Outcome, Answering]:
    """Call the handler; return its outcome and the answering, which ends with the response."""
    request.abstract_syntax = uids.UPS_PUSH
    answering = exchange.answering(name, request)
    try:
        outcome: Outcome = exchange.app.handle(request)
    except BaseException as error:
        answering.__exit__(type(error), error, None)
        raise
    answering.outcome = outcome
    return outcome, answering


def _response(
    exchange: Exchange,
    outcome: Outcome,
    answering: Answering,
    success: int,
    *,
    is_missing: bool = False,
) -> Response:
    """Return a response without a data set.

    Parameters
    ----------
    exchange : Exchange
        The request.
    outcome, answering : Outcome, Answering
        The handler's outcome, and the answering that ends with the response.
    success : int
        The HTTP status of a success.
    is_missing : bool
        Whether the Transaction UID is missing from the request.
    """
    status = outcome.status
    failed = status.category == "Failure"
    code = (_STATUSES.get(status.code) or http_status(status)) if failed else success
    text = f"{status.comment or status.name} (0x{status.code:04X})\n" if failed else ""
    body = text.encode("utf-8", "replace")
    response = Response(status=code, content_type="text/plain; charset=utf-8")
    response.headers["Content-Length"] = str(len(body))
    response.response = Delivery([body] if body else [], answering)
    warning = _WARNINGS.get(status.code, "" if failed else status.name)
    if status.code == _WRONG_TRANSACTION:
        warning = f"The Transaction UID is {'missing' if is_missing else 'incorrect'}."
    if warning and (failed or status.category == "Warning"):
        exchange.warn(response, warning)
    return response


def _payload(exchange: Exchange) -> dict[str, Any]:
    """Return the data set in the body of a request."""
    http, most = exchange.http, exchange.app.config.max_identifier_length
    kind = http.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in MODELS:
        raise UnsupportedMediaType(f"the body must be {MODELS[0]}, or {XML}")
    data = b""
    while len(data) <= most and (piece := exchange.body.read(most + 1 - len(data))):
        data += piece
    if len(data) > most:
        raise BadRequest(f"a body of more than {most} bytes: max_identifier_length")
    if exchange.length is not None and len(data) != exchange.length:
        raise BadRequest("the body is cut off")
    try:
        found = model_of(data, exchange.limits.depth) if kind == XML else orjson.loads(data)
    except DataSetError as error:
        raise BadRequest(str(error)) from None
    except orjson.JSONDecodeError:
        raise BadRequest("the body is not JSON") from None
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise BadRequest("the body must be one data set")
    return found


def _data_set(model: dict[str, Any]) -> Dataset:
    try:
        return identifier(from_dicom_json(model), _EXPLICIT)
    except DataSetError as error:
        raise BadRequest(str(error)) from None


def _uid(text: str) -> str:
    if not uids.is_uid(text):
        raise BadRequest("a UID consists of digits and dots, 64 at the most")
    return text


def _named(exchange: Exchange, parameter: str) -> str:
    """Return the UID of a query parameter; some clients send the bare UID, without its name."""
    arguments = exchange.http.args
    bare = next((name for name in arguments if uids.is_uid(name)), "")
    return arguments.get(parameter) or bare
