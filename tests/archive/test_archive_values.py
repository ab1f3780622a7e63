"""The values of an instance in the index, read with and without parsing its data set."""

import io
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from support.archives import found, image

from pacsroute import App, Archive, Instance, uids
from pacsroute.archive import values
from pacsroute.archive.model import Model
from pacsroute.dataset import encode, parse
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.vr import LONG_VRS
from pacsroute.errors import DataSetError

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


TERMS = ["ISO_IR 100", "ISO_IR 192", "\\ISO 2022 IR 87", "GB18030", "ISO_IR 13", "?"]
TAGS = sorted({*MODEL.wanted, 0x0008_0000, 0x0008_1140, 0x0009_1001, 0x0088_0140, 0x7FE0_0010})
VRS = ["CS", "DA", "IS", "LO", "OB", "PN", "SQ", "UI", "UL", "UN", "US", "UV"]
TEXT = st.sampled_from(
    [b"M\xc3\xbcller^J", b"\x1b$B;3ED\x1b(B=", b"\x83\\^\\1", b" 12 \0", b"1.2.3"]
)
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def element(tag, vr, value, is_implicit, is_open=False):
    """Return the bytes of an element; if it is open, its length is undefined."""
    length = b"\xff\xff\xff\xff" if is_open else len(value).to_bytes(4, "little")
    value += DELIMITER * is_open
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    if is_implicit:
        return head + length + value
    if vr in LONG_VRS:
        return head + vr.encode() + b"\0\0" + length + value
    return head + vr.encode() + length[:2] + value


def items(draw, is_implicit, depth):
    """Draw the items of a sequence."""
    out = b""
    for _ in range(draw(st.integers(0, 2))):
        body = elements(draw, is_implicit, depth + 1)
        if draw(st.booleans()):
            out += b"\xfe\xff\0\xe0" + len(body).to_bytes(4, "little") + body
        else:
            out += b"\xfe\xff\0\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return out


def elements(draw, is_implicit, depth=0):
    """Draw elements: most in order and with their own VR, some with sequences as values."""
    out = b""
    if draw(st.booleans()):
        out += element(0x0008_0005, "CS", draw(st.sampled_from(TERMS)).encode(), is_implicit)
    for tag in sorted(draw(st.sets(st.sampled_from(TAGS), max_size=5))):
        vr = draw(st.sampled_from(VRS))
        keyword = MODEL.keywords.get(tag)
        if keyword is not None and draw(st.integers(0, 3)):
            vr = MODEL.vrs[keyword][:2]
        if vr in LONG_VRS and depth < 2 and draw(st.booleans()):
            value, is_open = items(draw, is_implicit, depth), draw(st.booleans())
            out += element(tag, vr, value, is_implicit, is_open)
        else:
            value = draw(st.one_of(TEXT, st.binary(max_size=6)))
            out += element(tag, vr, value, is_implicit)
    return out


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@given(data=st.data())
def test_a_data_set_that_is_not_parsed_has_the_same_values(syntax, data):
    encoded = elements(data.draw, syntax == IMPLICIT)
    fast = values._of_bytes(MODEL, encoded, syntax)
    if fast:
        try:
            assert fast == values.of_dataset(MODEL, parse(encoded, syntax))
        except DataSetError as error:
            pytest.fail(f"it cannot be parsed: {error}")


@pytest.mark.parametrize(
    "element",
    [
        b"\x10\0\x10\0UN\0\0\6\0\0\0Doe^Jo",
        b"\x32\0\0\x40LT\2\4" + b"x" * 1026,
        b"\x08\0\x40\x11UN\0\0\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0",
        b"\x20\0\x0d\0US\3\0001 1",
        b"\x08\0\5\0US\x0b\0ISO_IR 192 \x10\0\x10\0PN\2\0\xc3\xb6",
    ],
    ids=["VR unknown", "long", "length unknown", "another VR", "character set in another VR"],
)
def test_other_data_sets_are_parsed(element):
    assert values._of_bytes(MODEL, element, EXPLICIT) is None
    source = Instance(element, sop_class="1.2", sop_instance="1.3", transfer_syntax=EXPLICIT)
    assert values.of_instance(MODEL, source) == values.of_dataset(MODEL, parse(element, EXPLICIT))


@pytest.mark.parametrize("charset", ["", "ISO_IR 192", "GB18030"])
def test_text_without_a_character_set_is_read_in_the_default_one(charset):
    name = "王^小东".encode("gb18030")
    data = b"\x10\0\x10\0PN" + len(name).to_bytes(2, "little") + name
    limits = Limits(charset=charset)
    source = Instance(
        data, sop_class="1.2", sop_instance="1.3", transfer_syntax=EXPLICIT, limits=limits
    )
    found = values.of_instance(MODEL, source)
    assert found == values.of_dataset(MODEL, parse(data, EXPLICIT, limits=limits))
    assert (found["PatientName"].name == "王^小东") == (charset == "GB18030")


@pytest.mark.parametrize("after", ["a lost index", "a crash"])
def test_a_name_in_the_default_character_set_outlives(after, tmp_path):
    def app_with(folder):
        app = App("ARCHIVE", default_charset=["ISO_IR 100", "CT1=GB18030"])
        app.register_blueprint(Archive(folder, min_free=0))
        return app

    data = encode(image(1), EXPLICIT).replace(b"Doe^John", "王^小东 ".encode("gb18030"))
    assert b"Doe" not in data
    app = app_with(tmp_path / "before")
    with app.test_client(calling_ae="CT1") as client:
        client.store(Instance(data, transfer_syntax=EXPLICIT))
        assert [str(row.PatientName) for row in found(client, PatientName="")] == ["王^小东"]
        shutil.copytree(tmp_path / "before", tmp_path / "after")
    for file in (tmp_path / "after").glob("index.db*"):
        file.unlink()
    if after == "a crash":
        (tmp_path / "after" / "1.3.1.dcm").unlink()
    else:
        shutil.rmtree(tmp_path / "after" / ".incoming")
    with app_with(tmp_path / "after").test_client() as client:
        assert [str(row.PatientName) for row in found(client, PatientName="")] == ["王^小东"]


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
