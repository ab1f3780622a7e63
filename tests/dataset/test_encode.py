"""Encoding: every VR in every syntax against pydicom, and rows against a slow reference."""

from __future__ import annotations

import itertools
import math
import struct
import warnings
import zlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO

import numpy
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from pydicom.valuerep import PersonName

from pacsroute.dataset.encoding import RowEncoder, encode
from pacsroute.dataset.parsing import identifier, parse
from pacsroute.dataset.vr import syntax
from pacsroute.dataset.writer import encoder_of_all
from pacsroute.errors import DataSetError

EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
SYNTAXES = [EXPLICIT, IMPLICIT, BIG, DEFLATED]


def read(data: bytes, transfer_syntax: str) -> Dataset:
    """What pydicom makes of the bytes."""
    how = syntax(transfer_syntax)
    if how.deflated:
        data = zlib.decompressobj(-15).decompress(data)
    return read_dataset(BytesIO(data), how.implicit, how.little)


def plain(value):
    if isinstance(value, (MultiValue, list)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, (str, PersonName)) else value


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\\^=\r\n\t\f\0\x1b"), max_size=30)
TEXT = TEXT.map(lambda t: "x" + t.strip() + "x")


def number(bits: int, signed: bool):
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.integers(low, high)


def one_or_more(values):
    return values | st.lists(values, min_size=2, max_size=4)


BYTES = st.binary(min_size=1, max_size=8).map(lambda b: b * 8)
UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=5).map(lambda n: ".".join(map(str, n)))
VALUES = {
    "PerformedStationAETitle": ("AE", st.sampled_from(["A", "STORE_SCP"])),
    "PatientAge": ("AS", st.sampled_from(["042Y", "006M"])),
    "FrameIncrementPointer": (
        "AT",
        st.integers(0, 0xFFFFFFFF) | st.lists(st.integers(0, 0xFFFFFFFF), min_size=2, max_size=3),
    ),
    "ModalitiesInStudy": ("CS", one_or_more(st.sampled_from(["CT", "MR", "SEG"]))),
    "StudyDate": ("DA", st.dates()),
    "PixelSpacing": (
        "DS",
        one_or_more(st.floats(-1e307, 1e307) | st.integers(-9999, 9999)),
    ),
    "AcquisitionDateTime": ("DT", st.datetimes()),
    "RealWorldValueSlope": ("FD", st.floats(allow_nan=False)),
    "RecommendedDisplayFrameRateInFloat": ("FL", st.floats(width=32, allow_nan=False)),
    "InstanceNumber": ("IS", number(32, True)),
    "OtherPatientIDs": ("LO", one_or_more(TEXT)),
    "AdditionalPatientHistory": ("LT", TEXT),
    "EncapsulatedDocument": ("OB", BYTES),
    "DoubleFloatPixelData": ("OD", BYTES),
    "FloatPixelData": ("OF", BYTES),
    "TrackPointIndexList": ("OL", BYTES),
    "ExtendedOffsetTable": ("OV", BYTES),
    "RedPaletteColorLookupTableData": ("OW", BYTES),
    "PatientName": ("PN", TEXT.map(lambda t: f"{t}^{t}")),
    "AccessionNumber": ("SH", TEXT),
    "DisplayedAreaTopLeftHandCorner": ("SL", one_or_more(number(32, True))),
    "TagAngleSecondAxis": ("SS", number(16, True)),
    "InstitutionAddress": ("ST", TEXT),
    "SelectorSVValue": ("SV", one_or_more(number(64, True))),
    "StudyTime": ("TM", st.times()),
    "LongCodeValue": ("UC", TEXT),
    "StudyInstanceUID": ("UI", UIDS),
    "SimpleFrameList": ("UL", one_or_more(number(32, False))),
    "SelectorUNValue": ("UN", BYTES),
    "RetrieveURL": ("UR", st.just("http://example.org/a?b=c")),
    "Rows": ("US", number(16, False)),
    "TextValue": ("UT", TEXT),
    "SelectorUVValue": ("UV", one_or_more(number(64, False))),
}
ROWS = st.fixed_dictionaries({}, optional={k: s for k, (_, s) in VALUES.items()})


