"""A few elements of a data set, found without reading the others."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacsroute import Instance
from pacsroute.dataset import encode, parse
from pacsroute.dataset.reduced import reduced

WANTED = {0x0008_0018, 0x0008_0060, 0x0010_0010, 0x0020_0013, 0x0028_0010, 0x0028_0100}
SIMPLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


OPEN = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"
ITEM = b"\xfe\xff\0\xe0\xff\xff\xff\xff"
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def body(sample, syntax):
    return encode(dcmread(sample("CT_small.dcm")), syntax)


@pytest.mark.parametrize("syntax", SIMPLE)
def test_wanted_elements_are_those_of_the_whole_data_set(sample, syntax):
    data = body(sample, syntax)
    whole, few = parse(data, syntax), parse(reduced(data, syntax, WANTED), syntax)
    there = {tag for tag in WANTED if tag in whole}
    assert len(there) == len(WANTED)
    assert set(few.keys()) == there | {0x0008_0005}
    assert all(few[tag] == whole[tag] for tag in set(few.keys()))


@pytest.mark.parametrize("syntax", SIMPLE)
def test_what_does_not_lead_to_the_end_is_to_be_parsed(sample, syntax):
    data = body(sample, syntax)
    for end in (*range(0, 400, 7), *range(len(data) - 300, len(data), 7)):
        few = reduced(data[:end], syntax, WANTED)
        # Only at the border of two elements is the beginning a data set, too.
        if few is not None:
            parse(data[:end], syntax)
    assert reduced(data + b"\0", syntax, WANTED) is None
    assert reduced(data[:-1], syntax, WANTED) is None


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_transfer_syntaxes_are_to_be_parsed(sample, syntax):
    assert reduced(body(sample, syntax), syntax, WANTED) is None


@pytest.mark.parametrize(
    "data",
    [
        OPEN,
        OPEN + ITEM_END,
        OPEN + ITEM + SEQUENCE_END,
        OPEN + b"\x08\0\x60\0CS\2\0CT" + SEQUENCE_END,
        OPEN.replace(b"SQ", b"UN") + SEQUENCE_END,
        b"\x08\0\x05\0" + OPEN[4:] + SEQUENCE_END,
        OPEN + SEQUENCE_END[:-1] + b"\1",
        ITEM + ITEM_END,
        40 * (OPEN + ITEM) + 40 * (ITEM_END + SEQUENCE_END),
        b"\x08\0\x60\0CS\2\0CT\x08\0\x60\0CS\2\0MR",
        b"\x10\0\x20\0LO\2\0A \x08\0\x60\0CS\2\0CT",
        b"\x08\0\x60\0??\2\0CT",
        b"\x08\0\x60\0CS\4\0CT",
        b"\x08\0\x40\x11SQ\0\0\0",
        OPEN.replace(b"SQ", b"OB") + ITEM + ITEM_END + SEQUENCE_END,
        b"\x08\0\x40\x11UN\0\0\x08\0\0\0" + ITEM,
    ],
    ids=[
        "without end",
        "end of no item",
        "end of no sequence",
        "no item",
        "UN of undefined length",
        "wanted",
        "end with a length",
        "no sequence",
        "deep",
        "twice",
        "out of order",
        "no VR",
        "too long",
        "cut off",
        "fragment of undefined length",
        "sequence with an unknown VR",
    ],
)
def test_what_is_unusual_is_to_be_parsed(data):
    assert reduced(data, ExplicitVRLittleEndian, WANTED) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\0\x60\0CS\2\0" + bytes(0x25343),
        b"\x28\0\x10\0\xff\xff\xff\xff" + SEQUENCE_END,
    ],
    ids=["explicit", "no sequence"],
)
def test_an_unusual_data_set_in_implicit_vr_is_to_be_parsed(data):
    assert reduced(data, ImplicitVRLittleEndian, {0x0010_0010}) is None


@given(st.binary(max_size=60), st.sampled_from(SIMPLE))
def test_any_bytes_are_refused_or_parsed_alike(data, syntax):
    few = reduced(data, syntax, WANTED)
    if few:
        assert set(parse(few, syntax).keys()) <= WANTED | {0x0008_0005}


def nested(depth):
    """Return a data set with wanted elements in the items of sequences, which are not wanted."""
    dataset = Dataset()
    dataset.Modality, dataset.InstanceNumber = "CT", depth
    if depth:
        dataset.ReferencedImageSequence = [nested(depth - 1), nested(depth - 1)]
        dataset["ReferencedImageSequence"].is_undefined_length = depth % 2 == 0
        for number, item in enumerate(dataset.ReferencedImageSequence):
            item.is_undefined_length_sequence_item = number == 0
    return dataset


@pytest.mark.parametrize("implicit", [False, True])
def test_sequences_of_undefined_length_are_skipped(implicit):
    out = io.BytesIO()
    dcmwrite(out, nested(4), implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    data, syntax = out.getvalue(), SIMPLE[implicit]
    assert b"\xfe\xff\xdd\xe0" in data
    assert b"\xfe\xff\x0d\xe0" in data
    few = parse(reduced(data, syntax, WANTED), syntax)
    assert (few.Modality, few.InstanceNumber, len(few)) == ("CT", 4, 2)
    for end in range(8, len(data)):
        few = reduced(data[:end], syntax, WANTED)
        if few is not None:
            assert parse(data[:end], syntax).keys() >= parse(few, syntax).keys()


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_RLE.dcm"])
def test_encapsulated_pixels_are_skipped(sample, name):
    source = Instance(sample(name))
    with source.open() as file:
        few = parse(reduced(file.read(), source.transfer_syntax, WANTED), SIMPLE[0])
    assert all(few[tag] == source.dataset[tag] for tag in set(few.keys()))
    assert {0x0008_0018, 0x0028_0010} <= set(few.keys())


def test_an_empty_data_set_has_no_elements():
    assert reduced(b"", ExplicitVRLittleEndian, WANTED) == b""
    assert parse(b"", ExplicitVRLittleEndian) == Dataset()
