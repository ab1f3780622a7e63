"""UIDs by name, from pydicom's dictionary (PS3.6 Annex A), and the form of a UID."""

from __future__ import annotations

import re
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

from pacsroute.errors import SetupError, nearest

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS = "2.25.224098470337241907862398706190434471503"
IMPLEMENTATION_VERSION = "PACSROUTE_0_2"


def _dictionary() -> dict[str, tuple[str, str, str, str, str]]:
    """Return pydicom's dictionary of UIDs without importing pydicom.

    The dictionary is a module of literals; importing all of pydicom takes 0.2 s or more.
    See `pacsroute.dataset.late`.
    """
    package = find_spec("pydicom")
    assert package is not None
    spec = PathFinder.find_spec("_uid_dict", package.submodule_search_locations)
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.UID_dictionary)


UID_dictionary = _dictionary()

# The types of pydicom's rows: (name, type, info, retired, keyword).
_KEYWORDS = {row[4]: uid for uid, row in UID_dictionary.items() if row[4]}
SOP_CLASSES = frozenset(
    uid for uid, row in UID_dictionary.items() if row[1] in ("SOP Class", "Meta SOP Class")
)
"""Every SOP class and meta SOP class of the dictionary (PS3.6 Annex A)."""

TRANSFER_SYNTAXES = frozenset(
    uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax"
)

IMPLICIT_VR_LITTLE_ENDIAN = _KEYWORDS["ImplicitVRLittleEndian"]
EXPLICIT_VR_LITTLE_ENDIAN = _KEYWORDS["ExplicitVRLittleEndian"]
EXPLICIT_VR_BIG_ENDIAN = _KEYWORDS["ExplicitVRBigEndian"]
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = _KEYWORDS["DeflatedExplicitVRLittleEndian"]

IMPLICIT = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.113619.5.2"})
"""The transfer syntaxes of implicit VR little endian (PS3.5 §A.1), including GE's private one."""

DEFLATED = frozenset(
    {
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        _KEYWORDS["JPIPReferencedDeflate"],
        _KEYWORDS["JPIPHTJ2KReferencedDeflate"],
    }
)
"""The transfer syntaxes in which all of a data set is deflated (PS3.5 §A.5, §A.7, §A.12)."""

REFERENCED = frozenset(
    uid
    for keyword, uid in _KEYWORDS.items()
    if keyword.startswith("JPIP") and "Referenced" in keyword
)
"""The transfer syntaxes whose pixels are elsewhere, at a URL (PS3.5 §A.6, §A.7, §A.11, §A.12)."""

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
"""The transfer syntaxes with uncompressed pixel data: possible targets of a conversion."""

_WITH_LOSS = (*range(50, 57), *range(59, 65), 81, 91, 93, 111, 112, 203)
LOSSY = frozenset(
    {
        *(f"1.2.840.10008.1.2.4.{number}" for number in _WITH_LOSS),
        *(uid for uid in TRANSFER_SYNTAXES if uid.startswith("1.2.840.10008.1.2.4.10")),
    }
)
"""The transfer syntaxes whose pixels may have been compressed with loss: JPEG, JPEG-LS, JPEG 2000,
JPEG XL and video (PS3.5 §A.4)."""

VERIFICATION = _KEYWORDS["Verification"]
WORKLIST = _KEYWORDS["ModalityWorklistInformationModelFind"]

# Two retired storage classes for which the dictionary has only the UID, and the classes with
# "storage" in their names that do not store.
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
"""Every storage SOP class of the dictionary, including retired ones (PS3.4 §B.5)."""

_ROOTS = ("PatientRoot", "StudyRoot", "PatientStudyOnly")

QUERY_RETRIEVE = {
    command: {
        root: _KEYWORDS[f"{root}QueryRetrieveInformationModel{command.capitalize()}"]
        for root in _ROOTS
    }
    for command in ("find", "get", "move")
}
"""The query/retrieve classes by command and root (PS3.4 §C.3)."""


def _models(command: str) -> dict[str, str]:
    """Return the keywords of a command's classes by their distinguishing part."""
    ending = re.compile(f"(QueryRetrieve)?(InformationModel)?{command.capitalize()}$")
    found = {ending.sub("", word): word for word in _KEYWORDS if ending.search(word)}
    return {short: word for short, word in found.items() if _KEYWORDS[word] in SOP_CLASSES}


