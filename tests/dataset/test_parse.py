"""Parsing: real bytes, broken bytes, and nothing but DataSetError."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from pacsroute import Instance, memory, uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import Limits, identifier, parse, readable
from pacsroute.errors import DataSetError, DataSetTooLarge, UnreadableDataSet
from pacsroute.instances import peek

EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
GE = "1.2.840.113619.5.2"
PRIVATE = "1.2.3.4.5.6"
PIECES = [
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\4\0\0\0",
    b"\x08\0\x05\0CS\x0a\0ISO_IR 192",
    b"\x10\0\x10\0PN\x04\0\xe9\xffA^",
    b"\x40\0\x75\x02SQ\0\0",
    b"\x40\0\x75\x02",
    b"\xe0\x7f\x10\0OB\0\0",
    b"\x28\0\x10\0US\3\0",
    b"\x20\0\x13\0IS\4\x001e99",
    b"\x28\0\x30\0DS\4\0abcd",
    b"\x09\0\x10\0UN\0\0",
    b"\x09\0\x10\0",
    b"\x28\0\x09\0AT\6\0abcdef",
]
HOSTILE = st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


def files():
    shipped = (Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm")
    for path in [*map(str, sorted(shipped)), *get_charset_files("*.dcm")]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                meta = pydicom.filereader.read_file_meta_info(path)
                whole = pydicom.dcmread(path)
                list(whole.iterall())
            except Exception:  # noqa: BLE001 - what pydicom itself cannot read
                continue
        if path.endswith("_truncated.dcm"):
            continue
        if (uid := meta.get("TransferSyntaxUID")) is not None and uid != DEFLATED:
            yield pytest.param(path, uid, id=path.rpartition("/")[2])


def body(path):
    """The data set of a file, without its meta information."""
    with open(path, "rb") as file:
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()


def same(one, other):
    assert list(one.keys()) == list(other.keys())
    for tag in one.keys():  # noqa: SIM118
        a, b = one[tag], other[tag]
        if a.VR == "SQ":
            assert len(a.value) == len(b.value)
            for x, y in zip(a.value, b.value, strict=True):
                same(x, y)
        else:
            assert (a.VR, a.value) == (b.VR, b.value)


@pytest.mark.parametrize(("path", "uid"), list(files()))
def test_files_are_read_as_pydicom_reads_them(path, uid):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pydicom.dcmread(path)
        data = body(path)
        same(parse(data, uid), expected)
        same(parse(memoryview(data), uid), expected)
        with open(path, "rb") as file:
            pydicom.filereader.read_preamble(file, force=False)
            pydicom.filereader._read_file_meta_info(file)
            deferred = parse(file, uid, defer_size=64)
            same(deferred, expected)


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm"])
def test_a_truncated_file_is_refused_but_can_be_looked_at(name, sample):
    path = sample(name)
    data, uid = body(path), pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
    with pytest.raises(UnreadableDataSet):
        parse(data, uid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(readable(data, uid), pydicom.dcmread(path))


@settings(max_examples=400)
@given(
    data=HOSTILE,
    uid=st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, JPEGBaseline8Bit, GE, PRIVATE, ""]),
)
@example(data=b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff" * 5, uid=EXPLICIT)
def test_parse_raises_data_set_errors_only(data, uid):
    try:
        list(parse(data, uid).iterall())
    except DataSetError as error:
        assert error.__cause__ is None
    try:
        list(readable(data, uid).iterall())
    except DataSetError as error:
        assert error.__cause__ is None
    try:
        found = identifier(data, uid)
    except DataSetError:
        pass
    else:
        for element in found.iterall():
            assert element.tag.group not in (0, 2)
            assert element.tag.element
        encode(found, EXPLICIT)


@given(HOSTILE)
def test_deferred_values_equal_values_read_at_once(data):
    def outcome(**options):
        try:
            return parse(BytesIO(data), EXPLICIT, **options)
        except DataSetError:
            return None

    one, other = outcome(), outcome(defer_size=4)
    assert (one is None) == (other is None)
    if one is not None:
        assert list(one.keys()) == list(other.keys())


CUT = {
    "PatientName": "Ä",
    "PatientID": "1",
    "RequestAttributesSequence": [{"PatientID": "2"}, {"PatientID": "3"}],
    "PixelData": bytes(100),
}


@given(cut=st.integers(1, 400), syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED]))
def test_a_data_set_that_is_cut_off_is_never_taken_for_a_whole_one(cut, syntax):
    whole = encode(CUT, syntax)
    data = whole[:cut]
    try:
        dataset = parse(data, syntax)
    except UnreadableDataSet:
        assert cut < len(whole)
    else:
        # between two elements, a data set that ends early is one
        assert whole.startswith(encode(dataset, syntax) if syntax != DEFLATED else data)
        assert syntax != DEFLATED or cut >= len(whole) - 1  # the last byte may be padding


@given(cut=st.integers(8, 400))
def test_what_is_left_of_a_cut_data_set_can_be_looked_at(cut):
    found = readable(encode(CUT, EXPLICIT)[:cut], EXPLICIT)
    assert found.keys() <= {0x00080005, 0x00100010, 0x00100020, 0x00400275, 0x7FE00010}


def element(group, number, vr, value):
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def test_empty_data_sets():
    assert len(parse(b"", EXPLICIT)) == 0
    assert len(identifier(b"", IMPLICIT)) == 0


def test_files_are_read_from_where_they_stand():
    file = BytesIO(b"skipped" + encode({"PatientID": "1"}, EXPLICIT))
    file.seek(7)
    assert parse(file, EXPLICIT).PatientID == "1"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_deferred_values_are_read_from_the_file(tmp_path, syntax):
    row = {"PatientID": "1", "PixelData": bytes(range(256)) * 1000, "BitsAllocated": 8}
    path = tmp_path / "instance"
    path.write_bytes(b"0123456789" + encode(row, syntax))
    with path.open("rb") as file:
        file.seek(10)
        dataset = parse(file, syntax, defer_size=1024)
        assert dataset.get_item("PixelData", keep_deferred=True).value is None
        assert dataset.PixelData == row["PixelData"]
    with path.open("rb") as file:
        file.seek(10)
        dataset = parse(file, syntax, defer_size=1024)
    assert dataset.PixelData == row["PixelData"]
    buffer = BytesIO(path.read_bytes())
    buffer.seek(10)
    dataset = parse(buffer, syntax, defer_size=1024)
    assert encode(dataset, syntax) == encode(row, syntax)


@pytest.mark.parametrize("name", ["JPIPReferencedDeflate", "JPIPHTJ2KReferencedDeflate"])
def test_every_deflated_syntax_is_inflated(name):
    syntax = uids.transfer_syntax(name)
    row = {"SOPClassUID": "1.2", "SOPInstanceUID": "1.2.3", "PixelDataProviderURL": "http://jpip"}
    data = encode(row, syntax)
    assert zlib.decompressobj(-15).decompress(data) == encode(row, EXPLICIT)
    assert parse(data, syntax).PixelDataProviderURL == "http://jpip"
    assert peek.sop_uids(data, syntax) == ("1.2", "1.2.3")
    instance = Instance(data, transfer_syntax=syntax)
    with pytest.raises(DataSetError, match="its pixels are elsewhere"):
        instance.open_as(EXPLICIT)


def test_the_uids_of_a_private_implicit_syntax_are_seen():
    row = {"SpecificCharacterSet": "ISO_IR 192", "SOPClassUID": "1.2", "SOPInstanceUID": "1.2.3"}
    assert peek.sop_uids(encode(row, GE), GE) == ("1.2", "1.2.3")


@pytest.mark.parametrize("vr", [b"SV", b"UV"])
def test_the_uids_are_not_looked_for_inside_a_long_value(vr):
    number = b"\7\0\1\x10" + vr + b"\0\0\x08\0\0\0" + b"\0\0\x0c\0\0\0\0\0"
    text = encode({"SOPInstanceUID": "9.9"}, EXPLICIT)
    data = number + b"\7\0\2\x10LO" + len(text).to_bytes(2, "little") + text
    assert peek.sop_uids(data, EXPLICIT) == ("", "")


def test_value_too_long_for_its_vr_gets_its_vr_back():
    points = [f"{number / 8:.4f}" for number in range(10_000)]
    contours = {"ContourSequence": [{"ContourData": points, "NumberOfContourPoints": 3}]}
    data = encode(contours, EXPLICIT)
    assert b"\x06\x30\x50\x00UN\0\0" in data
    parsed = parse(data, EXPLICIT)
    assert parsed.ContourSequence[0].ContourData == [float(point) for point in points]
    assert encode(parsed, EXPLICIT) == data
    assert encode(parse(data, EXPLICIT), IMPLICIT) == encode(contours, IMPLICIT)


def test_deflated_bombs_are_refused():
    data = encode({"PixelData": bytes(1 << 20)}, DEFLATED)
    assert len(parse(data, DEFLATED).PixelData) == 1 << 20
    with pytest.raises(DataSetTooLarge, match="max_inflated"):
        parse(data, DEFLATED, limits=Limits(inflated=1 << 19))
    with pytest.raises(DataSetTooLarge, match="max_memory"):
        parse(data, DEFLATED, limits=Limits(memory=1 << 19))
    segmentation = encode({"PixelData": bytes(60 << 20)}, DEFLATED)
    assert (60 << 20) / len(segmentation) > 900
    dataset = parse(segmentation, DEFLATED, defer_size=1 << 20)
    assert memory.PROCESS.held >= 60 << 20
    assert len(dataset.PixelData) == 60 << 20
    del dataset
    assert memory.PROCESS.held == 0
    with pytest.raises(DataSetError):
        parse(b"no deflate", DEFLATED)
    assert parse(data + b"\0\0", DEFLATED).PixelData
    cut = zlib.compressobj(wbits=-15)
    begun = cut.compress(encode({"PatientID": "12"}, EXPLICIT)) + cut.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(UnreadableDataSet, match="cut off"):
        parse(begun, DEFLATED)
    assert readable(begun, DEFLATED).PatientID == "12"


def nest(depth, undefined):
    data = b""
    for _ in range(depth):
        head = b"\x40\0\x75\x02SQ\0\0"
        if undefined:
            data = (
                head
                + b"\xff" * 4
                + b"\xfe\xff\x00\xe0"
                + b"\xff" * 4
                + data
                + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
            )
        else:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data
            data = head + struct.pack("<I", len(item)) + item
    return data


@pytest.mark.parametrize("undefined", [False, True])
def test_nesting_is_bounded(undefined):
    dataset = parse(nest(20, undefined), EXPLICIT)
    for _ in range(20):
        (dataset,) = dataset.RequestAttributesSequence
    for depth in (100, 10_000):
        with pytest.raises(DataSetError):
            list(parse(nest(depth, undefined), EXPLICIT).iterall())


def test_odd_lengths_and_padding():
    data = (
        element(0x10, 0x20, b"LO", b"123")
        + element(0x28, 0x10, b"US", b"\1\0\0")
        + b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0"
    )
    dataset = parse(data, EXPLICIT)
    assert dataset.PatientID == "123"
    assert dataset.Rows == 1
    assert parse(data + bytes(16), EXPLICIT).PatientID == "123"
    assert parse(data + b"\0\0\0", EXPLICIT).PatientID == "123"


def test_implicit_and_explicit_mixed_up():
    row = {"PatientName": "A", "RequestAttributesSequence": [{"PatientID": "1"}]}
    for said, is_ in (
        (EXPLICIT, IMPLICIT),
        (IMPLICIT, EXPLICIT),
        (PRIVATE, IMPLICIT),
        (GE, IMPLICIT),
    ):
        dataset = parse(encode(row, is_), said)
        assert dataset.PatientName == "A"
        assert dataset.RequestAttributesSequence[0].PatientID == "1"
    item = encode({"PatientID": "1"}, IMPLICIT)
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item
    for vr in (b"SQ", b"UN"):
        data = b"\x40\0\x75\x02" + vr + b"\0\0" + struct.pack("<I", len(item)) + item
        assert parse(data, EXPLICIT).RequestAttributesSequence[0].PatientID == "1"
        data = b"\x40\0\x75\x02" + vr + b"\0\0" + b"\xff" * 4 + item
        data += b"\xfe\xff\xdd\xe0\0\0\0\0"
        assert parse(data, EXPLICIT).RequestAttributesSequence[0].PatientID == "1"


def test_values_of_unknown_vrs_are_bytes():
    data = element(0x09, 0x10, b"LO", b"TEST") + element(0x09, 0x1001, b"ZZ", b"ab")
    dataset = parse(data + element(0x10, 0x20, b"LO", b"12"), EXPLICIT)
    assert dataset[0x0009, 0x1001].value == b"ab"
    assert dataset.PatientID == "12"
    new = b"\x09\0\x01\x10ZZ\0\0\2\0\0\0ab" + element(0x10, 0x20, b"LO", b"12")
    assert parse(new, EXPLICIT)[0x0009, 0x1001].value == b"ab"
    assert parse(new, EXPLICIT).PatientID == "12"


def test_signed_values_inside_sequences_of_implicit_vr():
    row = {"PixelRepresentation": 1, "ModalityLUTSequence": [{"LUTDescriptor": [256, -5, 16]}]}
    dataset = parse(encode(row, IMPLICIT), IMPLICIT)
    assert dataset.ModalityLUTSequence[0].LUTDescriptor == [256, -5, 16]


def test_5c_in_a_character_is_no_separator():
    for term, codec, text in (
        ("GBK", "gbk", "癨"),
        ("GB18030", "gb18030", "癨"),
        ("ISO_IR 13", "shift_jis", "表"),
    ):
        value = text.encode(codec)
        assert value.endswith(b"\\")
        data = element(8, 5, b"CS", term.encode().ljust(10)) + element(
            0x10, 0x1000, b"LO", value + b"\\" + value + b"A\\B "
        )
        for reader in (parse, identifier):
            assert reader(data, EXPLICIT).OtherPatientIDs == [text, text + "A", "B"]
        name = element(8, 5, b"CS", term.encode().ljust(10)) + element(0x10, 0x10, b"PN", value)
        for reader in (parse, identifier):
            assert reader(name, EXPLICIT).PatientName == text


def test_misspelt_and_wrong_character_sets():
    for term, value, text in (
        (b"UTF-8 ", "Ä".encode(), "Ä"),
        (b"ISO_IR_192", "Ä".encode(), "Ä"),
        (b"ISO_IR 203", "€".encode("iso8859_15"), "€"),
        (b"ISO_IR 192", b"\xc4", "Ä"),
        (b"zlib", b"\xc4", "Ä"),
    ):
        data = element(8, 5, b"CS", term) + element(0x10, 0x20, b"LO", value)
        for reader in (parse, identifier):
            assert reader(data, EXPLICIT).PatientID == text


def test_character_sets_of_items():
    item = element(8, 5, b"CS", b"ISO_IR 144") + element(0x10, 0x20, b"LO", b"\xb6")
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item
    sequence = b"\x40\0\x75\x02SQ\0\0" + struct.pack("<I", len(item)) + item
    data = element(8, 5, b"CS", b"ISO_IR 100") + element(0x10, 0x20, b"LO", b"\xb6") + sequence
    for reader in (parse, identifier):
        dataset = reader(data, EXPLICIT)
        assert dataset.PatientID == "\xb6"
        assert dataset.RequestAttributesSequence[0].PatientID == "Ж"


def test_identifiers_are_read_as_data_sets():
    data = (
        element(0x0002, 0x0010, b"UI", b"1.2\0")
        + element(0x0008, 0x0000, b"UL", b"\1\0\0\0")
        + element(0x0008, 0x0020, b"DA", b"20240101-20240202 ")
        + element(0x0008, 0x0061, b"CS", b"CT\\MR ")
        + element(0x0020, 0x0013, b"IS", b"1* ")
        + element(0x0028, 0x0030, b"DS", b"0.5\\x ")
    )
    found = identifier(data, EXPLICIT)
    assert found.StudyDate == "20240101-20240202"
    assert found.ModalitiesInStudy == ["CT", "MR"]
    assert found.InstanceNumber == "1*"
    assert found.PixelSpacing == [0.5, "x"]
    assert found.keys() == {0x00080020, 0x00080061, 0x00200013, 0x00280030}
    for broken in (data[:-1], data + b"\1", b"\1\2\3"):
        with pytest.raises(DataSetError):
            identifier(broken, EXPLICIT)


def test_errors_do_not_show_values():
    for data in (b"SECRET^", element(0x10, 0x10, b"PN", b"SECRET^NAME ")[:-3]):
        with pytest.raises(DataSetError) as caught:
            identifier(data, EXPLICIT)
        assert "SECRET" not in str(caught.value)


def test_the_dataset_is_pydicoms_own():
    dataset = parse(encode({"PatientName": "Ä^B", "Rows": 5}, EXPLICIT), EXPLICIT)
    assert isinstance(dataset, Dataset)
    assert dataset.original_encoding == (False, True)
    target = BytesIO()
    dataset.save_as(target, implicit_vr=True, little_endian=True)
    assert parse(target.getvalue(), IMPLICIT).PatientName == "Ä^B"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("delimited", [False, True])
def test_an_empty_item_that_comes_first(order, delimited):
    """What follows it tells nothing of how the other items are encoded."""

    def element(group, number, vr, value):
        return struct.pack(f"{order}HH2sH", group, number, vr, len(value)) + value

    def item(value):
        delimiter = struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0) if delimited else b""
        length = 0xFFFF_FFFF if delimited else len(value)
        return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, length) + value + delimiter

    reference = element(8, 0x1150, b"UI", b"1.2\0") + element(8, 0x1155, b"UI", b"1.3\0")
    data = b"".join(
        (
            struct.pack(f"{order}HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFF_FFFF),
            item(b""),
            item(reference),
            struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0),
            element(0x10, 0x20, b"LO", b"PID1"),
        )
    )
    syntax = ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian
    for read in (parse, identifier):
        found = read(data, syntax)
        assert found.PatientID == "PID1"
        first, second = found.ReferencedImageSequence
        assert (len(first), second.ReferencedSOPInstanceUID) == (0, "1.3")


def test_fragments_that_are_gone_through_again_and_again_are_counted():
    """Each of many elements has the same chain of items behind it, which ends in nothing."""
    many, chain = 1000, 1000 * 28
    data = bytearray()
    for number in range(many):
        data += struct.pack("<HH2sHI", 9, 0x1000, b"OB", 0, 0xFFFF_FFFF)
        data += struct.pack("<HHI", 0xFFFE, 0xE000, chain - (number * 28 + 20))
        data += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data += struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 3500 + b"\x10\0\x20\0LO\2\0AB"
    with pytest.raises(DataSetError, match="elements"):
        parse(bytes(data), ExplicitVRLittleEndian, limits=Limits(elements=100_000))


def test_a_deflated_identifier_that_is_cut_off():
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.PatientID, asked.StudyInstanceUID = "STUDY", "1", "1.2.3"
    whole = encode(asked, DeflatedExplicitVRLittleEndian)
    assert identifier(whole, DeflatedExplicitVRLittleEndian) == asked
    for length in range(1, len(whole) - 1):
        with pytest.raises(DataSetError):
            identifier(whole[:length], DeflatedExplicitVRLittleEndian)


def test_a_long_character_set_of_a_peer_is_not_remembered():
    def held_after(first: int) -> int:
        for number in range(first, first + 50):
            names = f"ISO_IR {number}\\" * 2000
            parse(b"\x08\0\5\0" + struct.pack("<I", len(names)) + names.encode(), IMPLICIT)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held_after(0)
        assert held_after(1000) - before < 200_000
    finally:
        tracemalloc.stop()
