"""The status codes that services send by themselves, and when (PS3.7 Annex C, PS3.4)."""

from __future__ import annotations

from pacsroute.status import (
    ATTRIBUTE_LIST_ERROR,
    CANCEL,
    IDENTIFIER_MISMATCH,
    INVALID_SOP_INSTANCE,
    MOVE_DESTINATION_UNKNOWN,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT_TYPE,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_WARNING,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    SUB_OPERATIONS_FAILED,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
    UNABLE_TO_PROCESS,
    UNRECOGNIZED_OPERATION,
)

_WRONG_CLASS = (
    SOP_CLASS_NOT_SUPPORTED,
    "the SOP Class is not that of the presentation context, or is not served",
)
_WRONG_INSTANCE = (INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID")
_FAILED = "the product failed unexpectedly"
_QUERY = [
    (
        OUT_OF_RESOURCES,
        "the identifier is too long, or there is no room for it",
    ),
    (CANCEL, "a C-CANCEL was received"),
    _WRONG_CLASS,
    (UNABLE_TO_PROCESS, _FAILED),
]
_BAD_IDENTIFIER = "there is no identifier, it cannot be read, or"
_RETRIEVE = [
    (SUCCESS, "all sub-operations have succeeded, or there are none"),
    (PENDING, "sub-operations continue"),
    (SUB_OPERATIONS_WARNING, "some sub-operations have failed, or ended with a warning"),
    (SUB_OPERATIONS_FAILED, "all sub-operations have failed"),
    (IDENTIFIER_MISMATCH, f"{_BAD_IDENTIFIER} lacks its level or unique key"),
    *_QUERY,
]
_NORMALIZED = [
    (SUCCESS, "it is done"),
    (PROCESSING_FAILURE, f"{_FAILED}, or the data set cannot be read"),
    (RESOURCE_LIMITATION, "the data set is too long, or there is no room for it"),
    _WRONG_INSTANCE,
    _WRONG_CLASS,
    (UNRECOGNIZED_OPERATION, "this operation is not answered for the SOP Class"),
]
ANSWERED: dict[str, list[tuple[int, str]]] = {
    "echo": [
        (SUCCESS, "always, unless the product fails"),
        (PROCESSING_FAILURE, _FAILED),
        (SOP_CLASS_NOT_SUPPORTED, "the presentation context is not one of Verification"),
    ],
    "store": [
        (SUCCESS, "the product has taken the instance"),
        _WRONG_CLASS,
        _WRONG_INSTANCE,
        (
            OUT_OF_RESOURCES,
            "the data set could not be kept: it is too long, or there is no room for it",
        ),
        (
            IDENTIFIER_MISMATCH,
            "there is no data set, or its SOP Class or Instance UID differs from the request's",
        ),
        (UNABLE_TO_PROCESS, _FAILED),
    ],
    "find": [
        (SUCCESS, "there are no more matches"),
        (PENDING, "a match; all keys are supported"),
        (PENDING_WARNING, "a match; some keys are not supported"),
        (IDENTIFIER_MISMATCH, f"{_BAD_IDENTIFIER} has a key that cannot be matched"),
        *_QUERY,
    ],
    "get": _RETRIEVE,
    "move": [*_RETRIEVE, (MOVE_DESTINATION_UNKNOWN, "the move destination is unknown")],
    "n_create": _NORMALIZED,
    "n_set": _NORMALIZED,
    "n_get": [*_NORMALIZED, (ATTRIBUTE_LIST_ERROR, "unknown attributes were asked for")],
    "n_action": [*_NORMALIZED, (NO_SUCH_ACTION, "there is no such action type")],
    "n_delete": _NORMALIZED,
    "n_event_report": [*_NORMALIZED, (NO_SUCH_EVENT_TYPE, "there is no such event type")],
}
"""By the route's name of the operation; handlers may also return other codes."""