def expected(keyword, value, transfer_syntax):
    vr = VALUES[keyword][0]
    if isinstance(value, list):
        return [expected(keyword, v, transfer_syntax) for v in value]
    if vr == "DA":
        return f"{value.year:04}{value:%m%d}"
    if vr == "TM":
        return value.strftime("%H%M%S.%f" if value.microsecond else "%H%M%S")
    if vr == "DT":
        fraction = f".{value.microsecond:06}" if value.microsecond else ""
        return f"{value.year:04}{value:%m%d%H%M%S}{fraction}"
    size = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(vr)
    if size and transfer_syntax == BIG:
        return b"".join(value[i : i + size][::-1] for i in range(0, len(value), size))
    return value


def test_the_table_of_values_has_every_vr():
    standard = {str(vr.value) for vr in pydicom.valuerep.STANDARD_VR}
    assert {vr for vr, _ in VALUES.values()} | {"SQ"} == standard
    for keyword, (vr, _) in VALUES.items():
        assert pydicom.datadict.dictionary_VR(keyword) == vr


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@given(row=ROWS, nested=ROWS)
def test_encoded_data_sets_are_read_by_pydicom(transfer_syntax, row, nested):
    row = {**row, "RequestAttributesSequence": [nested, {}]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read(encode(row, transfer_syntax), transfer_syntax)
        assert list(dataset.keys()) == sorted(dataset.keys())
        for source, got in (
            (row, dataset),
            (nested, dataset.RequestAttributesSequence[0]),
        ):
            for keyword, value in source.items():
                if keyword == "RequestAttributesSequence":
                    continue
                element = got[keyword]
                want = expected(keyword, value, transfer_syntax)
                vr = VALUES[keyword][0]
                assert vr == element.VR
                have = plain(element.value)
                if vr == "DS":
                    pairs = zip(
                        want if isinstance(want, list) else [want],
                        have if isinstance(have, list) else [have],
                        strict=True,
                    )
                    for a, b in pairs:
                        assert math.isclose(a, float(b), rel_tol=1e-8, abs_tol=1e-300)
                        assert len(b.original_string) <= 16
                else:
                    assert have == want, keyword
        assert len(dataset.RequestAttributesSequence) == 2


@pytest.mark.parametrize("source", SYNTAXES)
@pytest.mark.parametrize("target", SYNTAXES)
@pytest.mark.parametrize("touched", [False, True])
@given(row=ROWS, nested=ROWS)
def test_datasets_come_out_as_their_rows_in_any_syntax(source, target, touched, row, nested):
    row = {**row, "RequestAttributesSequence": [nested]}
    straight = encode(row, target, charset="ISO_IR 192")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for reader in (read, parse):
            dataset = reader(encode(row, source, charset="ISO_IR 192"), source)
            if touched:
                for _ in dataset.iterall():
                    pass
            assert encode(dataset, target) == straight


@given(
    row=ROWS,
    charset=st.sampled_from(
        [None, "ISO_IR 100", "GB18030", "GBK", ["", "ISO 2022 IR 87", "ISO 2022 IR 149"]]
    ),
)
def test_no_character_set_loses_a_character(row, charset):
    data = encode(row, EXPLICIT, charset=charset)
    back = identifier(data, EXPLICIT)
    for keyword, value in row.items():
        if VALUES[keyword][0] in ("LO", "LT", "PN", "SH", "ST", "UC", "UT"):
            assert plain(back[keyword].value) == value


def test_bytes_are_encoded_as_they_are():
    assert encode({"PatientID": "12"}, EXPLICIT) == b"\x10\x00\x20\x00LO\x02\x0012"
    assert encode({"PatientID": "1"}, IMPLICIT) == b"\x10\x00\x20\x00\x02\0\0\x001 "
    assert encode({"PatientID": "12"}, BIG) == b"\x00\x10\x00\x20LO\x00\x0212"
    assert encode({"StudyInstanceUID": "1.2"}, EXPLICIT) == b"\x20\0\x0d\0UI\x04\x001.2\0"
    assert encode({"Rows": 258}, BIG) == b"\x00\x28\x00\x10US\0\x02\x01\x02"
    sequence = encode({"RequestAttributesSequence": [{"PatientID": "12"}]}, EXPLICIT)
    item = b"\x10\x00\x20\x00LO\x02\x0012"
    assert sequence == (
        b"\x40\x00\x75\x02SQ\0\0" + struct.pack("<I", 18) + b"\xfe\xff\x00\xe0\x0a\0\0\0" + item
    )
    deflated = encode({"PatientID": "12"}, DEFLATED)
    assert len(deflated) % 2 == 0
    assert zlib.decompressobj(-15).decompress(deflated) == item


def test_elements_are_in_tag_order():
    row = {"PixelSpacing": [1, 2], "PatientID": "1", "StudyDate": "20240101"}
    assert list(read(encode(row, EXPLICIT), EXPLICIT).keys()) == [
        0x00080020,
        0x00100020,
        0x00280030,
    ]


def test_none_and_empty_values_have_length_zero():
    for keyword in VALUES:
        data = encode({keyword: None}, IMPLICIT)
        assert len(data) == 8
        assert data[4:] == bytes(4)
    assert encode({"RequestAttributesSequence": []}, IMPLICIT)[4:] == bytes(4)
    assert encode({"RequestAttributesSequence": None}, IMPLICIT)[4:] == bytes(4)


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        ("StudyDate", date(812, 1, 2), b"08120102"),
        ("StudyTime", time(1, 2, 3), b"010203"),
        ("StudyTime", time(1, 2, 3, 4), b"010203.000004 "),
        ("AcquisitionDateTime", date(2024, 1, 2), b"20240102"),
        (
            "AcquisitionDateTime",
            datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
            b"20240102030405-0330 ",
        ),
        ("AcquisitionDateTime", datetime(2024, 1, 2, tzinfo=UTC), b"20240102000000+0000 "),
        ("InstanceNumber", 5.0, b"5 "),
        ("InstanceNumber", "5", b"5 "),
        ("InstanceNumber", Decimal(7), b"7 "),
        ("PixelSpacing", [1, 0.5, Decimal("0.25"), "1e3"], b"1\\0.5\\0.25\\1e3"),
        ("PixelSpacing", 1 / 3, b"0.33333333333333"),
        ("PixelSpacing", numpy.array([0.5, 0.25]), b"0.5\\0.25"),
        ("PixelSpacing", 10**20, b"1e+20 "),
        ("ModalitiesInStudy", ("CT", None, "MR"), b"CT\\\\MR"),
        ("ModalitiesInStudy", "CT\\MR", b"CT\\MR "),
        ("FrameIncrementPointer", "PatientID", b"\x10\x00\x20\x00"),
        ("FrameIncrementPointer", (0x10, 0x20), b"\x10\x00\x20\x00"),
        ("FrameIncrementPointer", Tag(0x10, 0x20), b"\x10\x00\x20\x00"),
        ("FrameIncrementPointer", [Tag(0x10, 0x20), "PatientName"], b"\x10\x00\x20\0\x10\0\x10\0"),
        ("PatientName", PersonName("A^B"), b"A^B "),
    ],
)
def test_python_values_are_encoded_for_their_vr(keyword, value, text):
    assert encode({keyword: value}, IMPLICIT)[8:] == text


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", 4711),
        ("PatientID", b"4711"),
        ("PatientID", ["4711", 4711]),
        ("PatientName", 4711),
        ("Rows", "4711"),
        ("Rows", 4711 * 4711),
        ("Rows", True),
        ("RealWorldValueSlope", "4711"),
        ("StudyDate", 4711),
        ("StudyTime", date(4711, 1, 1)),
        ("InstanceNumber", 4711.5),
        ("InstanceNumber", 4711 * 10**9),
        ("PixelSpacing", float("nan")),
        ("PixelSpacing", float("inf")),
        ("PixelSpacing", 1.7976931345e308),
        ("PixelSpacing", 4711 * 10**20 + 1),
        ("PixelSpacing", object()),
        ("FrameIncrementPointer", "4711 is no keyword"),
        ("FrameIncrementPointer", 4711.0),
        ("EncapsulatedDocument", "4711"),
        ("EncapsulatedDocument", [4711]),
        ("InstitutionAddress", ["4711", "4711"]),
        ("RequestAttributesSequence", {"PatientID": "4711"}),
        ("RequestAttributesSequence", "4711"),
        ("RequestAttributesSequence", 4711),
        ("RequestAttributesSequence", ["4711"]),
        ("RequestAttributesSequence", [4711]),
        ("PixelPaddingValue", "4711"),
        ("PixelPaddingValue", 4711 * 4711),
    ],
)
def test_values_of_the_wrong_type_are_refused_without_showing_them(keyword, value):
    for row in ({keyword: value}, {"RequestAttributesSequence": [{keyword: value}]}):
        for transfer_syntax in SYNTAXES:
            with pytest.raises(DataSetError) as caught:
                encode(row, transfer_syntax)
            assert "4711" not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
    if keyword != "RequestAttributesSequence":
        assert keyword in str(caught.value)


