"""The reader: what it reads lazily, what it bounds, and the odd VRs that it understands."""

import copy
import gc
import pickle
import struct
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from pacsroute import memory, uids
from pacsroute.dataset import encode, is_edited, parse
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import readable
from pacsroute.errors import DataSetTooLarge, UnreadableDataSet

IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN
BIG, DEFLATED = uids.EXPLICIT_VR_BIG_ENDIAN, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
SYNTAXES = st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED])

TEXT = st.text("aä表Ж ", max_size=9).map(str.strip)
FLAT = st.fixed_dictionaries(
    {},
    optional={
        "PatientName": TEXT,
        "PatientComments": TEXT,
        "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "AXIAL"]), max_size=4),
        "Rows": st.integers(0, 65535),
        "SliceThickness": st.sampled_from(["", "0.5", "-1e3"]),
        "ImagePositionPatient": st.lists(st.sampled_from(["1.25", "-3", "0"]), max_size=3),
        "RecommendedDisplayFrameRateInFloat": st.floats(width=32, allow_nan=False),
        "EncapsulatedDocument": st.binary(max_size=9).map(lambda data: data + data),
        "FrameIncrementPointer": st.sampled_from([None, 0x00181063, [0x00181063, 0x00540010]]),
    },
)
ROWS = st.recursive(
    FLAT,
    lambda rows: st.builds(
        lambda row, items: row | {"ContentSequence": items}, FLAT, st.lists(rows, max_size=3)
    ),
    max_leaves=6,
)


def element(tag, vr, value):
    if vr in (b"OW", b"UN", b"SQ"):
        return struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, vr, len(value)) + value
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def items(*bodies, undefined=False):
    data = b""
    for body in bodies:
        length = 0xFFFFFFFF if undefined else len(body)
        data += struct.pack("<HHI", 0xFFFE, 0xE000, length) + body
        data += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) * undefined
    return data


def sequence(tag, data):
    return element(tag, b"SQ", data)


def frames(count, elements):
    """Return a data set with a sequence of many items of many elements each."""
    item = b"".join(element(0x00090000 + 0x1000 + i, b"LO", b"v ") for i in range(elements))
    whole = items(item) * count
    head = element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100020, b"LO", b"12")
    return head + sequence(0x52009230, whole) + element(0x7FE00010, b"OW", b"")


@given(row=ROWS, syntax=SYNTAXES, other=SYNTAXES)
def test_what_is_written_is_read_and_written_again_as_it_was(row, syntax, other):
    data = encode(row, syntax)
    dataset = parse(data, syntax)
    assert encode(dataset, syntax) == data
    # by way of another encoding, and with every value looked at
    through = parse(encode(dataset, other), other)
    list(through.iterall())
    assert encode(through, syntax) == data
    assert not is_edited(through)
    assert encode(Dataset(dataset), syntax) == data


@given(ROWS)
def test_a_data_set_survives_being_copied_and_pickled(row):
    dataset = parse(encode(row, EXPLICIT), EXPLICIT)
    for another in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert another == dataset
        assert encode(another, EXPLICIT) == encode(row, EXPLICIT)


