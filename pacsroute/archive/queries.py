"""Answers to queries, page by page, and the instances of a retrieval (PS3.4 §C.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pacsroute import matching
from pacsroute.archive.database import Database
from pacsroute.archive.model import LEVELS, TABLE_OF, UNIQUE, Model

if TYPE_CHECKING:
    from pydicom import Dataset

_PAGE = 500  # rows read at once; no lock is held while they are sent

_TO_STUDY = "JOIN study ON study.id = series.study"
_SOURCE = {
    "PATIENT": "study",
    "STUDY": "study",
    "SERIES": f"series {_TO_STUDY}",
    "IMAGE": f"image JOIN series ON series.id = image.series {_TO_STUDY}",
}
# The join has this order so that a page of a million instances is read in study order; otherwise
# SQLite would read all of them first.
_FROM_STUDIES = (
    "study @then series ON series.study = study.id @then image ON image.series = series.id"
)
_NEWEST = (
    ("study.StudyDate", "DESC"),
    ("study.StudyTime", "DESC"),
    ("study.StudyInstanceUID", "ASC"),
)
_ORDER = {
    "PATIENT": (("study.patient", "ASC"),),
    "STUDY": _NEWEST,
    "SERIES": (*_NEWEST, ("series.SeriesInstanceUID", "ASC")),
    "IMAGE": (*_NEWEST, ("series.SeriesInstanceUID", "ASC"), ("image.id", "ASC")),
}

_SERIES, _IMAGES = "JOIN series AS e ON e.study = s.id", "JOIN image AS i ON i.series = e.id"
_OF_PATIENT = "FROM study AS s {} WHERE s.patient = study.patient"
_OF_STUDY = "FROM series AS e {} WHERE e.study = study.id"
_OF_SERIES = "FROM image AS i WHERE i.series = series.id"
_VALUES = r"(SELECT @list({0}, '\') FROM (SELECT DISTINCT {0} {1} ORDER BY 1) AS v)"

# Computed attributes: each is a subquery, added only if it is requested.
_COMPUTED = {
    "PATIENT": {
        "NumberOfPatientRelatedStudies": f"(SELECT count(*) {_OF_PATIENT.format('')})",
        "NumberOfPatientRelatedSeries": f"(SELECT count(*) {_OF_PATIENT.format(_SERIES)})",
        "NumberOfPatientRelatedInstances": "(SELECT count(*) "
        f"{_OF_PATIENT.format(f'{_SERIES} {_IMAGES}')})",
    },
    "STUDY": {
        "InstanceAvailability": "'ONLINE'",
        "NumberOfStudyRelatedSeries": f"(SELECT count(*) {_OF_STUDY.format('')})",
        "NumberOfStudyRelatedInstances": f"(SELECT count(*) {_OF_STUDY.format(_IMAGES)})",
        "ModalitiesInStudy": _VALUES.format("Modality", _OF_STUDY.format("")),
        "SOPClassesInStudy": _VALUES.format("SOPClassUID", _OF_STUDY.format(_IMAGES)),
    },
    "SERIES": {"NumberOfSeriesRelatedInstances": f"(SELECT count(*) {_OF_SERIES})"},
    "IMAGE": {},
}


class Query:
    """The SQL query for an identifier at a level.

    Parameters
    ----------
    model, database : Model and Database
        The attributes of the index, and its database.
    identifier : pydicom.Dataset
        The keys.
    level : str
        ``PATIENT``, ``STUDY``, ``SERIES`` or ``IMAGE``.

    Raises
    ------
    IdentifierError
        If a key cannot be a value of its attribute.
    """

    def __init__(self, model: Model, database: Database, identifier: Dataset, level: str) -> None:
        self._database = database
        self._level = level
        self._selected: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        matched: dict[str, str] = {}
        unique = set(UNIQUE.values())
        for key, table in model.down_to(level):
            matched[key] = f"{table}.{key}_key" if key in model.names else f"{table}.{key}"
            if key in identifier or key in unique:
                self._selected[key] = f"{table}.{key}"
        for above in LEVELS[: LEVELS.index(level) + 1]:
            computed = {key: sql for key, sql in _COMPUTED[above].items() if key in identifier}
            self._selected |= computed
            matched |= computed
            # The series or instances of a page belong to few studies: compute it once for each.
            if level in ("SERIES", "IMAGE") and TABLE_OF[above] == "study":
                self._shared |= computed
                self._selected |= {key: f"shared.{key}" for key in computed}
        matched.pop("TimezoneOffsetFromUTC", None)  # it qualifies other keys (§C.4.1.1.3.1)
        multiple = {"Modality"} if level == "STUDY" else ()
        for key in multiple:  # many SCUs send these for a study, and mean the values of its series
            matched[key] = _COMPUTED["STUDY"]["ModalitiesInStudy"]
        self._where = matching.where(
            identifier, matched, multiple=multiple, dialect=database.dialect
        )
        is_large = level == "IMAGE" and not identifier.get("SOPInstanceUID")
        self._looked_in = _FROM_STUDIES if is_large else _SOURCE[level]

    def rows(
        self,
        *,
        limit: int | None = None,
        offset: int = 0,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows in order, newest study first.

        No database lock is held between pages. No row is skipped or repeated if others are added or
        removed meanwhile.
        """
        after: list[Any] | None = None
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(limit, _PAGE)
            page = self._page(after, size, offset, stop)
            for row in page:
                yield dict(zip(self._selected, row, strict=False))
            if len(page) < size:
                return
            after, offset = list(page[-1])[len(self._selected) :], 0
            limit = None if limit is None else limit - size

    def count(self, most: int) -> int:
        """Return the number of rows, counted up to a limit."""
        group, one = "", "1"
        if self._level == "PATIENT":
            group, one = "GROUP BY study.patient", "max(study.id)"
        sql = (
            f"SELECT count(*) FROM (SELECT {one} FROM {self._looked_in}"
            f" WHERE {self._where.sql} {group} LIMIT ?) AS found"
        )
        ((found,),) = self._database.rows(self._expanded(sql), [*self._where.parameters, most])
        return int(found)

    def _expanded(self, sql: str) -> str:
        sql = sql.replace("@list", self._database.list_of)
        return sql.replace("@then", self._database.ordered_join)

    def _page(
        self,
        after: list[Any] | None,
        size: int,
        offset: int,
        stop: Callable[[], bool] | None,
    ) -> list[Any]:
        order = _ORDER[self._level]
        source, table = _SOURCE[self._level], TABLE_OF[self._level]
        where, parameters = self._where.sql, list(self._where.parameters)
        if after is not None:
            condition, values = _later(order, after)
            where, parameters = f"({where}) AND ({condition})", parameters + values
        by = ", ".join(f"{column} {direction}" for column, direction in order)
        group, one = "", f"{table}.id"
        if self._level == "PATIENT":  # the latest study provides the patient's attributes
            group, one = "GROUP BY study.patient", "max(study.id)"
        names = ", ".join([*self._selected.values(), *(column for column, _ in order)])
        page = (
            f"SELECT {one} AS id FROM {self._looked_in} WHERE {where} {group}"
            f" ORDER BY {by} LIMIT ? OFFSET ?"
        )
        is_of_page = f"{table}.id IN (SELECT id FROM page)"
        tables, joined = [f"page AS MATERIALIZED ({page})"], source
        if self._shared:
            computed = ", ".join(f"{one} AS {key}" for key, one in self._shared.items())
            studies = f"SELECT study.id FROM {source} WHERE {is_of_page}"
            shared = f"SELECT study.id AS id, {computed} FROM study WHERE study.id IN ({studies})"
            tables.append(f"shared AS MATERIALIZED ({shared})")
            joined = f"{source} JOIN shared ON shared.id = study.id"
        sql = (
            f"WITH {', '.join(tables)} SELECT {names} FROM {joined}"
            f" WHERE {is_of_page} ORDER BY {by}"
        )
        return self._database.rows(self._expanded(sql), [*parameters, size, offset], stop)


