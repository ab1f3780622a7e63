"""Matching: the same answers in Python and in SQLite, and the right ones (PS3.4 §C.2.2.2)."""

from __future__ import annotations

import gc
import os
import re
import sqlite3
import struct
import tracemalloc
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from time import process_time

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, config, dcmread, dcmwrite
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.postgresql import server

from pacsroute import matching
from pacsroute.errors import DataSetError, IdentifierError
from pacsroute.matching.values import NUMBERS as NUMBER_VRS

SPS = "ScheduledProcedureStepSequence"


def key(**values) -> Dataset:
    identifier = Dataset()
    with config.disable_value_validation():
        for keyword, value in values.items():
            setattr(identifier, keyword, value)
    return identifier


def raw(keyword: str, value: bytes) -> Dataset:
    """A key as it comes from the wire, not decoded yet."""
    tag = Tag(keyword)
    identifier = Dataset()
    identifier[tag] = RawDataElement(tag, None, len(value), value, 0, True, True)
    return identifier


def flat(names, row, prefix=""):
    """The columns of a flat table, and a row of it."""
    columns, values = {}, {}
    for keyword in names:
        if keyword == SPS:
            items = row[keyword] or [{}]
            inner = dict.fromkeys(names[keyword])
            columns[keyword], nested = flat(inner, {**inner, **items[0]}, "sps_")
            values |= nested
        else:
            columns[keyword] = f"t.{prefix}{keyword}"
            values[f"{prefix}{keyword}"] = matching.stored(keyword, row[keyword])
    return columns, values


def in_sqlite(where, values):
    with sqlite3.connect(":memory:") as db:
        db.execute(f"CREATE TABLE t ({', '.join(values)})")
        db.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(values))})", [*values.values()])
        found = db.execute(f"SELECT 1 FROM t WHERE {where.sql}", where.parameters).fetchall()
    db.close()
    return bool(found)


POSTGRESQL = []  # a connection, while there is a server
TYPES = {int: "numeric", float: "double precision"}


def kind(name, value, multiple):
    """The type of a column: that of its values, and of its attribute where it has none."""
    keyword = name.removeprefix("sps_")
    number = dictionary_VR(keyword)[:2] in NUMBER_VRS and dictionary_VM(keyword) == "1"
    if value is None and number and keyword not in multiple:
        return "numeric"
    return TYPES.get(type(value), "text")


def in_postgresql(where, values, multiple):
    (db,) = POSTGRESQL
    columns = [f"%s::{kind(name, value, multiple)}" for name, value in values.items()]
    table = f"(VALUES ({', '.join(columns)})) AS t({', '.join(values)})"
    sql = f"SELECT 1 FROM {table} WHERE {where.sql}"
    return bool(db.execute(sql, [*values.values(), *where.parameters]).fetchall())


def in_sql(identifier, row, *, empty_matches=True, multiple=(), names=None):
    """The answer of SQLite, having seen that PostgreSQL gives the same where it is installed."""
    columns, values = flat(names or dict.fromkeys(row), row)
    options = {"multiple": multiple, "empty_matches": empty_matches}
    found = in_sqlite(matching.where(identifier, columns, **options), values)
    if POSTGRESQL:
        where = matching.where(identifier, columns, dialect="postgresql", **options)
        assert in_postgresql(where, values, multiple) is found
    return found