def test_no_value_that_is_wrong_warns_or_raises_when_it_is_looked_at():
    data = (
        element(0x00080018, b"UI", b"x.y ")
        + element(0x00080020, b"DA", b"2024-13-99")
        + element(0x00100010, b"PN", b"\xff" * 80)
        + element(0x00200013, b"IS", b"1e99")
        + element(0x00280030, b"DS", b"0.5\\abc ")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = parse(data, EXPLICIT)
        assert dataset.InstanceNumber == "1e99"
        assert dataset.PixelSpacing == [0.5, "abc"]
        assert len(list(dataset.iterall())) == 5


def test_a_vr_that_depends_on_what_is_missing_leaves_the_bytes():
    data = struct.pack("<HHI", 0x0028, 0x3006, 4) + b"\1\0\2\0"
    dataset = parse(data, IMPLICIT)
    assert dataset.LUTData == b"\1\0\2\0"
    assert encode(dataset, IMPLICIT) == data


# ------------------------------------------------------------- laziness


def test_a_sequence_is_read_when_it_is_opened_item_by_item():
    broken = sequence(0x0040A730, element(0x00100020, b"LO", b"12") + b"no item!")
    whole = sequence(0x00400275, items(element(0x00100020, b"LO", b"12"), broken))
    dataset = parse(whole, EXPLICIT)
    assert len(dataset.RequestAttributesSequence) == 2
    assert dataset.RequestAttributesSequence[0].PatientID == "12"
    assert dataset.RequestAttributesSequence[-1].keys() == {0x0040A730}
    cut = sequence(0x00400275, items(element(0x00100020, b"LO", b"12")[:-1]))
    with pytest.raises(UnreadableDataSet):
        parse(cut, EXPLICIT).RequestAttributesSequence[0]


@pytest.mark.parametrize("undefined", [False, True])
def test_a_sequence_can_be_changed_as_any_other(undefined):
    bodies = [element(0x00100020, b"LO", b"%02d" % i) for i in range(3)]
    dataset = parse(sequence(0x00400275, items(*bodies, undefined=undefined)), EXPLICIT)
    found = dataset.RequestAttributesSequence
    assert not is_edited(dataset)
    new = Dataset()
    new.PatientID = "new"
    found.append(new)
    del found[0]
    found[0].PatientID = "changed"
    assert [item.PatientID for item in found] == ["changed", "02", "new"]
    assert [item.PatientID for item in found[1:]] == ["02", "new"]
    assert is_edited(dataset)
    again = parse(encode(dataset, IMPLICIT), IMPLICIT)
    assert [item.PatientID for item in again.RequestAttributesSequence] == ["changed", "02", "new"]


def test_an_edit_is_seen_and_a_look_is_none():
    row = {"PatientName": "Ä", "Rows": 3, "ContentSequence": [{"PatientID": "1"}, {}]}
    data = encode(row, EXPLICIT)
    looked = parse(data, EXPLICIT)
    assert str(looked.PatientName) == "Ä"
    assert looked.ContentSequence[0].PatientID == "1"
    assert len(list(looked.iterall())) == 5
    assert not is_edited(looked)

    def edits():
        yield lambda dataset: setattr(dataset, "PatientName", "B")
        yield lambda dataset: setattr(dataset, "StudyDate", "")
        yield lambda dataset: dataset.pop("Rows")
        yield lambda dataset: dataset.ContentSequence.insert(0, Dataset())
        yield lambda dataset: dataset.ContentSequence.reverse()
        yield lambda dataset: setattr(dataset.ContentSequence[0], "PatientID", "2")
        yield lambda dataset: setattr(dataset, "ContentSequence", [])

    for edit in edits():
        dataset = parse(data, EXPLICIT)
        edit(dataset)
        assert is_edited(dataset)


# ------------------------------------------------------------- bounds


def test_an_enhanced_image_of_12000_frames_is_read_within_the_defaults():
    data = frames(12_000, 300)
    gc.collect()
    before = memory.PROCESS.held
    dataset = parse(data, EXPLICIT)
    assert dataset.PatientID == "12"
    found = dataset[0x52009230].value
    assert len(found) == 12_000
    assert len(found[11_999]) == 300
    assert memory.PROCESS.held - before < 2 * len(data)
    del dataset, found
    gc.collect()
    assert memory.PROCESS.held == before


def test_an_image_with_many_frames_is_converted_item_by_item():
    data = frames(500, 300)
    dataset = parse(data, EXPLICIT)
    held = memory.PROCESS.held
    converted = parse(encode(dataset, IMPLICIT), IMPLICIT)
    assert len(converted[0x52009230].value) == 500
    assert memory.PROCESS.held - held < 2 * len(data)


@pytest.mark.slow
def test_a_bomb_of_empty_items_is_refused_when_it_is_opened_whole():
    empty = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    data = sequence(0x00081140, empty * 1_990_000)
    dataset = parse(data, EXPLICIT)  # not opened, it takes what it is long
    with pytest.raises(DataSetTooLarge, match="max_memory"):
        list(dataset.ReferencedImageSequence)
    del dataset
    gc.collect()
    assert memory.PROCESS.held == 0


@pytest.mark.parametrize("shape", ["flat", "items", "undefined", "fragments"])
def test_elements_items_and_fragments_are_counted(shape):
    count = 5000
    data = {
        "flat": b"".join(element(0x00091000 + i, b"LO", b"") for i in range(count)),
        "items": sequence(0x00081140, items(*[b""] * count)),
        "undefined": struct.pack("<HH2s2xI", 8, 0x1140, b"SQ", 0xFFFFFFFF)
        + items(*[b""] * count, undefined=True)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        "fragments": struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OB", 0xFFFFFFFF)
        + items(*[b""] * count)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    }[shape]
    assert list(parse(data, EXPLICIT, limits=Limits(elements=4 * count)).iterall())
    with pytest.raises(DataSetTooLarge, match="max_elements"):
        list(parse(data, EXPLICIT, limits=Limits(elements=count // 20)).iterall())


def test_memory_is_given_back_when_a_data_set_is_refused():
    gc.collect()
    before = memory.PROCESS.held
    data = frames(50, 300)
    for most in (100_000, 500_000):
        with pytest.raises(DataSetTooLarge):
            list(parse(data, EXPLICIT, limits=Limits(memory=most)).iterall())
    gc.collect()
    assert memory.PROCESS.held == before


# ------------------------------------------------------------- odd VRs and lengths

ODD = [b"  ", b"??", b"--", b"ox", b"xs", b"Cs", b"RE", b"\0\0", b"ZZ"]
REST = element(0x00280010, b"US", b"\1\0") + element(0x7FE00010, b"OW", b"")


@pytest.mark.parametrize("vr", ODD)
@pytest.mark.parametrize("before", [b"", element(0x00080018, b"UI", b"1.2.3\0")])
@pytest.mark.parametrize("behind", [b"", element(0x00280010, b"US", b"\1\0")])
def test_an_unknown_vr_loses_nothing_of_what_is_behind_it(vr, before, behind):
    for odd in (
        struct.pack("<HH2sH", 0x0018, 0x0015, vr, 4) + b"HEAD",
        struct.pack("<HH2s2xI", 0x0018, 0x0015, vr, 4) + b"HEAD",
    ):
        dataset = parse(before + odd + behind, EXPLICIT)
        assert bytes(dataset.get_item(0x00180015).value) == b"HEAD"
        assert ("Rows" in dataset) == bool(behind)
        assert not behind or dataset.Rows == 1
        converted = parse(encode(dataset, IMPLICIT), IMPLICIT)
        assert converted.keys() == dataset.keys()


@pytest.mark.parametrize("vr", ODD)
def test_an_unknown_vr_within_an_item_loses_nothing(vr):
    odd = struct.pack("<HH2sH", 0x0018, 0x0015, vr, 4) + b"HEAD"
    for undefined in (False, True):
        whole = items(odd + element(0x00280010, b"US", b"\1\0"), undefined=undefined)
        dataset = parse(sequence(0x00400275, whole) + REST, EXPLICIT)
        assert dataset.RequestAttributesSequence[0].Rows == 1


def test_an_implicit_element_in_explicit_vr_is_read():
    odd = struct.pack("<HHI", 0x0010, 0x0020, 4) + b"1234"
    dataset = parse(element(0x00100010, b"PN", b"AB") + odd + REST, EXPLICIT)
    assert (dataset.PatientID, dataset.Rows) == ("1234", 1)


def test_a_length_that_leaves_nothing_readable_is_refused_and_can_be_looked_at():
    data = element(0x00100020, b"LO", b"12")
    for odd in (
        struct.pack("<HH2sH", 0x0018, 0x0015, b"??", 400) + b"HEAD" + REST,
        struct.pack("<HH2sH", 0x0018, 0x0015, b"LO", 400) + b"HEAD" + REST,
        struct.pack("<HH2s2xI", 0x0018, 0x0015, b"OB", 400) + b"HEAD" + REST,
    ):
        with pytest.raises(UnreadableDataSet):
            parse(data + odd, EXPLICIT)
        assert readable(data + odd, EXPLICIT).PatientID == "12"