def _later(order: tuple[tuple[str, str], ...], after: list[Any]) -> tuple[str, list[Any]]:
    """Return the condition for the rows that follow a given row, and its parameters."""
    (column, direction), value = order[0], after[0]
    sign = "<" if direction == "DESC" else ">"
    if len(order) == 1:
        return f"{column} {sign} ?", [value]
    rest, values = _later(order[1:], after[1:])
    # An index of the column can serve only the first part.
    sql = f"{column} {sign}= ? AND ({column} {sign} ? OR ({column} = ? AND {rest}))"
    return sql, [value, value, value, *values]


_FOUND = (
    "image.id, image.SOPClassUID, image.SOPInstanceUID, image.path, image.transfer_syntax,"
    " study.StudyInstanceUID, study.patient"
)


def instances(
    database: Database, identifier: Dataset, level: str, stop: Callable[[], bool] | None = None
) -> list[Any]:
    """Return the instances of a retrieval, all at once, because sending may take hours.

    Parameters
    ----------
    identifier : pydicom.Dataset
        The unique keys, and Issuer of Patient ID if present.
    level : str
        As for `Query`.
    stop : callable, optional
        As for `Database.rows`.
    """
    levels = LEVELS[: LEVELS.index(level) + 1]
    unique = {UNIQUE[one]: f"{TABLE_OF[one]}.{UNIQUE[one]}" for one in levels}
    unique |= {"IssuerOfPatientID": "study.IssuerOfPatientID"}
    asked = {key: column for key, column in unique.items() if identifier.get(key)}
    # A study without a Patient ID belongs to no other patient, although a query for any patient
    # finds it.
    where = matching.where(identifier, asked, empty_matches=False, dialect=database.dialect)
    sql = (
        f"SELECT {_FOUND} FROM {_SOURCE['IMAGE']} WHERE {where.sql}"
        " ORDER BY study.id, series.id, image.InstanceNumber, image.id"
    )
    return database.rows(sql, where.parameters, stop)