@pytest.mark.parametrize("keyword", ["", "_", "Item", "ItemDelimitationItem"])
def test_suggestions_are_keywords_that_rows_may_have(keyword):
    with pytest.raises(DataSetError, match="no such keyword") as caught:
        encode({keyword: 1}, EXPLICIT)
    assert "''?" not in str(caught.value)
    assert "'Item" not in str(caught.value).partition("did you mean")[2]


def test_plans_of_character_sets_do_not_pile_up():
    terms = ["ISO 2022 IR 100", "ISO 2022 IR 101", "ISO 2022 IR 109", "ISO 2022 IR 110"]
    terms += ["ISO 2022 IR 144", "ISO 2022 IR 127", "ISO 2022 IR 126"]
    asked = Dataset()
    asked.RequestedProcedureCodeSequence = []
    row = {"RequestedProcedureCodeSequence": [{"CodeMeaning": "Schädel"}]}
    for some in itertools.islice(itertools.permutations(terms), 600):
        asked.SpecificCharacterSet = list(some)
        RowEncoder(EXPLICIT, asked).encode(row)
    assert len(encoder_of_all(syntax(EXPLICIT))._plans) <= 256


def test_an_unknown_keyword_names_the_nearest():
    with pytest.raises(DataSetError, match=r"'PatientNam'.*'PatientName'"):
        encode({"PatientNam": "A"}, EXPLICIT)
    with pytest.raises(DataSetError, match="PatientID"):
        RowEncoder(EXPLICIT, always={"PatientsID": ""})
    for key in ("", 0x00100010, None):
        with pytest.raises(DataSetError):
            encode({key: "A"}, EXPLICIT)


