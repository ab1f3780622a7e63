"""Matching in PostgreSQL, beyond the answers that it shares with SQLite: see `test_matching`."""

import psycopg
import pytest
from pydicom import Dataset
from support.postgresql import server

from pacsroute import matching

COLUMNS = {
    "PatientID": "pid",
    "PatientName": "name",
    "StudyDate": "date",
    "StudyInstanceUID": "uid",
    "SeriesNumber": "number",
    "ModalitiesInStudy": "modalities",
}


@pytest.fixture(scope="module")
def database():
    with server() as running, psycopg.connect(running.url(), autocommit=True) as db:
        yield db


def key(**values):
    identifier = Dataset()
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier


def where(identifier, **options):
    return matching.where(identifier, COLUMNS, dialect="postgresql", **options)


def table(db, collation="", rows=()):
    db.execute("DROP TABLE IF EXISTS study")
    text = f"text {collation}"
    db.execute(
        f"CREATE TABLE study (pid {text}, name {text}, date {text}, uid {text},"
        f" number integer, modalities {text})"
    )
    for row in rows:
        db.execute("INSERT INTO study VALUES (%s, %s, %s, %s, %s, %s)", row)


def test_open_ranges_find_in_any_collation(database):
    """'20240131' BETWEEN '20240101' AND '~' is false among people who sort '~' before digits."""
    row = ("A", "doe", "20240131", "1.2", 7, "CT")
    table(database, 'COLLATE "en-x-icu"', [row])
    between = "SELECT date BETWEEN '20240101' AND '~' FROM study"
    assert database.execute(between).fetchall() == [(False,)]
    for wanted in ("20240101-", "-20240301", "20240101-20240201"):
        sql, parameters = where(key(StudyDate=wanted))
        assert database.execute(f"SELECT pid FROM study WHERE {sql}", parameters).fetchall()


@pytest.mark.parametrize(
    "identifier",
    [
        key(PatientID="P00500"),
        key(StudyInstanceUID=["1.2.500", "1.2.501"]),
        key(StudyDate="20240101"),
        key(StudyDate="20240101-20240102"),
        key(PatientName="DOE500*"),
        key(SeriesNumber="500"),
    ],
)
@pytest.mark.parametrize("empty_matches", [False, True])
def test_an_index_of_postgresql_serves_the_everyday_keys(database, identifier, empty_matches):
    table(database, 'COLLATE "C"')
    database.execute(
        "INSERT INTO study SELECT 'P' || lpad(n::text, 5, '0'), 'doe' || n, (20200000 + n)::text,"
        " '1.2.' || n, n, 'CT' FROM generate_series(1, 20000) AS n"
    )
    for column in ("pid", "name", "date", "uid", "number"):
        database.execute(f"CREATE INDEX ON study ({column})")
    database.execute("ANALYZE study")
    sql, parameters = where(identifier, empty_matches=empty_matches)
    plan = database.execute(f"EXPLAIN SELECT * FROM study WHERE {sql}", parameters).fetchall()
    assert "Index Scan" in str(plan)
    assert "Seq Scan" not in str(plan)


def test_as_much_as_an_identifier_may_ask_for_is_sql_that_postgresql_takes(database):
    table(database, rows=[("1500X", "doe", "20200101", "1.2.9999", 7, "CT\\MR")])
    wanted = [
        key(PatientID=[f"{number:04}*" for number in range(2000)]),
        key(StudyInstanceUID=[f"1.2.{number}" for number in range(10_000)]),
        key(StudyDate=[f"20{n % 99:02}0101-20{n % 99:02}0102" for n in range(2000)]),
        key(SeriesNumber=[str(number) for number in range(5000)]),
        key(ModalitiesInStudy=[f"X{number}" for number in range(5000)] + ["MR"]),
    ]
    for identifier in wanted:
        sql, parameters = where(identifier)
        found = database.execute(f"SELECT pid FROM study WHERE {sql}", parameters).fetchall()
        assert found == [("1500X",)]


def test_percent_signs_and_underscores_are_no_wildcards_in_postgresql(database):
    rows = [("a%c", *[None] * 5), ("abc", *[None] * 5), ("a_c", *[None] * 5), ("a\\", *[None] * 5)]
    table(database, rows=rows)
    for wanted, expected in (
        ("a%*", {"a%c"}),
        ("a_*", {"a_c"}),
        ("a?c", {"a%c", "abc", "a_c"}),
        ("a*", {"a%c", "abc", "a_c", "a\\"}),
    ):
        sql, parameters = where(key(PatientID=wanted), empty_matches=False)
        found = database.execute(f"SELECT pid FROM study WHERE {sql}", parameters).fetchall()
        assert {row[0] for row in found} == expected


def test_values_never_become_sql_of_postgresql():
    wanted = "'; DROP TABLE study; --"
    sql, parameters = where(key(PatientID=wanted, ModalitiesInStudy=wanted, PatientName="%s*"))
    assert "DROP" not in sql
    assert parameters.count(wanted) == 2
    assert sql.count("%s") == len(parameters)


def test_a_dialect_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="not 'oracle'"):
        matching.where(Dataset(), {}, dialect="oracle")
