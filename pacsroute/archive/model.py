"""The attributes of the index, by level of the information model (PS3.4 §C.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from pacsroute.errors import SetupError, nearest

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""The unique key of each level."""

_KEYS = {
    "PATIENT": "PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex",
    "STUDY": "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID StudyDescription "
    "ReferringPhysicianName PatientAge TimezoneOffsetFromUTC",
    "SERIES": "SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDate SeriesTime "
    "BodyPartExamined ProtocolName InstitutionName StationName Manufacturer "
    "PerformedProcedureStepStartDate PerformedProcedureStepStartTime",
    "IMAGE": "SOPInstanceUID SOPClassUID InstanceNumber ContentDate ContentTime AcquisitionDate "
    "AcquisitionTime NumberOfFrames Rows Columns BitsAllocated",
}
WHOLE = frozenset({"IS", "SL", "SS", "UL", "US"})
"""The VRs of whole numbers; any other value counts as empty."""

_REAL = frozenset({"DS", "FD", "FL"})
_TEXT = "AE AS CS DA DT LO LT PN SH ST TM UC UI UR UT"
_MATCHED = WHOLE | _REAL | frozenset(_TEXT.split())

TABLES = {"study": ("PATIENT", "STUDY"), "series": ("SERIES",), "image": ("IMAGE",)}
"""The levels of each table: the attributes of a patient are stored with each study."""

TABLE_OF = {level: table for table, levels in TABLES.items() for level in levels}


class Model:
    """The attributes of an index by level, the unique key of each level first.

    Parameters
    ----------
    extra : mapping of str to iterable of str
        Further keywords by level.

    Raises
    ------
    SetupError
        If the level is unknown, or the attribute cannot be matched.

    Examples
    --------
    >>> model = Model({"STUDY": ["InstitutionalDepartmentName"]})
    >>> model.keys["STUDY"][-1], model.vrs["SeriesNumber"]
    ('InstitutionalDepartmentName', 'IS')
    """

    def __init__(self, extra: Mapping[str, Iterable[str]] | None = None) -> None:
        self.keys = {level: keys.split() for level, keys in _KEYS.items()}
        for level, keywords in (extra or {}).items():
            if level not in LEVELS:
                raise SetupError(f"keys: {level!r} is not one of {', '.join(LEVELS)}")
            self._add(level, (keywords,) if isinstance(keywords, str) else keywords)
        self.tags = {key: tag_for_keyword(key) or 0 for key in self.all}
        """The tag of each attribute."""
        self.keywords = {tag: key for key, tag in self.tags.items()}
        """The keyword of each tag."""
        self.vrs = {key: dictionary_VR(key) for key in self.all}
        """The VR of each attribute in the dictionary, which may name several."""
        self.wanted = frozenset(self.keywords)
        self.names = frozenset(key for key in self.all if dictionary_VR(key) == "PN")
        """The person names: returned as received, and matched in a separate column."""
        self.of_table = {
            table: [key for level in levels for key in self.keys[level]]
            for table, levels in TABLES.items()
        }
        """The attributes of each table."""

    def _add(self, level: str, keywords: Iterable[str]) -> None:
        for keyword in keywords:
            if not keyword or keyword not in keyword_dict:
                hint = nearest(keyword, keyword_dict)
                raise SetupError(f"keys: there is no attribute {keyword!r}{hint}")
            if dictionary_VR(keyword)[:2] not in _MATCHED:
                raise SetupError(f"keys: {keyword} has no values that can be matched")
            if keyword not in self.all:
                self.keys[level].append(keyword)

    @property
    def all(self) -> list[str]:
        """All keywords, upper levels first."""
        return [key for keys in self.keys.values() for key in keys]

    def down_to(self, level: str) -> Iterable[tuple[str, str]]:
        """Yield the keywords available at a level, each with its table."""
        for above in LEVELS[: LEVELS.index(level) + 1]:
            for key in self.keys[above]:
                yield key, TABLE_OF[above]

    def columns(self, table: str) -> dict[str, str]:
        """Return the columns of a table that hold attributes, with the SQL type of each."""
        keys = self.of_table[table]
        found = {key: self._type(key) for key in keys}
        return found | {f"{key}_key": "TEXT" for key in keys if key in self.names}

    def _type(self, keyword: str) -> str:
        vr = dictionary_VR(keyword)[:2]
        return "INTEGER" if vr in WHOLE else "DOUBLE PRECISION" if vr in _REAL else "TEXT"