def test_row_of_another_type_is_refused():
    for row in (["PatientID"], "PatientID", 5):
        with pytest.raises(DataSetError):
            RowEncoder(EXPLICIT).encode(row)


def test_a_row_within_itself_is_refused():
    row = {}
    row["RequestAttributesSequence"] = [row]
    with pytest.raises(DataSetError):
        encode(row, EXPLICIT)


def test_value_too_long_for_its_vr_is_encoded_as_un():
    uids = [f"1.2.826.0.1.3680043.8.498.{n:020}" for n in range(2000)]
    data = encode({"FailedSOPInstanceUIDList": uids}, EXPLICIT)
    assert data[4:8] == b"UN\0\0"
    assert len(data) == 12 + struct.unpack("<I", data[8:12])[0]
    assert encode({"FailedSOPInstanceUIDList": uids}, IMPLICIT)[8:] == data[12:]
    always = RowEncoder(EXPLICIT, always={"FailedSOPInstanceUIDList": uids})
    assert always.encode({})[0] == data
    assert encode({"FailedSOPInstanceUIDList": "1" * 65534}, EXPLICIT)[4:8] == b"UI\xfe\xff"
    assert encode({"TextValue": "1" * 65536}, EXPLICIT)[4:6] == b"UT"
    big = encode({"FailedSOPInstanceUIDList": "1" * 65536, "PatientID": "1"}, BIG)
    assert b"UN\0\0\0\x01\0\0" in big


