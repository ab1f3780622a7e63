"""Frames as they are stored, found without parsing the data set."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import iter_pixels
from support.images import JPEG_2000, RLE, image
from support.names import BIG_ENDIAN, EXPLICIT, IMPLICIT

from pacsroute import DataSetError, Instance, uids
from pacsroute.dataset.encoding import encode
from pacsroute.instances.frames import Frames

FRAMES = [b"\xff\x4f%d!" % number * (number + 1) for number in range(5)]  # each begins one
FRAMES = [frame + b"\0" * (len(frame) % 2) for frame in FRAMES]


def frames(data, syntax=EXPLICIT):
    return Frames(io.BytesIO(data), syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN], ids=uids.name)
def test_frames_of_single_bits_that_do_not_end_on_a_byte(syntax):
    masks = np.random.default_rng(1).integers(0, 2, (9, 3, 7), np.uint8)
    native = np.packbits(masks.ravel(), bitorder="little").tobytes()
    size = {"Rows": 3, "Columns": 7, "BitsAllocated": 1, "NumberOfFrames": 9}
    found = frames(image(syntax, native=native, **size), syntax)
    for number, (mask, every) in enumerate(zip(masks, found, strict=True), 1):
        read = found.read(number)
        assert read == every == np.packbits(mask.ravel(), bitorder="little").tobytes()


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN], ids=uids.name)
def test_pixels_are_little_endian_in_whatever_they_are_stored(syntax, bits):
    pixels = np.random.default_rng(2).integers(0, 256, (3, 5 * 3 * bits // 8), np.uint8)
    size = {"Rows": 5, "Columns": 3, "BitsAllocated": bits, "NumberOfFrames": 3}
    found = frames(image(syntax, native=pixels.tobytes(), **size), syntax)
    assert [found.read(number) for number in (1, 2, 3)] == [one.tobytes() for one in pixels]


@pytest.mark.parametrize(("keyword", "kind"), [("Float", "f4"), ("DoubleFloat", "f8")])
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN, RLE], ids=uids.name)
def test_pixels_of_floating_point(syntax, keyword, kind):
    pixels = np.linspace(0, 1, 24, dtype="<" + kind).reshape(2, 3, 4)
    row = {"NumberOfFrames": 2, "Rows": 3, "Columns": 4, f"{keyword}PixelData": pixels.tobytes()}
    found = frames(encode(row, syntax), syntax)
    assert found.read(2) == pixels[1].tobytes()
    assert (found.image.keyword, found.image.bits_allocated) == (
        f"{keyword}PixelData",
        8 * pixels.itemsize,
    )


def test_colours_that_share_samples():
    size = {"Rows": 2, "Columns": 2, "SamplesPerPixel": 3, "NumberOfFrames": 2}
    data = image(native=bytes(range(16)), PhotometricInterpretation="YBR_FULL_422", **size)
    assert frames(data).read(2) == bytes(range(8, 16))


@pytest.mark.parametrize("table", ["none", "basic", "extended"])
def test_compressed_frames_with_and_without_tables(table):
    values = {"NumberOfFrames": 5}
    if table == "extended":
        pixels, offsets, lengths = encapsulate_extended(FRAMES)
        values |= {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    else:
        pixels = encapsulate(FRAMES, has_bot=table == "basic")
    data = image(JPEG_2000, native=pixels, **values)
    found = frames(data, JPEG_2000)
    assert [found.read(number) for number in range(1, 6)] == list(found) == FRAMES


def test_a_frame_of_many_fragments():
    pixels = encapsulate(FRAMES, fragments_per_frame=2, has_bot=True)
    found = frames(image(JPEG_2000, native=pixels, NumberOfFrames=5), JPEG_2000)
    assert found.read(4) == FRAMES[3]


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "liver_expb_1frame.dcm", "rtdose.dcm"]
)
def test_frames_of_samples_are_what_pydicom_reads(name, sample):
    instance = Instance(sample(name))
    original = pydicom.dcmread(sample(name))
    with instance.open() as file:
        found = Frames(file, instance.transfer_syntax)
        read = list(found)
    if original.BitsAllocated == 1:
        assert read == [original.PixelData[: len(read[0])]]
        return
    expected = [np.ascontiguousarray(array) for array in iter_pixels(sample(name))]
    kind = f"<{'iu'[original.PixelRepresentation == 0]}{original.BitsAllocated // 8}"
    for one, array in zip(read, expected, strict=True):
        if original.BitsAllocated < 32 or instance.transfer_syntax != BIG_ENDIAN:
            assert (np.frombuffer(one, kind).reshape(array.shape) == array).all()


def test_pixels_behind_sequences_of_any_kind_are_found():
    item = encode({"PatientID": "P", "PixelData": b"icon"}, EXPLICIT)
    undefined, end = b"\xff" * 4, b"\xfe\xff\xdd\xe0" + bytes(4)
    items = b"\xfe\xff\0\xe0" + undefined + item + b"\xfe\xff\x0d\xe0" + bytes(4)
    nested = b"\x08\0\x40\x11SQ\0\0" + undefined + items * 2 + end
    inside = b"\xfe\xff\0\xe0" + undefined + nested + b"\xfe\xff\x0d\xe0" + bytes(4)
    sequence = b"\x40\0\x75\x02SQ\0\0" + undefined + inside + end
    of_unknown = encode({"PatientID": "Q"}, IMPLICIT)
    private = b"\x41\0\x10\x10UN\0\0" + undefined
    private += b"\xfe\xff\0\xe0" + len(of_unknown).to_bytes(4, "little") + of_unknown + end
    data = image(native=bytes(range(16)))
    at = data.index(b"\xe0\x7f\x10\0")
    assert frames(data[:at] + sequence + private + data[at:]).read(1) == bytes(range(16))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode({"PatientID": "P"}, EXPLICIT), "no pixels"),
        (encode({"Rows": 2, "PixelData": b"1234"}, EXPLICIT), "columns, bits allocated"),
        (image(native=b"1234"), "cut off"),
        (image(native=bytes(16))[:-4], "cut off"),
        (b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff", "cut off"),
        (b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff" * 300, "nested"),
        (b"", "no pixels"),
    ],
)
def test_unreadable_frame_is_an_error(data, reason):
    with pytest.raises(DataSetError, match=reason):
        frames(data).read(1)


@pytest.mark.parametrize("number", [0, 2, -1])
def test_a_frame_that_is_not_there(number):
    with pytest.raises(DataSetError, match="no frame"):
        frames(image(native=bytes(16))).read(number)


def test_invalid_fragments_are_an_error():
    data = image(JPEG_2000, native=encapsulate(FRAMES, has_bot=False), NumberOfFrames=5)
    at = data.index(b"\xe0\x7f\x10\0") + 12
    found = frames(data[:at] + b"\x10\0\x10\0" + data[at + 4 :], JPEG_2000)
    with pytest.raises(DataSetError, match="told apart"):
        found.read(1)
    with pytest.raises(DataSetError, match="told apart"):
        list(found)
