"""The Native DICOM Model (PS3.19 §A.1)."""

from xml.etree import ElementTree

import pydicom
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from support.samples import SAMPLES
from support.web import CT, MR_RLE, ROOT, parts, path_of, read, store

from pacsroute import dicom_json
from pacsroute.dataset import encode
from pacsroute.dataset.from_json import from_dicom_json
from pacsroute.errors import DataSetError
from pacsroute.instances.instance import Instance
from pacsroute.web.xml_model import XML, model_of, xml_of

EXPLICIT = "1.2.840.10008.1.2.1"
NS = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def model(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dicom_json(encode(dataset, EXPLICIT), EXPLICIT)


def attributes(text):
    root = ElementTree.fromstring(text)
    assert root.tag == f"{NS}NativeDicomModel"
    assert root.get("{http://www.w3.org/XML/1998/namespace}space") == "preserve"
    return {one.get("tag"): one for one in root}


def texts(element):
    return [(one.get("number"), one.text) for one in element]


def test_values_are_numbered():
    found = attributes(xml_of(model(ImageType=["MPG", "", "XR3"], StudyID="", Rows=7)))
    assert texts(found["00080008"]) == [("1", "MPG"), ("2", None), ("3", "XR3")]
    assert found["00080008"].attrib == {"tag": "00080008", "keyword": "ImageType", "vr": "CS"}
    assert texts(found["00200010"]) == []
    assert texts(found["00280010"]) == [("1", "7")]


def test_names_have_groups_and_components():
    text = xml_of(model(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^^T^Dr=山田^太郎="))
    (name,) = attributes(text)["00100010"]
    alphabetic, ideographic = name
    assert [(one.tag, one.text) for one in alphabetic] == [
        (f"{NS}FamilyName", "Yamada"),
        (f"{NS}MiddleName", "T"),
        (f"{NS}NamePrefix", "Dr"),
    ]
    assert ideographic.tag == f"{NS}Ideographic"
    assert model_of(text, 9)["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^^T^Dr", "Ideographic": "山田^太郎"}
    ]


def test_private_elements_name_their_creator():
    dataset = Dataset()
    for creator in ("ONE", "TWO"):
        dataset.private_block(0x0009, creator, create=True).add_new(0x01, "SH", creator.lower())
    text = xml_of(dicom_json(encode(dataset, EXPLICIT), EXPLICIT))
    found = [
        (one.get("tag"), one.get("privateCreator"), one[0].text)
        for one in ElementTree.fromstring(text)
    ]
    assert found == [("00090001", "ONE", "one"), ("00090001", "TWO", "two")]
    again = pydicom.Dataset.from_json(model_of(text, 9))
    assert again == dataset


def test_what_xml_cannot_hold_is_left_out_and_line_ends_stay():
    text = xml_of(model(StudyDescription="a\x1bb\x00\x0c<&>", TextValue="x\r\ny"))
    assert model_of(text, 9)["00081030"]["Value"] == ["ab<&>"]
    assert model_of(text, 9)["0040A160"]["Value"] == ["x\r\ny"]


@pytest.mark.parametrize("name", SAMPLES)
def test_each_of_pydicoms_files_there_and_back(name):
    instance = Instance(get_testdata_file(name))
    try:
        with instance.open() as file:
            whole = dicom_json(file, instance.transfer_syntax)
        written = from_dicom_json(whole)
    except DataSetError:
        pytest.skip("it cannot be read or written in JSON either")
    again = model_of(xml_of(whole), 99)
    # Blocks of private elements may have another number.
    assert dicom_json(from_dicom_json(_public(again)), EXPLICIT) == _public(
        dicom_json(written, EXPLICIT)
    )


def _public(model):
    """Leave out what XML does not keep: the blocks of private elements, and trailing carets."""
    return {
        tag: _kept(element) if element.get("Value") else element
        for tag, element in model.items()
        if int(tag[3], 16) % 2 == 0
    }


def _kept(element):
    values = element["Value"]
    if element["vr"] == "SQ":
        values = [_public(item) for item in values]
    elif element["vr"] == "PN":
        values = [{key: text.rstrip("^") for key, text in (one or {}).items()} for one in values]
        if not any(text for one in values for text in one.values()):
            return {"vr": "PN"}
    return element | {"Value": values}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"<a/>",
        b"<NativeDicomModel><DicomAttribute/></NativeDicomModel>",
        b'<NativeDicomModel><DicomAttribute tag="x"/></NativeDicomModel>',
        b'<NativeDicomModel><Value number="1">x</Value></NativeDicomModel>',
        b'<NativeDicomModel><DicomAttribute tag="00100020" vr="LO"><Value number="999999999"/>'
        b"</DicomAttribute></NativeDicomModel>",
        b'<NativeDicomModel><DicomAttribute tag="00100020" vr="LO"><Value number="0"/>'
        b"</DicomAttribute></NativeDicomModel>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><NativeDicomModel>&b;</NativeDicomModel>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><NativeDicomModel/>',
        b"<NativeDicomModel>"
        + b'<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' * 50
        + b"</Item></DicomAttribute>" * 50
        + b"</NativeDicomModel>",
        b'<NativeDicomModel><DicomAttribute tag="00100010" vr="PN"><PersonName number="1">'
        b"<FamilyName>x</FamilyName></PersonName></DicomAttribute></NativeDicomModel>",
    ],
)
def test_what_is_no_model_is_an_error(text):
    with pytest.raises(DataSetError):
        model_of(text, 9)