def test_ambiguous_vrs_are_decided_by_the_data_set():
    def vr(row, keyword, transfer_syntax=EXPLICIT):
        return read(encode(row, transfer_syntax), transfer_syntax).get_item(keyword).VR

    assert vr({"PixelPaddingValue": 5}, "PixelPaddingValue") == "US"
    assert vr({"PixelPaddingValue": -5}, "PixelPaddingValue") == "SS"
    signed = {"PixelPaddingValue": 5, "PixelRepresentation": 1}
    assert vr(signed, "PixelPaddingValue") == "SS"
    nested = {
        "PixelRepresentation": 1,
        "ModalityLUTSequence": [{"LUTDescriptor": [256, 0, 16]}],
    }
    item = read(encode(nested, EXPLICIT), EXPLICIT).ModalityLUTSequence[0]
    assert item.get_item("LUTDescriptor").VR == "SS"
    assert vr({"LUTDescriptor": [65535, 0, 16]}, "LUTDescriptor") == "US"
    assert vr({"LUTData": b"\0\0"}, "LUTData") == "OW"
    assert vr({"LUTData": [1, 2]}, "LUTData") == "US"
    assert vr({"PixelData": b"\0\0", "BitsAllocated": 8}, "PixelData") == "OB"
    assert vr({"PixelData": b"\0\0", "BitsAllocated": 16}, "PixelData") == "OW"
    assert vr({"WaveformData": b"\0\0", "WaveformBitsAllocated": 8}, "WaveformData") == "OB"


def test_pixel_data_native_and_encapsulated():
    encapsulated = pydicom.encaps.encapsulate([b"\1\2"])
    data = encode({"PixelData": encapsulated}, JPEGBaseline8Bit)
    assert data[:12] == b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
    assert data.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    for dataset in (read(data, EXPLICIT), parse(data, JPEGBaseline8Bit)):
        assert encode(dataset, JPEGBaseline8Bit) == data
        assert dataset.PixelData == encapsulated
        assert encode(dataset, JPEGBaseline8Bit) == data
    words = {"PixelData": b"\1\2\3\4", "BitsAllocated": 16}
    assert encode(words, BIG).endswith(b"\2\1\4\3")
    assert encode(parse(encode(words, BIG), BIG), EXPLICIT) == encode(words, EXPLICIT)
    buffered = Dataset()
    buffered.add_new("PixelData", "OW", BytesIO(b"\1\2\3\4"))
    assert encode(buffered, EXPLICIT).endswith(b"\4\0\0\0\1\2\3\4")
    assert encode(buffered, EXPLICIT).endswith(b"\4\0\0\0\1\2\3\4")


def test_encapsulated_pixel_data_that_was_set_with_pydicom():
    dataset = Dataset()
    dataset.PixelData = encapsulate([b"\1\2"])
    dataset["PixelData"].is_undefined_length = True
    assert dataset["PixelData"].VR == "OB or OW"
    fragments = b"\xfe\xff\0\xe0\4\0\0\0\0\0\0\0" + b"\xfe\xff\0\xe0\2\0\0\0\1\2"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    head = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
    assert encode(dataset, JPEGBaseline8Bit) == head + fragments + end


def test_command_and_file_meta_groups_are_left_out():
    dataset = Dataset()
    dataset.add_new(0x00000002, "UI", "1.2")
    dataset.add_new(0x00020010, "UI", "1.2")
    dataset.add_new(0x00100000, "UL", 5)
    dataset.PatientID = "12"
    assert encode(dataset, EXPLICIT) == encode({"PatientID": "12"}, EXPLICIT)
    row = {"PatientID": "12", "TransferSyntaxUID": "1.2", "CommandGroupLength": 5}
    assert encode(row, EXPLICIT) == encode({"PatientID": "12"}, EXPLICIT)


@pytest.mark.parametrize("transfer_syntax", SYNTAXES)
@pytest.mark.parametrize("touched", [False, True])
def test_private_and_unknown_elements_are_kept(transfer_syntax, touched):
    dataset = Dataset()
    block = dataset.private_block(0x0009, "PACSROUTE TEST", create=True)
    block.add_new(1, "LO", "Müller")
    block.add_new(2, "US", 258)
    block.add_new(3, "SQ", [Dataset()])
    block.dataset[block.get_tag(3)].value[0].PatientID = "1"
    dataset.add_new(0x00080003, "UN", b"\1\2")
    data = encode(dataset, EXPLICIT)
    assert parse(data, EXPLICIT)[0x0009, 0x1001].value == "Müller"
    source = parse(data, EXPLICIT)
    if touched:
        list(source.iterall())
    again = encode(source, transfer_syntax)
    back = parse(again, transfer_syntax)
    assert list(back.keys()) == sorted({*dataset.keys(), 0x00080005})
    if transfer_syntax in (EXPLICIT, DEFLATED, BIG):
        assert back[0x0009, 0x1002].value == 258
        assert back[0x0009, 0x1003].value[0].PatientID == "1"


