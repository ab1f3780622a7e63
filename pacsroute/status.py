"""Status codes of DIMSE responses, by number and by name (PS3.7 Annex C, PS3.4)."""

from __future__ import annotations

from typing import NamedTuple

SUCCESS = 0x0000
CANCEL = 0xFE00
PENDING = 0xFF00
PENDING_WARNING = 0xFF01

SOP_CLASS_NOT_SUPPORTED = 0x0122
PROCESSING_FAILURE = 0x0110
INVALID_ATTRIBUTE_VALUE = 0x0106
ATTRIBUTE_LIST_ERROR = 0x0107
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT_VALUE = 0x0115
INVALID_SOP_INSTANCE = 0x0117
MISSING_ATTRIBUTE = 0x0120
MISSING_ATTRIBUTE_VALUE = 0x0121
NO_SUCH_ACTION = 0x0123
NOT_AUTHORIZED = 0x0124
UNRECOGNIZED_OPERATION = 0x0211
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
SUB_OPERATIONS_FAILED = 0xA702
MOVE_DESTINATION_UNKNOWN = 0xA801
IDENTIFIER_MISMATCH = 0xA900
SUB_OPERATIONS_WARNING = 0xB000
UNABLE_TO_PROCESS = 0xC000

# PS3.7 Annex C, and the codes that the service classes of PS3.4 add to it.
_NAMES = {
    0x0000: "Success",
    0x0001: "Requested optional attributes are not supported",
    0x0105: "No such attribute",
    0x0106: "Invalid attribute value",
    0x0107: "Attribute list error",
    0x0110: "Processing failure",
    0x0111: "Duplicate SOP instance",
    0x0112: "No such SOP instance",
    0x0113: "No such event type",
    0x0114: "No such argument",
    0x0115: "Invalid argument value",
    0x0116: "Attribute value out of range",
    0x0117: "Invalid SOP instance",
    0x0118: "No such SOP class",
    0x0119: "Class-instance conflict",
    0x0120: "Missing attribute",
    0x0121: "Missing attribute value",
    0x0122: "Refused: SOP class not supported",
    0x0123: "No such action type",
    0x0124: "Refused: not authorized",
    0x0210: "Duplicate invocation",
    0x0211: "Unrecognized operation",
    0x0212: "Mistyped argument",
    0x0213: "Resource limitation",
    0xA700: "Refused: out of resources",
    0xA701: "Refused: out of resources, unable to calculate number of matches",
    0xA702: "Refused: out of resources, unable to perform sub-operations",
    0xA801: "Refused: move destination unknown",
    0xA900: "Error: data set or identifier does not match SOP class",
    0xB000: "Warning: coercion of data elements, or sub-operations with failures",
    0xB006: "Warning: elements discarded",
    0xB007: "Warning: data set does not match SOP class",
    0xB300: "Warning: the UPS was created with modifications",
    0xB301: "Warning: deletion lock not granted",
    0xB304: "Warning: the UPS is CANCELED already",
    0xB305: "Warning: invalid values were coerced to valid ones",
    0xB306: "Warning: the UPS is COMPLETED already",
    0xB600: "Warning: memory allocation is not supported",
    0xB601: "Warning: printing of film sessions (collation) is not supported",
    0xB602: "Warning: a film of the session has no images (empty page)",
    0xB603: "Warning: the film has no images (empty page)",
    0xB604: "Warning: the image is larger than its box and was demagnified",
    0xB605: "Warning: a density outside of the printer's range was replaced",
    0xB609: "Warning: the image is larger than its box and was cropped",
    0xB60A: "Warning: the image is larger than its box and was decimated",
    0xC300: "Failed: the UPS may no longer be updated",
    0xC301: "Failed: not the Transaction UID of the UPS",
    0xC302: "Failed: the UPS is IN PROGRESS already",
    0xC303: "Failed: a UPS becomes SCHEDULED by N-CREATE only",
    0xC304: "Failed: the UPS does not meet the final state requirements",
    0xC307: "Failed: no such UPS here",
    0xC308: "Failed: the receiving AE title is unknown",
    0xC309: "Failed: a UPS is created SCHEDULED",
    0xC310: "Failed: the UPS is not IN PROGRESS",
    0xC311: "Failed: the UPS is COMPLETED already",
    0xC312: "Failed: the performer cannot be contacted",
    0xC313: "Failed: the performer chooses not to cancel",
    0xC314: "Failed: not an action for this instance",
    0xC315: "Failed: event reports are not supported",
    0xC600: "Failed: the film session has no films",
    0xC601: "Failed: no print job for the film session, the queue is full",
    0xC602: "Failed: no print job for the film, the queue is full",
    0xC603: "Failed: the image is larger than its box",
    0xC605: "Failed: the printer has too little memory for the image",
    0xC613: "Failed: the combined print image is larger than its box",
    0xC616: "Failed: there is a film that has not been printed yet",
    0xFE00: "Cancel",
    0xFF00: "Pending",
    0xFF01: "Pending: optional keys were not supported",
}

KNOWN = frozenset({*_NAMES, UNABLE_TO_PROCESS})
"""The status codes that have a meaning of their own."""

_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})


class Status(NamedTuple):
    """The status of a response.

    Parameters
    ----------
    code : int
        The status, 0x0000 to 0xFFFF (PS3.7 Annex C).
    comment : str
        The Error Comment (0000,0902); cut to 64 characters when it is sent.

    Examples
    --------
    >>> Status(0xB000).category, str(Status(0xA700))
    ('Warning', '0xA700 Refused: out of resources')
    """

    code: int
    comment: str = ""

    @property
    def category(self) -> str:
        """``Success``, ``Warning``, ``Failure``, ``Cancel`` or ``Pending``; else ``Unknown``."""
        code = self.code
        if code == SUCCESS:
            return "Success"
        if code in (PENDING, PENDING_WARNING):
            return "Pending"
        if code == CANCEL:
            return "Cancel"
        if code in _WARNINGS or 0xB000 <= code <= 0xBFFF:
            return "Warning"
        if 0x0100 <= code <= 0x02FF or 0xA000 <= code <= 0xAFFF or 0xC000 <= code <= 0xCFFF:
            return "Failure"
        return "Unknown"

    @property
    def name(self) -> str:
        """The standard's words for the code, or those of its range."""
        family = self.code & 0xFF00
        of_family = _NAMES[family] if family in (0xA700, 0xA900) else self.category
        if 0xC000 <= self.code <= 0xCFFF:
            of_family = "Error: cannot understand, or unable to process"
        return _NAMES.get(self.code, of_family)

    def __str__(self) -> str:
        return f"0x{self.code:04X} {self.comment or self.name}"
