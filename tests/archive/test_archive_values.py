"""The values of an instance in the index, read with and without parsing its data set."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from support.archives import image

from pacsroute import Instance, uids
from pacsroute.archive import values
from pacsroute.archive.model import Model
from pacsroute.dataset import encode, parse

EXPLICIT, IMPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN
MODEL = Model({"STUDY": ["StudyComments"], "IMAGE": ["SmallestImagePixelValue", "RescaleSlope"]})


def both(data, syntax):
    """Return the values as they are read from the bytes, and from the data set."""
    return (
        values._of_bytes(MODEL, data, syntax),
        values.of_dataset(MODEL, parse(data, syntax)),
    )


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_values_from_bytes_are_those_of_the_data_set(sample, name, syntax):
    fast, slow = both(encode(dcmread(sample(name)), syntax), syntax)
    if syntax == EXPLICIT:
        assert fast == slow
        assert len(fast) > 25
    else:  # its VR is decided by other elements
        assert fast in (None, slow)


@pytest.mark.parametrize(
    "charset", ["", "ISO_IR 100", "ISO_IR 192", "ISO_IR 13", "\\ISO 2022 IR 87", "GB18030"]
)
@given(texts=st.lists(st.binary(max_size=70), min_size=6, max_size=6))
def test_any_bytes_mean_the_same_as_in_the_data_set(charset, texts):
    tags = (
        (b"\x08\0\x20\0", b"DA"),  # Study Date
        (b"\x08\0\x60\0", b"CS"),  # Modality
        (b"\x10\0\x10\0", b"PN"),  # Patient's Name
        (b"\x10\0\x20\0", b"LO"),  # Patient ID
        (b"\x20\0\x11\0", b"IS"),  # Series Number
        (b"\x28\0\x10\0", b"US"),  # Rows
    )
    terms = charset.encode() + b" " * (len(charset) % 2)
    data = b"\x08\0\x05\0CS" + len(terms).to_bytes(2, "little") + terms
    for (tag, vr), text in zip(tags, texts, strict=True):
        even = text + b" " * (len(text) % 2)
        data += tag + vr + len(even).to_bytes(2, "little") + even
    fast, slow = both(data, EXPLICIT)
    assert fast == slow


@pytest.mark.parametrize(
    "element",
    [
        b"\x10\0\x10\0UN\0\0\6\0\0\0Doe^Jo",
        b"\x32\0\0\x40LT\2\4" + b"x" * 1026,
        b"\x08\0\x40\x11UN\0\0\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0",
    ],
    ids=["VR unknown", "long", "length unknown"],
)
def test_other_data_sets_are_parsed(element):
    assert values._of_bytes(MODEL, element, EXPLICIT) is None
    source = Instance(element, sop_class="1.2", sop_instance="1.3", transfer_syntax=EXPLICIT)
    assert values.of_instance(MODEL, source) == values.of_dataset(MODEL, parse(element, EXPLICIT))


def test_an_instance_in_memory_is_not_parsed(monkeypatch):
    dataset = image(1, PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 100")
    source = Instance(dataset)
    monkeypatch.setattr(values, "of_dataset", None)
    found = values.of_instance(MODEL, source)
    assert found["PatientName"] == ("müller^jürgen", "Müller^Jürgen")
    assert found["SOPInstanceUID"] == ("1.3.1", None)
    assert isinstance(source.open(), io.BytesIO)


def test_a_whole_number_that_a_column_cannot_hold_counts_as_empty():
    dataset = Dataset()
    dataset.InstanceNumber = "2147483648"
    fast, slow = both(encode(dataset, EXPLICIT), EXPLICIT)
    assert fast == slow == {"InstanceNumber": (None, None)}