def test_bytes_that_pydicom_could_not_convert_are_written_as_they_came():
    dataset = Dataset()
    dataset.add(DataElement(0x00280010, "US", b"\1\2\3", already_converted=True))
    assert encode(dataset, EXPLICIT) == b"\x28\0\x10\0US\4\0\1\2\3\0"


@pytest.mark.parametrize("touched", [False, True])
def test_us_or_ss_without_pixel_representation_gets_one_of_both(touched):
    dataset = parse(b"\x28\0\x71\0\2\0\0\0\xff\1", IMPLICIT)
    if touched:
        assert dataset["PerimeterValue"].VR == "US or SS"
    assert encode(dataset, EXPLICIT) == b"\x28\0\x71\0US\2\0\xff\1"
    assert encode(dataset, BIG) == b"\0\x28\0\x71US\0\2\1\xff"


# Character sets


def character_set(data):
    return parse(data, EXPLICIT).get("SpecificCharacterSet")


def test_the_character_set_is_written_when_it_is_needed():
    def chosen(row, charset=None):
        return character_set(encode(row, EXPLICIT, charset=charset))

    assert chosen({"PatientName": "A"}) is None
    assert chosen({"PatientName": "A"}, "ISO_IR 100") is None
    assert chosen({"PatientName": "A", "SpecificCharacterSet": "ISO_IR 100"}) == "ISO_IR 100"
    assert chosen({"PatientName": "Ä"}) == "ISO_IR 192"
    assert chosen({"PatientName": "Ä", "SpecificCharacterSet": "ISO_IR 100"}) == "ISO_IR 100"
    assert chosen({"PatientName": "山", "SpecificCharacterSet": "ISO_IR 100"}) == "ISO_IR 192"
    assert chosen({"PatientName": "Ä"}, "ISO_IR 100") == "ISO_IR 100"
    assert chosen({"PatientName": "山"}, "ISO_IR 100") == "ISO_IR 192"
    assert chosen({"PatientName": "山"}, ["", "ISO 2022 IR 87"]) == ["", "ISO 2022 IR 87"]
    nested = {"RequestAttributesSequence": [{"PatientName": "Ä"}]}
    assert chosen(nested) == "ISO_IR 192"
    item = {"PatientName": "Ä", "SpecificCharacterSet": "ISO_IR 100"}
    data = encode({"RequestAttributesSequence": [item]}, EXPLICIT)
    assert "SpecificCharacterSet" not in parse(data, EXPLICIT).RequestAttributesSequence[0]
    assert parse(data, EXPLICIT).RequestAttributesSequence[0].PatientName == "Ä"


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("reader", [read, parse])
def test_raw_text_changes_its_character_set(touched, reader):
    data = encode({"PatientName": "Ä^é", "PatientID": "1"}, EXPLICIT, charset="ISO_IR 100")
    dataset = reader(data, EXPLICIT)
    if touched:
        dataset.PatientName
    assert encode(dataset, EXPLICIT) == data
    utf8 = encode(dataset, EXPLICIT, charset="ISO_IR 192")
    assert utf8 == encode({"PatientName": "Ä^é", "PatientID": "1"}, EXPLICIT, charset="ISO_IR 192")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    assert encode(dataset, EXPLICIT) == utf8


def test_surrogates_and_latin_1_where_no_text_belongs():
    assert encode({"PatientName": "\ud800"}, EXPLICIT).endswith(b"? ")
    assert encode({"Modality": "Ä"}, EXPLICIT).endswith(b"\xc4 ")
    assert encode({"Modality": "山"}, EXPLICIT).endswith("山".encode() + b" ")


# Rows of C-FIND