_SHORT = {command: _models(command) for command in ("find", "get", "move")}
_SHORT["find"] |= {
    "Worklist": "ModalityWorklistInformationModelFind",
    "RelevantPatientInformation": "GeneralRelevantPatientInformationQuery",
    "BreastImagingRelevantPatientInformation": "BreastImagingRelevantPatientInformationQuery",
    "CardiacRelevantPatientInformation": "CardiacRelevantPatientInformationQuery",
    "ProductCharacteristics": "ProductCharacteristicsQuery",
    "SubstanceApproval": "SubstanceApprovalQuery",
    "Repository": "RepositoryQuery",
    "UPS": "UnifiedProcedureStepPush",
}
_NORMALIZED = {
    "MPPS": "ModalityPerformedProcedureStep",
    "MPPSRetrieve": "ModalityPerformedProcedureStepRetrieve",
    "MPPSNotification": "ModalityPerformedProcedureStepNotification",
    "StorageCommitment": "StorageCommitmentPushModel",
    "InstanceAvailability": "InstanceAvailabilityNotification",
    "UPS": "UnifiedProcedureStepPush",
    "FilmSession": "BasicFilmSession",
    "FilmBox": "BasicFilmBox",
    "GrayscaleImageBox": "BasicGrayscaleImageBox",
    "ColorImageBox": "BasicColorImageBox",
    "AnnotationBox": "BasicAnnotationBox",
    "PrinterConfiguration": "PrinterConfigurationRetrieval",
    "MediaCreation": "MediaCreationManagement",
    "SubstanceAdministration": "SubstanceAdministrationLogging",
} | {
    name: name  # as in the dictionary
    for name in (
        *("Printer", "PrintJob", "PresentationLUT", "VOILUTBox", "DisplaySystem"),
        *("ProceduralEventLogging", "InventoryCreation"),
        *("RTConventionalMachineVerification", "RTIonMachineVerification"),
    )
}
N_COMMANDS = ("n_create", "n_set", "n_get", "n_action", "n_delete", "n_event_report")
"""The commands of the normalized services (PS3.7 §10)."""

_SHORT |= dict.fromkeys(N_COMMANDS, _NORMALIZED)
_SHORT["echo"] = {"Verification": "Verification"}

# The commands of each class that has a short name.
_COMMANDS = {
    _KEYWORDS[word]: [command for command in _SHORT if word in _SHORT[command].values()]
    for words in _SHORT.values()
    for word in words.values()
}

WITHOUT_BULK_DATA = _KEYWORDS["CompositeInstanceRetrieveWithoutBulkDataGet"]
UPS = frozenset(
    _KEYWORDS[f"UnifiedProcedureStep{name}"] for name in ("Push", "Watch", "Pull", "Event", "Query")
)
UPS_PUSH = _KEYWORDS["UnifiedProcedureStepPush"]

_FILMS = ("BasicFilmSession", "BasicFilmBox", "Printer")
_META = {
    "BasicGrayscalePrintManagementMeta": (*_FILMS, "BasicGrayscaleImageBox"),
    "BasicColorPrintManagementMeta": (*_FILMS, "BasicColorImageBox"),
    "ReferencedGrayscalePrintManagementMeta": (
        *_FILMS,
        "BasicGrayscaleImageBox",
        "ReferencedImageBox",
    ),
    "ReferencedColorPrintManagementMeta": (*_FILMS, "BasicColorImageBox", "ReferencedImageBox"),
}
_CARRIED = {
    **{
        _KEYWORDS[meta]: frozenset(map(_KEYWORDS.__getitem__, parts))
        for meta, parts in _META.items()
    },
    **dict.fromkeys(UPS, UPS),
}


def carried(abstract_syntax: str) -> frozenset[str]:
    """Return the SOP classes that commands on a context may name, besides its own.

    Print commands name Film Session, Film Box… on the context of a meta SOP class, and UPS
    commands name UPS Push on that of any UPS class (PS3.4 §H.3, §CC.3.1).
    """
    return _CARRIED.get(abstract_syntax, frozenset())


def short_names(command: str) -> tuple[str, ...]:
    """Return the short names of the SOP classes of a command."""
    return tuple(_SHORT.get(command, ()))


def written(uid: str, command: str = "") -> str:
    """Return the name of a UID in a decorator: short name, keyword, or the UID itself.

    Examples
    --------
    >>> written("1.2.840.10008.5.1.4.31", "find"), written("1.2.840.10008.5.1.4.1.1.2")
    ('Worklist', 'CTImageStorage')
    """
    row = UID_dictionary.get(uid)
    keyword = row[4] if row else ""
    short = {word: name for name, word in _SHORT.get(command, {}).items()}
    return short.get(keyword, keyword) or uid


def sop_instance(text: str) -> str:
    """Return the UID of a well-known SOP instance given by pydicom's keyword, or by UID.

    Examples
    --------
    >>> sop_instance("PrinterInstance") == sop_instance("Printer")
    True
    """
    if is_uid(text):
        return text
    uid = _KEYWORDS.get(f"{text}Instance") or _KEYWORDS.get(text)
    if uid is None:
        raise SetupError(f"no well-known SOP instance is called {text!r}")
    return uid