@pytest.mark.parametrize(
    "text",
    [
        "0" * 5_000_000,
        "<" + "a" * 5_000_000,
        f"<NativeDicomModel><!--{'a' * 5_000_000}--></NativeDicomModel>",
        f"<NativeDicomModel a='{'a' * 5_000_000}'></NativeDicomModel>",
    ],
)
def test_a_tag_without_end_is_not_looked_at_again_and_again(text):
    with pytest.raises(DataSetError, match="bytes"):
        model_of(text.encode(), 9)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_long_value_is_read_in_pieces(end):
    value = f"QUJD{end}" * 1_000_000
    text = f"<DicomAttribute tag='00420011' vr='OB'><InlineBinary>{value}</InlineBinary>"
    model = model_of(f"<NativeDicomModel>{text}</DicomAttribute></NativeDicomModel>".encode(), 9)
    assert model["00420011"]["InlineBinary"] == "QUJD" * 1_000_000


def test_left_out_values_take_no_more_memory_than_a_model_may():
    values = "".join(f'<Value number="{1025 * number}"/>' for number in range(1, 2000))
    text = f'<NativeDicomModel><DicomAttribute tag="00081030" vr="LO">{values}'
    with pytest.raises(DataSetError, match="left out"):
        model_of(f"{text}</DicomAttribute></NativeDicomModel>".encode(), 9)


def test_a_vr_may_be_missing_and_numbers_may_skip_empty_values():
    text = (
        '<NativeDicomModel><DicomAttribute tag="00080008"><Value number="1">A</Value>'
        '<Value number="3">C</Value></DicomAttribute></NativeDicomModel>'
    )
    assert model_of(text.encode(), 9) == {"00080008": {"vr": "CS", "Value": ["A", None, "C"]}}


# ------------------------------------------------------------- over HTTP

HEADERS = {"Accept": f'multipart/related; type="{XML}"'}


@pytest.fixture
def stored(web):
    assert store(web, CT, MR_RLE).status_code == 200
    return web


def test_matches_come_in_parts(stored):
    found = parts(stored.get(f"{ROOT}/studies", headers=HEADERS))
    assert [kind for kind, _ in found] == [XML, XML]
    in_json = stored.get(f"{ROOT}/studies").json
    assert [model_of(text, 9)["0020000D"] for _, text in found] == [
        row["0020000D"] for row in in_json
    ]
    nothing = stored.get(f"{ROOT}/studies?PatientID=nobody", headers=HEADERS)
    assert (nothing.status_code, nothing.data) == (204, b"")


def test_metadata_name_their_bulk_data(stored):
    ct = read(CT)
    ((_, text),) = parts(stored.get(f"{path_of(ct)}/metadata", headers=HEADERS))
    (bulk,) = attributes(text)["7FE00010"]
    assert bulk.tag == f"{NS}BulkData"
    path = bulk.get("uri").removeprefix("http://localhost")
    assert stored.get(path).data == ct.PixelData
    tagged = stored.get(f"{path_of(ct)}/metadata", headers={"Accept": XML}).headers["ETag"]
    again = {"Accept": XML, "If-None-Match": tagged}
    assert stored.get(f"{path_of(ct)}/metadata", headers=again).status_code == 304