KEYS = [
    "PatientName",
    "PatientID",
    "StudyInstanceUID",
    "StudyDate",
    "ModalitiesInStudy",
    "StudyDescription",
    "QueryRetrieveLevel",
    "TimezoneOffsetFromUTC",
    "RetrieveAETitle",
]
SEQUENCES = ["RequestAttributesSequence", "ScheduledProcedureStepSequence"]
CELL = st.none() | st.sampled_from(["A", "1.2", "20240101", ""])
TEXT_CELL = CELL | st.sampled_from(["Ä", "山"])
CELLS = st.fixed_dictionaries(
    {},
    optional={
        k: TEXT_CELL if k in ("PatientName", "PatientID", "StudyDescription") else CELL
        for k in KEYS
    },
)
ROW = st.recursive(
    CELLS,
    lambda inner: st.builds(
        lambda flat, deep: {**flat, **deep},
        CELLS,
        st.dictionaries(st.sampled_from(SEQUENCES), st.none() | st.lists(inner, max_size=2)),
    ),
    max_leaves=6,
)


def as_dataset(row):
    dataset = Dataset()
    for keyword, value in row.items():
        if keyword in SEQUENCES:
            value = [as_dataset(item) for item in value or ()]  # noqa: PLW2901
        setattr(dataset, keyword, value)
    return dataset


def reference(row, asked, always, top=True):
    """What is asked for, and whether it is all there, said slowly."""
    out, complete = {}, True
    for keyword, value in row.items():
        wanted = asked is None or keyword in asked or (top and keyword in always)
        if not wanted and keyword != "TimezoneOffsetFromUTC":
            continue
        if keyword in SEQUENCES and value is not None:
            inner = None if asked is None else {}
            for item in (asked or {}).get(keyword) or []:
                for k, v in item.items():
                    inner[k] = (inner.get(k) or []) + (v or []) if k in SEQUENCES else v
            inner = {k: v for k, v in (inner or {}).items() if k != "TimezoneOffsetFromUTC"} or None
            done = [reference(item, inner, {}, top=False) for item in value]
            out[keyword] = [item for item, _ in done]
            complete = complete and all(whole for _, whole in done)
        else:
            out[keyword] = value
    if top:
        out = {**always, **out}
    for keyword in asked or ():
        if keyword not in ("QueryRetrieveLevel", "TimezoneOffsetFromUTC") and keyword not in out:
            complete = False
    return out, complete


