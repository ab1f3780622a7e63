"""UIDs by name, from pydicom's dictionary (PS3.6 Annex A), and what a UID must look like."""

from __future__ import annotations

import difflib
import re

from pydicom._uid_dict import UID_dictionary

from pacsroute.errors import SetupError

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS = "2.25.224098470337241907862398706190434471503"
IMPLEMENTATION_VERSION = "PACSROUTE_0_1"

# The types of pydicom's rows: (name, type, info, retired, keyword).
_KEYWORDS = {row[4]: uid for uid, row in UID_dictionary.items() if row[4]}
_SOP_CLASSES = frozenset(
    uid for uid, row in UID_dictionary.items() if row[1] in ("SOP Class", "Meta SOP Class")
)

TRANSFER_SYNTAXES = frozenset(
    uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax"
)

IMPLICIT_VR_LITTLE_ENDIAN = _KEYWORDS["ImplicitVRLittleEndian"]
EXPLICIT_VR_LITTLE_ENDIAN = _KEYWORDS["ExplicitVRLittleEndian"]
EXPLICIT_VR_BIG_ENDIAN = _KEYWORDS["ExplicitVRBigEndian"]
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = _KEYWORDS["DeflatedExplicitVRLittleEndian"]

ENCODABLE = frozenset(
    {
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    }
)
"""The transfer syntaxes in which identifiers and attribute lists are exchanged."""

NATIVE = ENCODABLE
"""The transfer syntaxes whose pixel data is not compressed: what can be converted into."""

VERIFICATION = _KEYWORDS["Verification"]

# Two retired storage classes of which the dictionary knows no more than the UID, and the
# classes whose names speak of storage but which do not store.
_NAMELESS_STORAGE = frozenset({"1.2.840.10008.5.1.4.1.1.12.77", "1.2.840.10008.5.1.4.1.1.40"})
_NOT_STORAGE = frozenset(
    {
        _KEYWORDS["MediaStorageDirectoryStorage"],
        _KEYWORDS["StorageCommitmentPushModel"],
        _KEYWORDS["StorageCommitmentPullModel"],
    }
)

STORAGE = _NAMELESS_STORAGE | frozenset(
    uid
    for uid, row in UID_dictionary.items()
    if row[1] == "SOP Class" and "Storage" in row[0] and uid not in _NOT_STORAGE
)
"""Every storage SOP class of the dictionary, the retired ones too (PS3.4 §B.5)."""

_ROOTS = ("PatientRoot", "StudyRoot", "PatientStudyOnly")


def _models(command: str) -> dict[str, str]:
    return {root: f"{root}QueryRetrieveInformationModel{command.capitalize()}" for root in _ROOTS}


_SHORT = {command: _models(command) for command in ("find", "get", "move")}
_SHORT["find"]["Worklist"] = "ModalityWorklistInformationModelFind"

QUERY_RETRIEVE = {
    command: {root: _KEYWORDS[keyword] for root, keyword in _models(command).items()}
    for command in ("find", "get", "move")
}
"""The query/retrieve classes by command and root (PS3.4 §C.3)."""

# What hardly any archive holds: the last to be proposed where only some can be.
_RARE = re.compile(
    "DICOS|Protocol|MPR|VolumeRendering|RT[A-Z]\\w*(Radiation|Prep|Intent|Position)|ArmRadiation|"
    "ArmPhoton|Tomotherap|Robotic|SurfaceScan|Eddy|gramWaveform|Measurements|Photoacoustic|"
    "Implant|ImagingAgent|Confocal|Inventory|Annotation|EnFace|BscanVolume|BodyPosition|"
    "RespiratoryW|ContinuousRT|EnhancedRT|32bit|Template|Palette|Delivery"
)


def usual_storage(count: int) -> tuple[str, ...]:
    """Return so many storage classes, those that are met most often."""
    known = [uid for uid in STORAGE if uid in UID_dictionary and not UID_dictionary[uid][3]]
    known.sort(
        key=lambda uid: (
            _RARE.search(UID_dictionary[uid][4]) is not None,
            [int(part) for part in uid.split(".")],
        )
    )
    return tuple(known[:count])


_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID: digits and dots, 64 characters at most (PS3.5 §9.1).

    Leading zeros of a component are let be: archives are full of them.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def trim(text: str) -> str:
    """Return a UID without the padding that a peer put around it."""
    return text.strip(" \0\t\r\n")


def is_storage(uid: str) -> bool:
    """Tell whether a SOP class stores composite instances.

    A class that no dictionary knows, private or newer than pydicom, is taken for one.
    """
    return uid in STORAGE or (uid not in UID_dictionary and is_uid(uid))


def name(uid: str) -> str:
    """Return the name of a UID, or the UID where it has none."""
    row = UID_dictionary.get(uid)
    return row[0] if row and row[0] else uid


def sop_class(text: str, command: str) -> str:
    """Return the UID of a SOP class given by UID, keyword or the command's short name.

    Parameters
    ----------
    text : str
        A UID, pydicom's keyword, or a short name such as ``StudyRoot``.
    command : str
        What the class is registered for: ``store``, ``find``…

    Raises
    ------
    SetupError
        If nothing has that name; the message says what is nearest.

    Examples
    --------
    >>> sop_class("StudyRoot", "find")
    '1.2.840.10008.5.1.4.1.2.2.1'
    """
    if not isinstance(text, str):
        raise SetupError(
            f"@app.{command}: one SOP class, as text, not {type(text).__name__}; for several, "
            "put one decorator above the other"
        )
    if is_uid(text):
        return text
    short = _SHORT.get(command, {})
    uid = _KEYWORDS.get(short.get(text, text))
    if uid in _SOP_CLASSES:
        return str(uid)
    for other, others in _SHORT.items():
        if text in others:
            raise SetupError(f"@app.{command}: {text!r} is a class of @app.{other}")
    names = [*short, *(word for word, uid in _KEYWORDS.items() if uid in _SOP_CLASSES)]
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SetupError(f"@app.{command}: no SOP class is called {text!r}{hint}")


def transfer_syntax(text: str) -> str:
    """Return the UID of a transfer syntax given by UID or pydicom's keyword.

    Raises
    ------
    SetupError
        If nothing has that name.
    """
    if is_uid(text):
        return text
    uid = _KEYWORDS.get(text)
    if uid in TRANSFER_SYNTAXES:
        return str(uid)
    names = [word for word, uid in _KEYWORDS.items() if uid in TRANSFER_SYNTAXES]
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SetupError(f"no transfer syntax is called {text!r}{hint}")
