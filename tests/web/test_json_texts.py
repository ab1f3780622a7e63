"""JSON text of data sets, most of whose elements were converted before."""

from io import BytesIO

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.samples import FILES

from pacsroute.dataset import encode
from pacsroute.dataset.json_model import dicom_json
from pacsroute.errors import DataSetError
from pacsroute.instances import part10
from pacsroute.uids import EXPLICIT_VR_LITTLE_ENDIAN as EXPLICIT
from pacsroute.uids import IMPLICIT_VR_LITTLE_ENDIAN as IMPLICIT
from pacsroute.web import json_texts
from pacsroute.web.json_texts import JsonTexts

PATHS = sorted(path for path in FILES.rglob("*.dcm") if path.is_file())


def uri(path, vr, length):
    return "/".join((*path, vr))


def opened(path):
    file = BytesIO(path.read_bytes())
    try:
        return file, part10.head_of(file).transfer_syntax or IMPLICIT
    except DataSetError:
        pytest.skip("not a Part 10 file")


def expected(file, syntax):
    start = file.tell()
    try:
        return dict(sorted(dicom_json(file, syntax, bulk_data=uri).items()))
    except DataSetError as error:
        return str(error)
    finally:
        file.seek(start)


def found(texts, file, syntax):
    start = file.tell()
    try:
        elements = texts.of(file, syntax)
    except DataSetError as error:
        return str(error)
    finally:
        file.seek(start)
    model = orjson.loads(b"{" + b",".join(elements.values()) + b"}")
    assert [f"{tag:08X}" for tag in elements] == list(model) == sorted(model)
    return model


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_texts_are_those_of_the_model_the_first_time_and_again(path):
    file, syntax = opened(path)
    texts, model = JsonTexts(bulk_data=uri), expected(file, syntax)
    assert found(texts, file, syntax) == model
    assert found(texts, file, syntax) == model


def test_files_of_all_kinds_share_nothing_that_they_do_not_have_in_common():
    texts = JsonTexts(bulk_data=uri)
    for path in PATHS:
        file = BytesIO(path.read_bytes())
        try:
            syntax = part10.head_of(file).transfer_syntax or IMPLICIT
        except DataSetError:
            continue
        assert found(texts, file, syntax) == expected(file, syntax), path.name


def test_of_a_series_only_what_is_new_is_converted(monkeypatch):
    converted = []

    def watched(dataset, *arguments):
        converted.append(len(dataset))
        return json_of(dataset, *arguments)

    json_of = json_texts.json_of
    monkeypatch.setattr(json_texts, "json_of", watched)
    monkeypatch.setattr(json_texts, "dicom_json", None)
    texts = JsonTexts(bulk_data=uri)
    for number in range(3):
        row = {
            "PatientName": "Doe^John",
            "PatientID": "1",
            "StudyDescription": "Head",
            "InstanceNumber": str(number),
            "PixelData": bytes(100_000),
        }
        model = found(texts, BytesIO(encode(row, EXPLICIT)), EXPLICIT)
        assert model["00200013"]["Value"] == [number]
        assert model["7FE00010"]["BulkDataURI"] == "7FE00010/OW"
    assert converted == [4, 1, 1]


def test_texts_that_nothing_shares_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(json_texts, "_KEPT", 50_000)
    texts = JsonTexts(bulk_data=uri)
    for number in range(300):
        row = {"PatientComments": f"{number}" * 200}
        file = BytesIO(encode(row, EXPLICIT))
        assert found(texts, file, EXPLICIT) == expected(file, EXPLICIT)
        kept = sum(len(raw) + len(text) for raw, text in texts._texts.items())
        assert kept < 60_000


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_tells_how_others_are_read_is_looked_at_in_each_data_set(syntax):
    texts = JsonTexts(bulk_data=uri)
    rows = [
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Äneas"},
        {"SpecificCharacterSet": "ISO_IR 101", "PatientName": "Äneas"},
        {"PixelRepresentation": 1, "SmallestImagePixelValue": -2},
        {"PixelRepresentation": 0, "SmallestImagePixelValue": 65534},
        {"PatientID": "1"},
    ]
    for row in (*rows, *rows[::-1], *rows):
        file = BytesIO(encode(row, syntax))
        assert found(texts, file, syntax) == expected(file, syntax)


@given(st.binary(max_size=200), st.sampled_from([EXPLICIT, IMPLICIT]))
def test_any_bytes_have_the_same_text_or_error(data, syntax):
    whole = encode({"PatientID": "1", "InstanceNumber": "2"}, syntax) + data
    file = BytesIO(whole)
    assert found(JsonTexts(bulk_data=uri), file, syntax) == expected(file, syntax)