@given(
    row=ROW,
    asked=st.none() | ROW,
    always=st.dictionaries(st.sampled_from(["QueryRetrieveLevel", "RetrieveAETitle"]), CELL),
    transfer_syntax=st.sampled_from(SYNTAXES),
    charset=st.sampled_from([None, "ISO_IR 100"]),
)
def test_rows_are_encoded_as_the_reference_says(row, asked, always, transfer_syntax, charset):
    request = None if asked is None else as_dataset(asked)
    want, complete = reference(row, asked, always)
    data = encode(want, transfer_syntax, charset=charset)
    encoder = RowEncoder(transfer_syntax, request, always=always, charset=charset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for given_row in (row, as_dataset(row), parse(encode(row, EXPLICIT), EXPLICIT)):
            for _ in range(2):
                assert encoder.encode(given_row) == (data, complete)


def asking(**keys):
    dataset = Dataset()
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize("empty", [None, ""])
def test_elements_kept_unasked_are_never_empty(empty):
    row = {"PatientID": "1", "InstanceAvailability": empty, "ImageComments": "x"}
    kept = ["InstanceAvailability"]
    for asked, left in ((asking(PatientID=""), {}), (asking(PatientID="", **{kept[0]: ""}), row)):
        want = encode({"PatientID": "1"} | {k: v for k, v in left.items() if k in kept}, EXPLICIT)
        encoder = RowEncoder(EXPLICIT, asked, kept=kept)
        for given_row in (row, as_dataset(row), parse(encode(row, EXPLICIT), EXPLICIT)):
            assert encoder.encode(given_row) == (want, True)


@pytest.mark.parametrize(("bits", "vr"), [(8, b"OB"), (16, b"OW")])
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
def test_waveforms_from_implicit_vr_have_the_vr_of_their_samples(bits, vr, syntax):
    channel = {"ChannelMinimumValue": b"\1\2"}
    waveform = {
        "ChannelDefinitionSequence": [channel],
        "WaveformBitsAllocated": bits,
        "WaveformData": b"\1\2\3\4",
    }
    row = {"WaveformSequence": [waveform]}
    converted = encode(parse(encode(row, IMPLICIT), IMPLICIT), syntax)
    assert converted == encode(row, syntax)
    assert converted.count(vr) == 2
    assert encode(parse(converted, syntax), IMPLICIT) == encode(row, IMPLICIT)


def test_query_retrieve_view_is_not_a_missing_key():
    encoder = RowEncoder(EXPLICIT, asking(QueryRetrieveView="CLASSIC", PatientID=""))
    assert encoder.encode({"PatientID": "1"}) == (encode({"PatientID": "1"}, EXPLICIT), True)


def test_a_sequence_key_that_is_empty_asks_for_all():
    row = {"RequestAttributesSequence": [{"PatientID": "1", "PatientName": "A"}]}
    for value in ([], [Dataset()]):
        encoder = RowEncoder(EXPLICIT, asking(RequestAttributesSequence=value))
        assert encoder.encode(row) == (encode(row, EXPLICIT), True)
    encoder = RowEncoder(
        EXPLICIT, asking(RequestAttributesSequence=[asking(PatientID="", StudyDate="")])
    )
    want = encode({"RequestAttributesSequence": [{"PatientID": "1"}]}, EXPLICIT)
    assert encoder.encode(row) == (want, False)


def test_response_character_sets():
    request = asking(PatientName="", SpecificCharacterSet="ISO_IR 100")

    def chosen(name, charset=None):
        encoder = RowEncoder(EXPLICIT, request, charset=charset)
        data, complete = encoder.encode({"PatientName": name})
        assert complete
        assert parse(data, EXPLICIT).PatientName == name
        return character_set(data)

    assert chosen("A") is None
    assert chosen("Ä") == "ISO_IR 100"
    assert chosen("山") == "ISO_IR 192"
    assert chosen("Ж", "ISO_IR 144") == "ISO_IR 144"


def test_private_keys_are_found_in_whatever_block_the_row_has_them():
    request = Dataset()
    request.private_block(0x0009, "PACSROUTE TEST", create=True).add_new(1, "LO", "")
    row = Dataset()
    row.private_block(0x0009, "OTHER", create=True).add_new(1, "LO", "not asked for")
    row.private_block(0x0009, "PACSROUTE TEST", create=True).add_new(1, "LO", "found")
    encoder = RowEncoder(EXPLICIT, request)
    data, complete = encoder.encode(row)
    assert complete
    found = parse(data, EXPLICIT)
    assert list(found.keys()) == [0x00090011, 0x00091101]
    assert found[0x0009, 0x1101].value == "found"
    assert encoder.encode(Dataset()) == (b"", False)
    assert encoder.encode({}) == (b"", False)


def test_identifier_keys_without_items():
    request = asking(
        SpecificCharacterSet="ISO_IR 100", QueryRetrieveLevel="STUDY", TimezoneOffsetFromUTC=""
    )
    request.add_new(0x00080000, "UL", 5)
    assert RowEncoder(EXPLICIT, request).encode({}) == (b"", True)
    row = {"TimezoneOffsetFromUTC": "+0100", "PatientID": "1"}
    want = encode({"TimezoneOffsetFromUTC": "+0100"}, EXPLICIT)
    assert RowEncoder(EXPLICIT, request).encode(row) == (want, True)


def test_number_of_encoding_plans_is_bounded():
    encoder = RowEncoder(EXPLICIT)
    keywords = [k for _, _, _, _, k in pydicom._dicom_dict.DicomDictionary.values() if k][100:1100]
    for keyword in keywords:
        encoder.encode({keyword: None})
        encoder.encode(asking(**{keyword: None}))
    inner = encoder._encoder
    assert len(inner._plain_plans) <= 256
    assert len(inner._dataset_plans) <= 256


def test_huge_data_set_leaves_no_encoding_plan():
    plans = encoder_of_all(syntax(IMPLICIT))._dataset_plans
    huge = Dataset()
    for number in range(3000):
        huge.add_new(0x2001_1000 + number, "LO", "")
    encode(huge, IMPLICIT)
    assert all(len(plan.entries) < 3000 for plan in plans.values())
