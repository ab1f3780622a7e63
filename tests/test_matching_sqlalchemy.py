"""`matching.where` inside a SELECT of SQLAlchemy, with SQLite and PostgreSQL."""

import pytest
from pydicom import Dataset
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    or_,
    select,
    text,
)
from support.postgresql import server

from pacsroute import matching

_METADATA = MetaData()
STUDY = Table(
    "study",
    _METADATA,
    Column("id", Integer),
    Column("patient_id", String),
    Column("name", String),
    Column("date", String),
    Column("time", String),
    Column("modalities", String),
    Column("number", Integer),
)
COLUMNS = {
    "PatientID": "study.patient_id",
    "PatientName": "study.name",
    "StudyDate": "study.date",
    "StudyTime": "study.time",
    "ModalitiesInStudy": "study.modalities",
    "StudyInstanceUID": "study.patient_id",
    "NumberOfStudyRelatedInstances": "study.number",
}
ROWS = [
    {"PatientID": "1", "PatientName": "Doe^John", "ModalitiesInStudy": "CT\\MR", "number": 4},
    {"PatientID": "a:b%_?", "PatientName": "Müller^Eva", "ModalitiesInStudy": "US", "number": 5},
    {"PatientID": "3", "PatientName": "Doe^Jane", "ModalitiesInStudy": None, "number": None},
]


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def engine(request):
    if request.param == "sqlite":
        yield create_engine("sqlite://")
        return
    with server() as running:
        engine = create_engine(running.url().replace("postgresql:", "postgresql+psycopg:"))
        yield engine
        engine.dispose()


@pytest.fixture(scope="module")
def connection(engine):
    _METADATA.create_all(engine)
    with engine.connect() as connection:
        for number, row in enumerate(ROWS):
            values = {
                "id": number,
                "patient_id": row["PatientID"],
                "name": matching.stored("PatientName", row["PatientName"]),
                "date": f"2024010{number + 1}",
                "time": "120000",
                "modalities": row["ModalitiesInStudy"],
                "number": row["number"],
            }
            connection.execute(insert(STUDY), values)
        yield connection


def keys(**values):
    identifier = Dataset()
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier


def condition(identifier, connection, prefix="key"):
    where = matching.where(identifier, COLUMNS, dialect=connection.dialect.name)
    sql, values = where.named(prefix)
    return text(sql).bindparams(**values)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [0, 1, 2]),
        ({"PatientID": "1"}, [0]),
        ({"PatientID": "a:b%_?"}, [1]),
        ({"PatientID": "a:b%*"}, [1]),
        ({"PatientName": "doe*"}, [0, 2]),
        ({"PatientName": "MÜLLER*"}, [1]),
        ({"StudyDate": "20240102-"}, [1, 2]),
        ({"StudyDate": "20240101-20240102", "StudyTime": "1100-1300"}, [0, 1]),
        ({"ModalitiesInStudy": "MR"}, [0, 2]),
        ({"StudyInstanceUID": ["1", "3", "7"]}, [0, 2]),
        ({"NumberOfStudyRelatedInstances": 5}, [1, 2]),
    ],
)
def test_select_of_sqlalchemy_finds_what_matches(connection, asked, expected):
    if asked.get("StudyInstanceUID"):
        asked = {"StudyInstanceUID": asked["StudyInstanceUID"]}
    found = select(STUDY.c.id).where(condition(keys(**asked), connection)).order_by(STUDY.c.id)
    assert list(connection.execute(found).scalars()) == expected


def test_two_conditions_of_one_statement_have_names_of_their_own(connection):
    first = condition(keys(PatientID="1"), connection, "a")
    second = condition(keys(PatientName="müller*"), connection, "b")
    found = select(STUDY.c.id).where(or_(first, second)).order_by(STUDY.c.id)
    assert list(connection.execute(found).scalars()) == [0, 1]


def test_column_with_a_mark_of_its_own_is_an_error():
    where = matching.where(keys(PatientID="1"), {"PatientID": "replace(study.id, '?', '')"})
    with pytest.raises(ValueError, match="mark"):
        where.named()
