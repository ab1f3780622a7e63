"""The head of a Part 10 file: read whole, or only where it differs from earlier ones."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from support.names import CT, EXPLICIT

from pacsroute.errors import DataSetError
from pacsroute.instances import part10

BEHIND = b"\x08\0\x05\0CS\x0a\0ISO_IR 192"


def read_in_full(data):
    """Return the head of a file as it is read without memory of earlier ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part10, "_usual", lambda data: None)
        return part10.read_head(data)


def result(read, data):
    try:
        return read(data)
    except DataSetError as error:
        return str(error)


def test_heads_of_one_writer_differ_in_their_instance():
    for number in range(3):
        data = part10.head(CT, f"1.2.{10**number}", EXPLICIT, sender="CT1") + BEHIND
        told = dcmread(io.BytesIO(data)).file_meta
        found = part10.read_head(data)
        assert found == read_in_full(data)
        assert found.sop_instance == told.MediaStorageSOPInstanceUID == f"1.2.{10**number}"
        assert (found.sop_class, found.transfer_syntax, found.sender) == (CT, EXPLICIT, "CT1")
        assert data[found.end :] == BEHIND
        assert found.is_whole


INSTANCE = part10._element(0x03, "1.2.3")


def longer(data, element):
    """Return a head with another element behind its instance, and its new group length."""
    length = int.from_bytes(data[140:144], "little") + len(element)
    data = data[:140] + length.to_bytes(4, "little") + data[144:]
    return data.replace(INSTANCE, INSTANCE + element)


ODD_HEADS = {
    "no instance": lambda data: data.replace(INSTANCE, b""),
    "two instances": lambda data: longer(data, part10._element(3, "1.2.4")),
    "an empty instance, too": lambda data: longer(data, part10._element(3, "")),
    "a group length of 0": lambda data: data[:140] + bytes(4) + data[144:],
    "a group length that ends in a UID": lambda data: data[:140] + b"\x3c\0\0\0" + data[144:],
    "a group length that ends behind": lambda data: data[:140] + b"\xff\0\0\0" + data[144:],
    "the tag of the instance in a value": lambda data: data.replace(
        INSTANCE, part10._element(2, INSTANCE.decode()) + INSTANCE
    ),
    "nothing behind it": lambda data: data[: -len(BEHIND)],
    "no DICM": lambda data: data.replace(b"DICM", b"DICN"),
}


@pytest.mark.parametrize("change", ODD_HEADS.values(), ids=ODD_HEADS)
def test_odd_heads_are_read_as_if_they_were_the_first(change):
    usual = part10.head(CT, "1.2.3", EXPLICIT) + BEHIND
    part10.read_head(usual)
    odd = change(usual)
    assert odd != usual
    for data in (odd, odd):  # when it is remembered, too
        assert result(part10.read_head, data) == result(read_in_full, data)


@given(at=st.integers(128, 330), patch=st.binary(max_size=12), cut=st.integers(0, 12))
@settings(max_examples=300)
def test_any_head_is_read_as_if_it_were_the_first(at, patch, cut):
    usual = part10.head(CT, "1.2.826.0.1.3680043.1", EXPLICIT, sender="CT1") + BEHIND
    part10.read_head(usual)
    data = usual[:at] + patch + usual[at + cut :]
    assert result(part10.read_head, data) == result(read_in_full, data)
