"""The DICOM JSON Model (PS3.18 Annex F), against pydicom's."""

import base64
import json
import logging
import math
import warnings
from io import BytesIO

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from support.samples import FILES

from pacsroute import DataSetError, dicom_json, from_dicom_json, uids
from pacsroute.dataset import encode, parse
from pacsroute.dataset.value_writer import swapped
from pacsroute.instances import part10

EXPLICIT, IMPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN
ROOT = FILES.parent
PATHS = [
    path
    for path in sorted(ROOT.rglob("*"))
    if path.is_file()
    and "__pycache__" not in path.parts
    and path.suffix not in (".py", ".txt", ".json", ".hashes", ".md")
]
# What pydicom reads to its end although a part of it is missing.
CUT_OFF = {"MR_truncated.dcm", "DICOMDIR-nooffset", "rtplan_truncated.dcm"}


def comparable(model, big_endian=False):
    """Return pydicom's JSON without group lengths, with NaN as a text, in little endian."""
    found = {}
    for key, original in model.items():
        if key.endswith("0000"):
            continue
        element = dict(original)
        if element["vr"] == "SQ":
            element["Value"] = [comparable(item, big_endian) for item in element["Value"]]
        elif "Value" in element:
            element["Value"] = [
                "NaN" if isinstance(one, float) and math.isnan(one) else one
                for one in element["Value"]
            ]
        elif big_endian and element["vr"] == "OW" and "InlineBinary" in element:
            data = swapped(base64.b64decode(element["InlineBinary"]), 2)
            element["InlineBinary"] = base64.b64encode(data).decode()
        found[key] = element
    return found


def theirs(path):
    """Return pydicom's JSON of a file, or None where it cannot read or write it."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            is_big = dataset.original_encoding == (False, False)
            return comparable(dataset.to_json_dict(), is_big)
    except Exception:  # noqa: BLE001 - it raises whatever comes up
        return None
    finally:
        logging.disable(logging.NOTSET)


def opened(path):
    """Return what a file's data set is read from, and its transfer syntax."""
    file = BytesIO(path.read_bytes())
    return file, part10.head_of(file).transfer_syntax or IMPLICIT


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_the_json_of_pydicoms_files_is_pydicoms(path):
    expected = theirs(path)
    if expected is None:
        pytest.skip("pydicom has no JSON for it")
    if path.name in CUT_OFF:
        file, syntax = opened(path)
        with file, pytest.raises(DataSetError):
            dicom_json(file, syntax)
        return
    try:
        file, syntax = opened(path)
    except DataSetError:
        pytest.skip("not a Part 10 file")
    with file:
        found = dicom_json(file, syntax)
    assert found == expected
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_the_json_of_pydicoms_files_comes_back_as_the_same_data_set(path):
    try:
        file, syntax = opened(path)
        with file:
            found = dicom_json(file, syntax)
    except DataSetError:
        pytest.skip("not a whole Part 10 file")
    again = dicom_json(from_dicom_json(json.loads(json.dumps(found))), EXPLICIT)
    assert settled(again) == settled(found)


def settled(model):
    """Return a model whose binary values are even, without its character sets.

    JSON has every character; a set has not, and becomes UTF-8 then.
    """
    found = {}
    for key, original in model.items():
        element = dict(original)
        if element["vr"] == "SQ":
            element["Value"] = list(map(settled, element["Value"]))
        elif "InlineBinary" in element:
            data = base64.b64decode(element["InlineBinary"])
            element["InlineBinary"] = data + b"\0" * (len(data) & 1)
        if key != "00080005":
            found[key] = element
    return found


def test_most_of_pydicoms_files_are_compared():
    assert sum(theirs(path) is not None for path in PATHS[::10]) > 10


texts = st.text(st.characters(codec="utf-8", exclude_characters="\\=^\0\x1b", min_codepoint=32))
VALUES = {
    "PatientID": texts.map(str.strip),
    "PatientName": texts.map(str.strip),
    "SeriesNumber": st.integers(-(2**31), 2**31 - 1),
    "PatientSize": st.floats(-1e6, 1e6).map(lambda number: round(number, 3)),
    "Rows": st.integers(0, 65535),
    "ImageType": st.lists(st.sampled_from(["A", "B"]), min_size=2, max_size=4),
    "RedPaletteColorLookupTableData": st.binary(max_size=2000).filter(lambda b: not len(b) & 1),
    "SelectorFDValue": st.lists(st.floats(), min_size=1, max_size=3),
    "FrameIncrementPointer": st.integers(0, 2**32 - 1),
}


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES), st.sampled_from([EXPLICIT, IMPLICIT]))
def test_any_data_set_has_pydicoms_json_and_comes_back(row, syntax):
    data = encode({**row, "RequestAttributesSequence": [row]}, syntax)
    found = dicom_json(data, syntax)
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = parse(data, syntax).to_json_dict()
    logging.disable(logging.NOTSET)
    assert found == _finite(expected)
    assert dicom_json(from_dicom_json(found, syntax), syntax) == found