# Rare classes: proposed last if there is no room for all.
_RARE = re.compile(
    "DICOS|Protocol|MPR|VolumeRendering|RT[A-Z]\\w*(Radiation|Prep|Intent|Position)|ArmRadiation|"
    "ArmPhoton|Tomotherap|Robotic|SurfaceScan|Eddy|gramWaveform|Measurements|Photoacoustic|"
    "Implant|ImagingAgent|Confocal|Inventory|Annotation|EnFace|BscanVolume|BodyPosition|"
    "RespiratoryW|ContinuousRT|EnhancedRT|32bit|Template|Palette|Delivery|IntraOral|Spectroscopy|"
    "Intravascular|LegacyConverted|MRColor|USVolume|GeneralAudio|ArterialPulse|XAXRFGrayscale|"
    "AdvancedBlending|VariableModality|Craniofacial|Fiducials|SurfaceSegmentation|Tractography|"
    "RealWorld|SlideCoordinates|Stereometric|WideField|Spectacle|Intraocular|MacularGrid|"
    "ThicknessMap|CornealTopography|ExtensibleSR|RadiopharmaceuticalRadiation|ColonCAD|"
    "AcquisitionContext|SimplifiedAdult|EnhancedXRayRadiation|ContentAssessment|StructuredDisplay|"
    "Encapsulated(STL|OBJ|MTL)|TreatmentRecord|SummaryRecord|IonPlan|IonBeams|Salvage|RecordSet|"
    "RadiationSet"
)


def usual_storage(count: int) -> tuple[str, ...]:
    """Return the most common storage classes, at most that many."""
    known = [uid for uid in STORAGE if uid in UID_dictionary and not UID_dictionary[uid][3]]
    known.sort(
        key=lambda uid: (
            _RARE.search(UID_dictionary[uid][4]) is not None,
            [int(part) for part in uid.split(".")],
        )
    )
    return tuple(known[:count])


_UID = re.compile(r"[0-9]++(?:\.[0-9]++)*+")  # no backtracking: half the time


LONGEST = 64
"""The maximum length of a UID in characters (PS3.5 §9.1)."""


def is_uid(text: str) -> bool:
    """Return whether a text is a UID: digits and dots, 64 characters at most (PS3.5 §9.1).

    Leading zeros of a component are accepted, because archives are full of them.
    """
    return len(text) <= LONGEST and _UID.fullmatch(text) is not None


def trim(text: str) -> str:
    """Return a UID without a peer's padding."""
    return text.strip(" \0\t\r\n")


def is_storage(uid: str) -> bool:
    """Return whether a SOP class stores composite instances.

    An unknown class, private or newer than pydicom, counts as one. Unknown UIDs of the standard
    count only in the range of its storage classes.
    """
    if uid in STORAGE:
        return True
    of_the_standard = uid.startswith("1.2.840.10008.")
    return (
        uid not in UID_dictionary
        and is_uid(uid)
        and (not of_the_standard or uid.startswith("1.2.840.10008.5.1.4."))
    )


def name(uid: str) -> str:
    """Return the name of a UID, or the UID if it has no name."""
    row = UID_dictionary.get(uid)
    return row[0] if row and row[0] else uid


def sop_class(text: str, command: str) -> str:
    """Return the UID of a SOP class given by UID, keyword or the command's short name.

    Parameters
    ----------
    text : str
        A UID, pydicom's keyword, or a short name such as ``StudyRoot``.
    command : str
        The command of the class: ``store``, ``find``…

    Raises
    ------
    SetupError
        If the name is unknown (the message suggests the nearest one), or belongs to another
        command.

    Examples
    --------
    >>> sop_class("StudyRoot", "find")
    '1.2.840.10008.5.1.4.1.2.2.1'
    """
    if not isinstance(text, str):
        raise SetupError(
            f"one SOP class, as text, not {type(text).__name__}; for several, "
            "put one decorator above the other"
        )
    short = _SHORT.get(command, {})
    uid = text if is_uid(text) else _KEYWORDS.get(short.get(text, text), "")
    commands = _COMMANDS.get(uid) or [other for other in _SHORT if text in _SHORT[other]]
    if commands and command not in commands:
        raise SetupError(f"{text!r} is a class of {commands[0]}, not of {command}")
    if uid in SOP_CLASSES or is_uid(text):
        return uid
    hint = nearest(text, _names(command), any_case=True)
    raise SetupError(f"no SOP class is called {text!r}{hint}")


def _names(command: str) -> list[str]:
    """Return the names of the SOP classes of a command: short names and keywords."""
    if command == "store":
        return [word for word, uid in _KEYWORDS.items() if uid in STORAGE]
    short = _SHORT.get(command, {})
    return [*short, *short.values(), *(_META if command in N_COMMANDS else ())]


def transfer_syntax(text: str) -> str:
    """Return the UID of a transfer syntax given by UID or pydicom's keyword.

    Raises
    ------
    SetupError
        If the name is unknown.
    """
    if is_uid(text):
        return text
    uid = _KEYWORDS.get(text)
    if uid in TRANSFER_SYNTAXES:
        return str(uid)
    names = [word for word, uid in _KEYWORDS.items() if uid in TRANSFER_SYNTAXES]
    raise SetupError(f"no transfer syntax is called {text!r}{nearest(text, names, any_case=True)}")