@pytest.fixture(autouse=True, scope="module")
def postgresql():
    """Ask PostgreSQL, too, unless it is not installed; CI has to have it."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and "CI" not in os.environ:
        yield
        return
    with server() as running, psycopg.connect(running.url(), autocommit=True) as db:
        POSTGRESQL.append(db)
        yield
        POSTGRESQL.clear()


def both(identifier, row, **options):
    """The answer of Python, having seen that SQL gives the same."""
    names = {k: {n: None for item in v for n in item} if k == SPS else None for k, v in row.items()}
    answer = in_sql(identifier, row, names=names, **options)
    options.pop("multiple", None)
    assert matching.matches(identifier, row, **options) is answer
    compiled = matching.matcher(identifier, **options)
    assert [compiled(row), compiled(row)] == [answer] * 2
    return answer


def check(keyword, wanted, value, **options):
    return both(key(**{keyword: wanted}), {keyword: value}, **options)


# --- Python and SQL agree, whatever comes -------------------------------------------------------

TEXT = st.text(
    st.sampled_from("aAbBéÉßsS[]^=*?%_-!'\"1 .\n\t\0\x01\\\udc80山🩻e\u0301"), max_size=8
)
DIGITS = st.one_of(
    st.sampled_from(["", "*", "-", "1997.04.24", "10:30:00", "10:3", "abc", "20240231", "24"]),
    st.from_regex(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d)", fullmatch=True),
    st.from_regex(r"1\d([0-5]\d([0-5]\d(\.[0-9]{1,6})?)?)?", fullmatch=True),
    st.from_regex(
        r"20(2[45](0[1-3]([0-3]\d(1\d([0-5]\d([0-5]\d(\.\d{1,6})?)?)?)?)?)?)([+-]0[0-5]00)?",
        fullmatch=True,
    ),
)
MOMENT = st.one_of(
    DIGITS,
    st.tuples(DIGITS, st.sampled_from(["-", " - "]), DIGITS).map("".join),
    st.lists(DIGITS, max_size=3),
)
STAMP = st.one_of(
    DIGITS,
    st.none(),
    st.dates(date(2023, 1, 1), date(2025, 1, 1)),
    st.times(),
    st.datetimes(datetime(2023, 1, 1), datetime(2025, 1, 1)),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=-5)))),
)
NUMBER = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.sampled_from(["1", "01", "+1", "1.0", " 1 ", "0.10", "x", "", "*", "1e400", "1e3", "NaN"]),
)
FULL_NAME = st.text(st.sampled_from("aA^^ =*?é"), max_size=10)


def several(strategy):
    return st.one_of(strategy, st.none(), st.lists(strategy, max_size=3))


KEYS = {
    **dict.fromkeys(["PatientID", "Modality"], several(TEXT)),
    "PatientComments": TEXT | st.none(),
    **dict.fromkeys(["ModalitiesInStudy", "OtherPatientIDs"], several(TEXT)),
    **dict.fromkeys(["PatientName", "OperatorsName"], several(FULL_NAME | TEXT)),
    "StudyInstanceUID": several(st.sampled_from(["1.2", "1.2.3", "1.2.*", "*", "", "1.2\0"])),
    **dict.fromkeys(["StudyDate", "StudyTime", "AcquisitionDateTime"], MOMENT),
    "DateOfSecondaryCapture": MOMENT,
}
VALUES = KEYS | dict.fromkeys(["StudyDate", "StudyTime", "AcquisitionDateTime"], STAMP)
NUMBERS = ["SeriesNumber", "PatientWeight", "ExposureTimeInuS", "PixelSpacing", "Rows"]
VALUES |= dict.fromkeys(NUMBERS, NUMBER) | {"PixelSpacing": several(NUMBER)}
ONE_VALUE = {"PatientID", "Modality", "PatientName", "StudyInstanceUID", "DateOfSecondaryCapture"}


def outcome(function, *arguments, **options):
    try:
        return bool(function(*arguments, **options))
    except DataSetError as error:
        return str(error)


@st.composite
def questions(draw):
    keyword = draw(st.sampled_from(sorted(VALUES)))
    value = draw(VALUES[keyword])
    wanted = draw(st.one_of(KEYS.get(keyword, NUMBER), st.just(value)))
    return keyword, wanted, value


@settings(max_examples=1000, deadline=None)
@given(questions(), st.booleans())
def test_python_and_sql_agree(question, empty_matches):
    keyword, wanted, value = question
    identifier, row = Dataset(), {keyword: value}
    tag = Tag(keyword)
    if isinstance(wanted, str) and keyword in {*NUMBERS, "StudyDate"} - {"Rows"}:
        identifier = raw(keyword, wanted.encode("ascii", "replace"))
    else:
        try:
            identifier = key(**{keyword: wanted})
        except (ValueError, TypeError, ArithmeticError):
            return
    assert tag in identifier
    multiple = {keyword} if keyword in ONE_VALUE else ()
    options = {"empty_matches": empty_matches}
    expected = outcome(matching.matches, identifier, row, **options)
    assert outcome(in_sql, identifier, row, multiple=multiple, **options) == expected


@settings(max_examples=500, deadline=None)
@given(questions(), st.booleans())
def test_python_and_sql_agree_on_plain_columns(question, empty_matches):
    keyword, wanted, value = question
    value = value[0] if isinstance(value, list) and value else value
    if keyword in ONE_VALUE and "\\" in str(value):
        return
    try:
        identifier = key(**{keyword: wanted})
    except (ValueError, TypeError, ArithmeticError):
        return
    row, options = {keyword: value}, {"empty_matches": empty_matches}
    expected = outcome(matching.matches, identifier, row, **options)
    assert outcome(in_sql, identifier, row, **options) == expected


ITEM = {
    "Modality": st.sampled_from(["CT", "MR", "", None, "C?", "*"]),
    "ScheduledProcedureStepStartDate": st.sampled_from(["20240101", "", "20240105", None]),
    "ScheduledStationAETitle": st.sampled_from(["CT1", ["CT1", "CT2"], "CT*", None, ""]),
}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({}, optional=ITEM), max_size=2),
    st.fixed_dictionaries(ITEM) | st.none(),
    st.sampled_from(["Doe*", "", "X"]),
    st.booleans(),
)
def test_python_and_sql_agree_on_sequences(items, item, name, empty_matches):
    identifier = key(PatientName=name)
    identifier.ScheduledProcedureStepSequence = Sequence([key(**item) for item in items])
    row = {"PatientName": "Doe^John", SPS: [] if item is None else [item]}
    names = {"PatientName": None, SPS: ITEM}
    expected = matching.matches(identifier, row, empty_matches=empty_matches)
    assert in_sql(identifier, row, names=names, empty_matches=empty_matches) == expected


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab[]?*\n^%"), max_size=6), st.text("ab[]^\n%", max_size=6))
def test_wildcards_are_those_of_the_standard(pattern, text):
    pattern, text = pattern.strip(), text.strip()
    wild = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    expected = not pattern or not text or bool(re.fullmatch(wild, text, re.DOTALL))
    assert check("PatientComments", pattern, text) is expected


PATTERN = st.text(st.sampled_from("ab[]?*\n^%"), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATTERN, min_size=1, max_size=5), st.text("ab[]^\n%", min_size=1, max_size=6))
def test_any_of_several_patterns_may_match(patterns, text):
    patterns, text = [p.strip() or "a" for p in patterns], text.strip() or "b"
    wild = ["".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in p) for p in patterns]
    expected = any(re.fullmatch(one, text, re.DOTALL) for one in wild)
    assert check("OtherPatientIDs", patterns, text, empty_matches=False) is bool(expected)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.datetimes(), min_size=4, max_size=4), st.datetimes())
def test_any_of_several_ranges_may_match(limits, value):
    limits = [day.date() for day in limits]
    ranges = list(zip(limits[::2], limits[1::2], strict=True))
    text = "\\".join("-".join(f"{d.year:04}{d:%m%d}" for d in pair) for pair in ranges)
    expected = any(low <= value.date() <= high for low, high in ranges)
    assert check("StudyDate", text, value) is expected


@settings(max_examples=300, deadline=None)
@given(st.datetimes(), st.datetimes(), st.datetimes(), st.sampled_from([-5, 0, 9]))
def test_ranges_are_inclusive(low, value, high, hours):
    expected = low <= value <= high
    texts = [f"{m.year:04}{m:%m%d%H%M%S.%f}" for m in (low, high)]
    assert check("AcquisitionDateTime", "-".join(texts), value) is expected
    expected = low.date() <= value.date() <= high.date()
    days = [text[:8] for text in texts]
    assert check("StudyDate", "-".join(days), value) is expected
    assert check("StudyDate", f"{days[0]}-", value) is (low.date() <= value.date())
    assert check("StudyDate", f"-{days[1]}", value) is (value.date() <= high.date())
    times = [text[8:] for text in texts]
    assert check("StudyTime", "-".join(times), value) is (low.time() <= value.time() <= high.time())
    if 1 < value.year < 9999:
        east = value.replace(tzinfo=timezone(timedelta(hours=hours)))
        utc = east.astimezone(UTC)
        exact = f"{utc.year:04}{utc:%m%d%H%M%S.%f}+0000"
        assert check("AcquisitionDateTime", exact, east)


@given(several(TEXT), st.sampled_from(["PatientID", "ModalitiesInStudy", "PatientComments"]))
def test_stored_is_idempotent(value, keyword):
    once = matching.stored(keyword, value)
    assert matching.stored(keyword, once) == once


# --- and the answers are these ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "wanted", "value", "expected"),
    [
        ("PatientID", "A1", "A1 ", True),
        ("PatientID", " A1", "A1", True),
        ("PatientID", "a1", "A1", False),
        ("PatientID", "", "A1", True),
        ("PatientID", "*", "A1", True),
        ("PatientID", "**", "A1", True),
        ("PatientID", "A*", "A1", True),
        ("PatientID", "A?", "A12", False),
        ("PatientID", "[A]*", "A1", False),
        ("PatientID", "[A]*", "[A]1", True),
        ("PatientID", "%", "A1", False),
        ("PatientID", "é*", "É1", False),
        ("PatientID", 7, 7, True),
        ("PatientComments", " x", "x", False),
        ("PatientComments", "x ", "x", True),
        ("PatientComments", "a\\b", "a\\b", True),
        ("PatientComments", "a\\b", "a", False),
        ("Modality", ["MR", "CT"], "CT", True),
        ("Modality", ["MR", "C*"], "CT", True),
        ("Modality", ["MR", "*"], "CT", True),
        ("Modality", ["MR", "US"], "CT", False),
        ("Modality", "MR\\", "CT", False),
        ("PatientAge", "0?0Y", "010Y", False),
        ("ModalitiesInStudy", "MR", ["CT", "MR"], True),
        ("ModalitiesInStudy", "MR", "CT\\MR", True),
        ("ModalitiesInStudy", "C*R", ["CT", "MR"], False),
        ("ModalitiesInStudy", "M", ["CT", "MR"], False),
        ("ModalitiesInStudy", "MR", [], True),
        ("StudyInstanceUID", "1.2.3", "1.2.3\0", True),
        ("StudyInstanceUID", "1.2.3 ", "1.2.3", True),
        ("StudyInstanceUID", ["1.2", "1.2.3"], "1.2.3", True),
        ("StudyInstanceUID", "1.2.*", "1.2.3", False),
        ("StudyInstanceUID", "*", "1.2.3", True),
        ("PatientName", "DOE^JOHN", "Doe^John", True),
        ("PatientName", "doe^john^^", "Doe^John", True),
        ("PatientName", "doe ^ john", "Doe^John ", True),
        ("PatientName", "doe", "Doe^John", False),
        ("PatientName", "doe*", "Doe^John", True),
        ("PatientName", "doe^*", "Doe", True),
        ("PatientName", "*^*", "Doe", True),
        ("PatientName", "*^john", "Doe^John=山田", True),
        ("PatientName", "MÜLLER", "mu\u0308ller", True),
        ("PatientName", "muller", "Müller", False),
        ("PatientName", "strasse", "STRAßE", True),
        ("PatientName", "Yamada^Tarou", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "Yamada^Tarou==", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "Yamada^Tarou==やまだ*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "=鈴木*", "Yamada^Tarou=山田^太郎=やまだ^たろう", False),
        ("PatientName", "*山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "^^", "Doe", True),
        ("OperatorsName", "doe^*", ["Roe", "Doe^John"], True),
        ("SeriesNumber", "01", 1, True),
        ("SeriesNumber", "1", "001", True),
        ("SeriesNumber", "1", "11", False),
        ("PatientWeight", "70.50", Decimal("70.5"), True),
        ("PatientWeight", "70.5", 70.5, True),
        ("PatientWeight", "7e1", "70", True),
        ("Rows", 512, "512", True),
        ("StudyDate", "19970424", "1997.04.24", True),
        ("StudyDate", "1997.04.24", "19970424", True),
        ("StudyDate", "1997.04.01-1997.04.30", "19970424", True),
        ("StudyDate", "20240115", date(2024, 1, 15), True),
        ("StudyDate", "20240115", datetime(2024, 1, 15, 12), True),
        ("StudyDate", "20240101-20240131", "20240131", True),
        ("StudyDate", "20240201-20240231", "20240229", True),
        ("StudyDate", "20240101 - 20240131", "20240131", True),
        ("StudyDate", "20240131-20240101", "20240115", False),
        ("StudyDate", "20240101-", "20240101", True),
        ("StudyDate", "-20240101", "20240102", False),
        ("StudyDate", ["20240101", "20240103"], "20240102", False),
        ("StudyDate", ["20240101", "20240103"], "20240103", True),
        ("StudyDate", "20240101", "yesterday", True),
        ("StudyDate", "*", "20240101", True),
        ("StudyTime", "10", "105959.999999", True),
        ("StudyTime", "10", "110000", False),
        ("StudyTime", "10:30:00", "103000", True),
        ("StudyTime", "103000", "10:30", True),
        ("StudyTime", "1030", "10", False),
        ("StudyTime", "103000", "103000.5", True),
        ("StudyTime", "103000.50", "103000.5", True),
        ("StudyTime", "103000.50", "103000.505", True),
        ("StudyTime", "103000.50", "103000.51", False),
        ("StudyTime", "08-11", "115959.999999", True),
        ("StudyTime", "-11", "12", False),
        ("StudyTime", "08:00-11:00", "110059", True),
        ("StudyTime", "2330-0030", "2345", False),
        ("StudyTime", "103000", time(10, 30), True),
        ("StudyTime", "235960", "235960", True),
        ("StudyTime", "000000-240000", "235959", True),
        ("AcquisitionDateTime", "2024", "20241231235959.999999", True),
        ("AcquisitionDateTime", "202402", "20240229235959", True),
        ("AcquisitionDateTime", "202402", "202403", False),
        ("AcquisitionDateTime", "2023-2024", "20240601", True),
        ("AcquisitionDateTime", "20161231235960", "20170101005960.0+0100", True),
        ("AcquisitionDateTime", "20161231235959", "20161231235960", False),
        ("AcquisitionDateTime", "20161231-", "20161231235960.5", True),
        ("AcquisitionDateTime", "2017-", "20161231235960.5", False),
        ("AcquisitionDateTime", "-2016", "20161231235960.5", True),
        ("AcquisitionDateTime", "20240101-20240131", "20240131235959", True),
        ("AcquisitionDateTime", "20240101120000-0500", "20240101170000+0000", True),
        ("AcquisitionDateTime", "20240101120000-0500", "20240101180000+0100", True),
        ("AcquisitionDateTime", "20240101120000-0500", "20240101120000", False),
        ("AcquisitionDateTime", "20240101120000-0500", "20240101170000", True),
        ("AcquisitionDateTime", "20240101-0500-20240102-0500", "20240103045959+0000", True),
        ("AcquisitionDateTime", "20240101-0500-", "20240101045959+0000", False),
        ("AcquisitionDateTime", "-20240101-0500", "20240102045959+0000", True),
        ("AcquisitionDateTime", "-20240101-0500", "20240102050000+0000", False),
    ],
)
def test_keys_match_values(keyword, wanted, value, expected):
    assert check(keyword, wanted, value) is expected


START = ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")


@pytest.mark.parametrize(
    ("dates", "times", "day", "time", "expected"),
    [
        # PS3.4 Table K.6-1: from July 5, 10am, until July 7, 6pm
        ("20240705-20240707", "1000-1800", "20240706", "080000", True),
        ("20240705-20240707", "1000-1800", "20240705", "095959", False),
        ("20240705-20240707", "1000-1800", "20240705", "10", True),
        ("20240705-20240707", "1000-1800", "20240707", "180059.5", True),
        ("20240705-20240707", "1000-1800", "20240707", "1801", False),
        ("20240705-20240706", "1800-0600", "20240705", "2330", True),
        ("20240705-20240706", "1800-0600", "20240706", "0700", False),
        ("20240705-", "1000-", "20250101", "00", True),
        ("20240705-", "1000-", "20240705", "09", False),
        ("-20240707", "-1800", "20240706", "23", True),
        ("-20240707", "-1800", "20240707", "19", False),
        ("20240705-20240707", "1000-", "20240707", "2359", True),
        ("20240705-20240707", "-1800", "20240705", "00", True),
        ("2024.07.05-2024.07.07", "10:00-18:00", "2024.07.06", "08:00", True),
        # other forms are two keys
        ("20240705-20240707", "1000", "20240706", "080000", False),
        ("20240706", "1000-1800", "20240706", "080000", False),
        ("20240705-20240707", "", "20240706", "080000", True),
    ],
)
def test_ranges_of_the_start_of_a_step_are_one(dates, times, day, time, expected):
    step = key(**dict(zip(START, (dates, times), strict=True)))
    row = dict(zip(START, (day, time), strict=True))
    for empty_matches in (True, False):
        assert both(step, row, empty_matches=empty_matches) is expected
    assert both(key(**{SPS: [step]}), {SPS: [row]}) is expected


@given(
    st.tuples(*[st.sampled_from(["", "20240705", "20240706", "20240707"])] * 3),
    st.tuples(*[st.sampled_from(["", "00", "0600", "1200", "180000"])] * 3),
    st.booleans(),
)
def test_python_and_sql_agree_on_the_start_of_a_step(dates, times, empty_matches):
    ranges = [f"{low}-{high}" if low or high else "" for _, low, high in (dates, times)]
    step = key(**dict(zip(START, ranges, strict=True)))
    row = dict(zip(START, (dates[0], times[0]), strict=True))
    answer = both(step, row, empty_matches=empty_matches)
    if not (dates[0] and times[0]) and all(ranges):
        assert answer is empty_matches


@pytest.mark.parametrize("value", [None, "", "  ", [], ["", None]])
@pytest.mark.parametrize(
    ("keyword", "wanted"),
    [
        ("PatientName", "Doe"),
        ("PatientID", "?*"),
        ("StudyDate", "20240101-"),
        ("SeriesNumber", "1"),
        ("ModalitiesInStudy", "CT"),
        ("StudyInstanceUID", ["1", "2"]),
    ],
)
def test_an_empty_value_matches_in_query_retrieve_and_not_in_worklists(keyword, wanted, value):
    assert check(keyword, wanted, value)
    assert not check(keyword, wanted, value, empty_matches=False)
    assert check(keyword, "", value, empty_matches=False)
    assert check(keyword, None, value, empty_matches=False)
    columns = {keyword: "''"}
    for empty_matches in (True, False):
        sql, parameters = matching.where(
            key(**{keyword: wanted}), columns, empty_matches=empty_matches
        )
        with sqlite3.connect(":memory:") as db:
            assert db.execute(f"SELECT {sql}", parameters).fetchone() == (empty_matches,)
        db.close()


def test_only_supported_keys_are_conditions():
    identifier = key(PatientID="A", StudyID="B", StudyDate="bad")
    assert matching.matches(identifier, {"PatientID": "A"})
    assert matching.where(identifier, {"PatientID": "p"}, empty_matches=False) == (
        "(p = ?)",
        ("A",),
    )
    assert matching.where(Dataset(), {"PatientID": "p"}).sql == "1 = 1"


def test_keys_that_are_not_for_matching():
    identifier = key(
        SpecificCharacterSet="ISO_IR 192",
        QueryRetrieveLevel="STUDY",
        TimezoneOffsetFromUTC="+0100",
        RetrieveAETitle="A",
    )
    identifier.add_new(0x00080000, "UL", 100)
    identifier.add_new(0x00090010, "LO", "PRIVATE")
    identifier.add_new(0x00091001, "LO", "x")
    identifier.PixelData = b"\0\1"
    names = ["SpecificCharacterSet", "QueryRetrieveLevel", "TimezoneOffsetFromUTC"]
    row = dict.fromkeys([*names, "RetrieveAETitle"], "other") | {"": "x", "PixelData": b"\2"}
    assert matching.matches(identifier, row, empty_matches=False)
    del row[""]
    assert matching.where(identifier, dict.fromkeys(row, "c")).sql == "1 = 1"


def test_rows_may_be_data_sets():
    row = key(PatientName="Doe^John", StudyDate="20240115", ImageType=["ORIGINAL", "PRIMARY"])
    assert matching.matches(key(PatientName="doe*", ImageType="PRIMARY"), row)
    assert not matching.matches(key(PatientName="roe*"), row)
    # An element that nobody can read is unknown.
    row = raw("Rows", b"\1\2\3")
    assert matching.matches(key(Rows=5), row)
    assert not matching.matches(key(Rows=5), row, empty_matches=False)
    assert matching.stored("Rows", row) is None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_identifiers_from_the_wire(syntax, recwarn):
    sent = key(
        StudyDate="20240101-20240131",
        StudyTime="*",
        Modality="MR\\CT",
        PatientName="d?e*",
        StudyInstanceUID=["1.2", "1.3"],
        SpecificCharacterSet="ISO_IR 192",
    )
    buffer = BytesIO()
    dcmwrite(buffer, sent, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    buffer.seek(0)
    with config.disable_value_validation():
        identifier = dcmread(buffer, force=True)
    row = {
        "StudyDate": "20240115",
        "StudyTime": "10",
        "Modality": "CT",
        "PatientName": "Doe^John",
        "StudyInstanceUID": "1.3",
    }
    recwarn.clear()
    assert both(identifier, row)
    assert not both(identifier, row | {"StudyDate": "20240201"})
    assert not recwarn.list


def test_universal_keys_that_pydicom_cannot_decode():
    assert both(raw("SeriesNumber", b"* "), {"SeriesNumber": 1})
    assert both(raw("SeriesNumber", b"1\\02 "), {"SeriesNumber": 2})


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", b"secret"),
        ("StudyDate", b"-"),
        ("StudyDate", b"2024"),
        ("StudyDate", b"2024-01-15"),
        ("StudyDate", b"20241315"),
        ("StudyDate", b"202401*"),
        ("StudyTime", b"secret"),
        ("StudyTime", b"1"),
        ("StudyTime", b"1060"),
        ("StudyTime", b"10-secret"),
        ("AcquisitionDateTime", b"secret"),
        ("AcquisitionDateTime", b"20240230"),
        ("AcquisitionDateTime", b"00010101+0100"),
        ("SeriesNumber", b"secret"),
        ("SeriesNumber", b"1*"),
        ("PatientWeight", b"1e999"),
        ("Rows", b"\1\2\3"),
    ],
)
def test_invalid_key_is_named_without_its_value(keyword, value):
    identifier = raw(keyword, value)
    for function, argument in ((matching.matches, "20240101"), (matching.where, "c")):
        with pytest.raises(DataSetError, match=keyword) as caught:
            function(identifier, {keyword: argument})
        assert caught.value.__suppress_context__
        assert value.decode() not in str(caught.value)


def test_sequence_keys_match_items():
    def steps(**item):
        identifier = Dataset()
        identifier.ScheduledProcedureStepSequence = [key(**item)]
        return identifier

    row = {SPS: [{"Modality": "CT", "ScheduledStationAETitle": "A"}, {"Modality": "MR"}]}
    assert matching.matches(steps(Modality="MR"), row)
    assert matching.matches(steps(Modality="CT", ScheduledStationAETitle="A"), row)
    assert not matching.matches(steps(Modality="US"), row)
    assert not matching.matches(steps(Modality="CT", ScheduledStationAETitle="B"), row)
    assert matching.matches(steps(), row)
    assert matching.matches(steps(Modality=""), {SPS: []}, empty_matches=False)
    assert matching.matches(steps(Modality="CT"), {SPS: None})
    assert not matching.matches(steps(Modality="CT"), {SPS: []}, empty_matches=False)
    assert matching.matches(steps(Modality="MR"), {SPS: key(Modality="MR")})
    assert matching.where(
        steps(Modality="MR"), {SPS: {"Modality": "s.m"}}, empty_matches=False
    ) == (
        "((s.m = ?))",
        ("MR",),
    )
    with pytest.raises(DataSetError, match=SPS):
        matching.where(steps(Modality="MR"), {SPS: "column"})
    with pytest.raises(DataSetError, match="Modality"):
        matching.where(steps(Modality="MR"), {"Modality": {"Modality": "column"}})


@pytest.mark.parametrize("keyword", ["PatientsName", "PixelData", SPS, "FrameIncrementPointer"])
def test_keyword_that_no_column_can_hold_is_an_error(keyword):
    with pytest.raises(DataSetError, match=keyword):
        matching.stored(keyword, "x")


def test_misspelt_columns_are_an_error():
    with pytest.raises(DataSetError, match="PatientsName"):
        matching.where(Dataset(), {"PatientsName": "name"})


def test_values_never_become_sql():
    wanted = "'; DROP TABLE t; --"
    sql, parameters = matching.where(key(PatientID=wanted, ModalitiesInStudy=wanted), COLUMNS)
    assert "DROP" not in sql
    assert parameters == (wanted, wanted)


COLUMNS = {
    "PatientID": "pid",
    "PatientName": "name",
    "StudyDate": "date",
    "StudyInstanceUID": "uid",
    "ModalitiesInStudy": "modalities",
}


@pytest.mark.parametrize("empty_matches", [True, False])
@pytest.mark.parametrize(
    "identifier",
    [
        key(PatientID="A"),
        key(StudyInstanceUID=["1.2", "1.3"]),
        key(StudyDate="20240101"),
        key(StudyDate="20240101-20240131"),
        key(StudyDate="20240101-"),
        key(PatientName="DOE^JOHN"),
        key(PatientID="A*"),
    ],
)
def test_an_index_serves_the_everyday_keys(identifier, empty_matches):
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (pid TEXT, name TEXT, date TEXT, uid TEXT, modalities TEXT)")
    for column in ("pid", "name", "date", "uid"):
        db.execute(f"CREATE INDEX i_{column} ON t ({column})")
    sql, parameters = matching.where(identifier, COLUMNS, empty_matches=empty_matches)
    plan = db.execute(f"EXPLAIN QUERY PLAN SELECT * FROM t WHERE {sql}", parameters).fetchall()
    db.close()
    assert "USING INDEX" in str(plan)
    assert "SCAN" not in str(plan)


def test_a_long_list_of_uids():
    uids = [f"1.2.{n}" for n in range(5000)]
    assert both(key(StudyInstanceUID=uids), {"StudyInstanceUID": "1.2.4999"})


def test_stored_as_a_function_of_the_database():
    db = sqlite3.connect(":memory:")
    db.create_function("stored", 2, matching.stored, deterministic=True)
    db.execute("CREATE TABLE t (name)")
    db.execute("CREATE INDEX i ON t (stored('PatientName', name))")
    db.execute("INSERT INTO t VALUES ('Doe^John')")
    columns = {"PatientName": "stored('PatientName', name)"}
    sql, parameters = matching.where(key(PatientName="DOE*"), columns)
    assert db.execute(f"SELECT name FROM t WHERE {sql}", parameters).fetchall() == [("Doe^John",)]
    db.close()


def test_many_stars_take_no_time():
    assert not matching.matches(key(PatientID="*a" * 60 + "b"), {"PatientID": "a" * 5000})


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyTime", "10:30:00.500", "103000.5"),
        ("StudyTime", "10", "100000"),
        ("StudyTime", time(10, 30, 0, 5), "103000.000005"),
        ("StudyDate", date(987, 1, 2), "09870102"),
        ("StudyDate", "soon", None),
        ("AcquisitionDateTime", "20240101000000-0130", "20240101013000"),
        ("AcquisitionDateTime", "2024", "20240101000000"),
        ("AcquisitionDateTime", datetime(2024, 1, 1, tzinfo=UTC), "20240101000000"),
        ("SeriesNumber", "x", None),
        ("SeriesNumber", 2**63, float(2**63)),
        ("PatientWeight", float("nan"), None),
        ("PixelSpacing", [0.5, "0.50"], "0.5\\0.5"),
        ("Modality", ["CT", None, "MR"], "CT\\MR"),
        ("PatientName", "Doe^John^^ =", "doe^john"),
        ("PatientID", key(PatientID="A "), "A"),
        ("PatientID", key(PatientName="A "), None),
        ("PatientID", "\0", None),
        ("Rows", struct.pack("<H", 5), None),
    ],
)
def test_stored_normalises_values(keyword, value, expected):
    assert matching.stored(keyword, value) == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("A" + "^*" * 500_000, id="trailing components"),
        pytest.param("\u0301" * 500_000 + "\u0323" * 500_000, id="characters to be sorted"),
        pytest.param("*" + "a" * 500_000 + "?", id="a long part"),
    ],
)
def test_no_name_takes_long_to_match(name):
    identifier = raw("PatientName", name.encode())
    identifier.SpecificCharacterSet = "ISO_IR 192"
    with pytest.raises(DataSetError, match="PatientName"):
        matching.where(identifier, {"PatientName": "name"})
    assert matching.stored("PatientName", name) is None
    assert matching.stored("PatientName", "Doe" * 300) == "doe" * 300


def test_a_key_has_only_so_many_values():
    identifier = Dataset()
    identifier.SOPInstanceUID = [f"1.2.{number}" for number in range(10_000)]
    assert len(matching.where(identifier, {"SOPInstanceUID": "uid"}).parameters) == 10_000
    identifier.SOPInstanceUID.append("1.3")
    with pytest.raises(DataSetError, match="SOPInstanceUID: more than 10000 values"):
        matching.where(identifier, {"SOPInstanceUID": "uid"})
    with pytest.raises(DataSetError, match="more than 10000"):
        matching.matches(identifier, {"SOPInstanceUID": "1.2.1"})


def test_values_are_counted_over_all_keys_and_items():
    item = key(StudyInstanceUID=[f"1.2.{number}" for number in range(6000)])
    identifier = key(SOPInstanceUID=[f"1.3.{number}" for number in range(6000)])
    identifier.ReferencedStudySequence = [item]
    row = {"SOPInstanceUID": "1.3.1", "ReferencedStudySequence": [{"StudyInstanceUID": "1.2.1"}]}
    columns = {"SOPInstanceUID": "a", "ReferencedStudySequence": {"StudyInstanceUID": "b"}}
    for call in (
        lambda: matching.matches(identifier, row),
        lambda: matching.where(identifier, columns),
    ):
        with pytest.raises(IdentifierError, match="StudyInstanceUID: more than 10000 values"):
            call()


@pytest.mark.parametrize(
    ("keyword", "wanted", "words"),
    [
        ("PatientID", [f"{n}*" for n in range(2501)], "more than 2500 ranges"),
        (
            "PatientID",
            ["*" + "ab" * 300 + str(n) for n in range(20)],
            "more than 10000 characters of patterns",
        ),
        (
            "StudyTime",
            [f"{n // 3600:02}{n // 60 % 60:02}{n % 60:02}" for n in range(2501)],
            "more than 2500 ranges",
        ),
        ("PatientName", [f"{n:04}^*^*^*" for n in range(1000)], "more than"),
        (SPS, [key(Modality="CT")] * 17, "more than 16 items"),
    ],
    ids=["patterns", "characters", "ranges", "names", "items"],
)
def test_an_identifier_asks_for_only_so_much(keyword, wanted, words):
    identifier = key(**{keyword: wanted})
    column = {"Modality": "c"} if keyword == SPS else "c"
    value = [{"Modality": "CT"}] if keyword == SPS else "abab"
    with pytest.raises(IdentifierError, match=f"{keyword}: {words or ''}"):
        matching.where(identifier, {keyword: column})
    with pytest.raises(IdentifierError, match=f"{keyword}: {words or ''}"):
        matching.matches(identifier, {keyword: value})


def test_the_largest_identifier_takes_little_time_for_each_row():
    """The bounds are ten times what it takes; trying each pattern alone takes minutes."""
    patterns = key(PatientID=[f"*a*{n:04x}" for n in range(1400)])
    found = matching.matcher(patterns)
    began = process_time()
    for _ in range(1000):
        assert not found({"PatientID": "a" * 64})
    comments = matching.matcher(key(PatientComments="*a" * 500))
    for _ in range(10):
        assert comments({"PatientComments": "a" * 10_240})
        assert not comments({"PatientComments": "a" * 10_240 + "b"})
    assert process_time() - began < 5


def test_no_pattern_of_a_peer_is_kept():
    def ask(number):
        identifier = key(PatientID="*".join(f"{number:04}{n:03}" for n in range(100)))
        assert not matching.matches(identifier, {"PatientID": "x"})

    ask(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 100):
            ask(number)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_a_wrong_key_is_an_error_whatever_the_other_keys_find():
    identifier = key(PatientID="A")
    identifier.update(raw("StudyTime", b"secret"))
    for patient in ("A", "B"):
        with pytest.raises(IdentifierError, match="StudyTime"):
            matching.matches(identifier, {"PatientID": patient, "StudyTime": "10"})


def test_a_compiled_identifier_is_read_once():
    reads = []

    class Watched(Dataset):
        def get_item(self, *args, **kwargs):
            reads.append(args)
            return super().get_item(*args, **kwargs)

    identifier = Watched()
    identifier.PatientName, identifier.StudyDate = "doe*", "20240101-"
    reads.clear()
    found = matching.matcher(identifier)
    for _ in range(100):
        assert found({"PatientName": "Doe^John", "StudyDate": "20240115"})
    assert len(reads) == 2


def test_many_patterns_and_ranges_are_sql_that_sqlite_takes():
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE studies (id, day)")
    database.execute("INSERT INTO studies VALUES ('1500X', '20200101')")
    asked = Dataset()
    asked.PatientID = [f"{number:04}*" for number in range(2000)]
    asked.StudyDate = [f"20{number:02}0101-20{number:02}0102" for number in range(50)] * 40
    where = matching.where(asked, {"PatientID": "id", "StudyDate": "day"})
    found = database.execute(f"SELECT id FROM studies WHERE {where.sql}", where.parameters)
    assert found.fetchall() == [("1500X",)]
    database.close()


def test_invalid_sequence_key_is_refused():
    text, items, item = Dataset(), Dataset(), Dataset()
    text.add(DataElement("ScheduledProcedureStepSequence", "LO", "CT"))
    item.Modality = "CT"
    items.ScheduledProcedureStepSequence = [item]
    with pytest.raises(IdentifierError, match="ScheduledProcedureStepSequence"):
        matching.matches(text, items)
    with pytest.raises(IdentifierError, match="ScheduledProcedureStepSequence"):
        matching.where(text, {"ScheduledProcedureStepSequence": {"Modality": "modality"}})
    assert matching.matches(items, text)
    assert not matching.matches(items, text, empty_matches=False)
