"""A few elements of a data set, found without reading the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacsroute.dataset import encode, parse
from pacsroute.dataset.reduced import reduced

WANTED = {0x0008_0018, 0x0008_0060, 0x0010_0010, 0x0020_0013, 0x0028_0010, 0x0028_0100}
SIMPLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


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
        b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0",
        b"\x08\0\x60\0CS\2\0CT\x08\0\x60\0CS\2\0MR",
        b"\x10\0\x20\0LO\2\0A \x08\0\x60\0CS\2\0CT",
        b"\x08\0\x60\0??\2\0CT",
        b"\x08\0\x60\0CS\4\0CT",
        b"\x08\0\x40\x11SQ\0\0\0",
    ],
    ids=["undefined length", "twice", "out of order", "no VR", "too long", "cut off"],
)
def test_what_is_unusual_is_to_be_parsed(data):
    assert reduced(data, ExplicitVRLittleEndian, WANTED) is None


@given(st.binary(max_size=60), st.sampled_from(SIMPLE))
def test_any_bytes_are_refused_or_parsed_alike(data, syntax):
    few = reduced(data, syntax, WANTED)
    if few:
        assert set(parse(few, syntax).keys()) <= WANTED | {0x0008_0005}


def test_an_empty_data_set_has_no_elements():
    assert reduced(b"", ExplicitVRLittleEndian, WANTED) == b""
    assert parse(b"", ExplicitVRLittleEndian) == Dataset()