def _finite(model):
    for element in model.values():
        if element["vr"] == "SQ":
            element["Value"] = [_finite(item) for item in element["Value"]]
        elif element["vr"] == "FD":
            texts = {math.inf: "inf", -math.inf: "-inf"}
            element["Value"] = [
                "NaN" if math.isnan(one) else texts.get(one, one) for one in element["Value"]
            ]
    return model


def test_numbers_that_are_none_stay_texts():
    data = b"\x20\0\x13\0IS\2\0001A" + b"\x28\0\x30\0DS\4\0nan "
    assert dicom_json(data, EXPLICIT) == {
        "00200013": {"vr": "IS", "Value": ["1A"]},
        "00280030": {"vr": "DS", "Value": ["NaN"]},
    }


def test_bulk_data_is_named_by_its_path_and_not_read():
    item = {"WaveformData": bytes(2000), "WaveformBitsAllocated": 16}
    row = {
        "WaveformSequence": [item, item],
        "PixelData": bytes(5000),
        "RedPaletteColorLookupTableData": b"12",
    }
    asked = []

    def uri(path, vr, length):
        asked.append((vr, length))
        return "/".join(path)

    found = dicom_json(encode(row, EXPLICIT), EXPLICIT, bulk_data=uri)
    assert found["7FE00010"] == {"vr": "OW", "BulkDataURI": "7FE00010"}
    items = found["54000100"]["Value"]
    assert [one["54001010"]["BulkDataURI"] for one in items] == [
        "54000100/1/54001010",
        "54000100/2/54001010",
    ]
    assert found["00281201"]["InlineBinary"] == "MTI="
    assert asked == [("OW", 2000), ("OW", 2000), ("OW", 5000)]
    values = {"7FE00010": bytes(5000)}
    back = from_dicom_json(found, bulk_data=lambda uri: values.get(uri, bytes(2000)))
    assert parse(back, EXPLICIT).PixelData == bytes(5000)
    with pytest.raises(DataSetError, match="bulk data"):
        from_dicom_json(found)


@pytest.mark.parametrize(
    "model",
    [
        [],
        {"0010": {"vr": "LO"}},
        {"00100020": []},
        {"00100020": {"vr": "XX", "Value": ["secret"]}},
        {"00280010": {"vr": "US", "Value": ["secret"]}},
        {"00280010": {"vr": "US", "Value": [-1]}},
        {"00100010": {"vr": "PN", "Value": [1]}},
        {"00081140": {"vr": "SQ", "Value": ["secret"]}},
        {"7FE00010": {"vr": "OW", "InlineBinary": "secret!"}},
        {"00280010": {"vr": "US", "Value": 1}},
    ],
    ids=str,
)
def test_what_is_no_json_model_is_refused_without_its_values(model):
    with pytest.raises(DataSetError) as caught:
        from_dicom_json(model)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["+0080018", "0x080018", "0008_018", "\uff100080018", "0008001", "0008 018", "-0080018"]
)
def test_a_key_that_is_no_tag_is_refused(key):
    with pytest.raises(DataSetError, match="eight digits"):
        from_dicom_json({"00080018": {"vr": "UI", "Value": ["1.2"]}, key: {"vr": "UI"}})


def test_an_element_is_not_there_twice():
    twice = {"0008001a": {"vr": "UI", "Value": ["1.2"]}, "0008001A": {"vr": "UI", "Value": ["1.3"]}}
    with pytest.raises(DataSetError, match="twice"):
        from_dicom_json(twice)


@pytest.mark.parametrize("tag", ["FFFEE000", "FFFEE00D", "FFFEE0DD"])
def test_delimiters_are_no_elements(tag):
    """A reader would take the sequence around one for ended, and the rest for something else."""
    inner = {"00080050": {"vr": "SH", "Value": ["A"]}}
    plain = from_dicom_json({"00081140": {"vr": "SQ", "Value": [inner]}})
    inner |= {tag: {"vr": "UN", "InlineBinary": "AAAA"}}
    assert from_dicom_json({"00081140": {"vr": "SQ", "Value": [inner]}}) == plain


def test_text_goes_into_its_own_character_set_or_else_into_utf8():
    name = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller"}]}}
    latin = {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, **name}
    assert b"M\xfcller" in from_dicom_json(latin)
    greek = {"00080005": {"vr": "CS", "Value": ["ISO_IR 126"]}, **name}
    written = parse(from_dicom_json(greek), EXPLICIT)
    assert written.SpecificCharacterSet == "ISO_IR 192"
    assert written.PatientName == "Müller"


def test_a_data_set_that_was_changed_has_its_new_values():
    from pacsroute.dataset import json_of

    dataset = parse(encode({"PatientID": "1", "Rows": 2}, EXPLICIT), EXPLICIT)
    dataset.PatientID, dataset.Columns = "2", 3
    assert json_of(dataset) == {
        "00100020": {"vr": "LO", "Value": ["2"]},
        "00280010": {"vr": "US", "Value": [2]},
        "00280011": {"vr": "US", "Value": [3]},
    }
    assert json_of(Dataset()) == {}
