"""Decoders in child processes: what they decode, what ends them, and that nobody else is hurt."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pydicom
import pytest
from support.images import (
    FROZEN,
    JPEG_2000,
    JPEG_LS,
    RLE,
    blank_jpeg_2000,
    blank_jpeg_ls,
    blank_rle,
    decoder_processes,
    end_decoders,
    instance,
    resident,
)
from support.names import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, WAIT
from support.processes import environment
from support.unharmed import until

from pacsroute import App, DataSetError, Instance, uids
from pacsroute.config import Config
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import parse
from pacsroute.instances.decoding import decoders
from pacsroute.instances.decoding.wall import Decoders
from pacsroute.instances.pixel_data import ImagePixel
from pacsroute.instances.room import Room

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nobody_elses():
    """End the decoders of earlier tests, which would be counted too."""
    end_decoders()


@pytest.fixture
def wall():
    """Return a function that makes decoders with settings, which end with the test."""
    with contextlib.ExitStack() as stack:

        def make(room=None, **settings):
            return stack.enter_context(contextlib.closing(Decoders(Config(**settings), room)))

        yield make


def converted(wall, image, target=EXPLICIT, **options):
    """Return an image's data set as it is in another syntax."""
    with wall.convert(image.open(), image.transfer_syntax, target, **options) as file:
        return parse(file.read(), target)


def frame_of(wall, image, number):
    return wall.frame(image.open(), image.transfer_syntax, number)


# ------------------------------------------------------------------------- what is decoded


@pytest.mark.parametrize(
    ("syntax", "frame", "ratio"),
    [
        (JPEG_2000, blank_jpeg_2000(2457, 1996), 55_000),
        (JPEG_LS, blank_jpeg_ls(2457, 1996), 26_000),
    ],
    ids=["JPEG 2000", "JPEG-LS"],
)
def test_a_blank_slice_of_a_tomosynthesis_is_decoded_however_small_it_is(
    wall, syntax, frame, ratio
):
    size = {"Rows": 2457, "Columns": 1996, "BitsAllocated": 16}
    image = instance(syntax, [frame, frame], NumberOfFrames=2, **size)
    assert ratio * len(frame) < 2457 * 1996 * 2
    decoded = converted(wall(), image)
    assert decoded.PixelData == bytes(2 * 2457 * 1996 * 2)
    assert decoded["PixelData"].VR == "OW"


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED], ids=uids.name)
@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"],
)
def test_every_frame_is_what_pydicom_decodes(wall, sample, name, target):
    original = pydicom.dcmread(sample(name))
    decoding = wall(decoders=1)
    decoded = converted(decoding, Instance(sample(name)), target)
    order = ">i2" if target == BIG_ENDIAN else "<i2"
    pixels = np.frombuffer(decoded.PixelData, order).reshape(64, 64)
    assert (pixels == original.pixel_array).all()
    image, file = frame_of(decoding, Instance(sample(name)), 1)
    with file:
        assert (np.frombuffer(file.read(), "<i2") == original.pixel_array.ravel()).all()
    assert (image.rows, image.columns, image.bits_allocated) == (64, 64, 16)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"])
def test_a_frame_of_an_instance(sample, name):
    original = pydicom.dcmread(sample(name))
    image, file = Instance(sample(name)).frame(1)
    with file:
        pixels = np.frombuffer(file.read(), "<i2").reshape(image.rows, image.columns)
    assert (pixels == original.pixel_array).all()
    assert (len(decoder_processes()) == 1) == (name == "MR_small_RLE.dcm")
    with pytest.raises(DataSetError, match="no frame 2"):
        Instance(sample(name)).frame(2)


def test_pydicom_reads_what_is_decoded(sample):
    path = sample("MR_small_RLE.dcm")
    with Instance(path).open_as(EXPLICIT) as file:
        decoded = pydicom.dcmread(file, force=True)
        decoded.file_meta.TransferSyntaxUID = EXPLICIT
        assert (decoded.pixel_array == pydicom.dcmread(path).pixel_array).all()


def test_colours_of_a_frame_are_rgb_and_interleaved(wall, sample):
    path = sample("SC_rgb_jpeg_gdcm.dcm")
    image, file = frame_of(wall(), Instance(path), 1)
    with file:
        pixels = np.frombuffer(file.read(), "u1").reshape(100, 100, 3)
    assert (pixels == pydicom.dcmread(path).pixel_array).all()
    assert (image.photometric_interpretation, image.planar_configuration) == ("RGB", 0)


def test_single_bits_of_compressed_frames_follow_each_other_without_a_gap(wall):
    from openjpeg.utils import encode_array

    masks = np.random.default_rng(1).integers(0, 2, (5, 33, 35), np.uint8)
    frames = [encode_array(mask, bits_stored=1) for mask in masks]
    size = {"Rows": 33, "Columns": 35, "BitsAllocated": 1}
    image = instance(JPEG_2000, frames, NumberOfFrames=5, **size)
    decoded = converted(wall(), image)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    assert decoded.PixelData == packed
    with frame_of(wall(), image, 4).file as file:
        assert file.read() == np.packbits(masks[3].ravel(), bitorder="little").tobytes()


def test_a_sparse_segmentation_is_inflated_whatever_its_ratio(wall):
    pixels = bytearray(512 * 512 * 512 // 8)
    pixels[1000] = 255
    size = {"Rows": 512, "Columns": 512, "BitsAllocated": 1, "NumberOfFrames": 512}
    image = instance(DEFLATED, native=bytes(pixels), **size)
    with image.open() as file:
        assert len(pixels) > 900 * len(file.read())
    assert converted(wall(), image).PixelData == pixels
    with frame_of(wall(), image, 1).file as file:
        assert file.read() == pixels[: 512 * 512 // 8]
    limits = image.limits._replace(inflated=MIB)
    with pytest.raises(DataSetError, match="max_inflated"):
        converted(wall(), image, limits=limits)


def test_data_set_without_pixels_is_inflated(wall):
    data = encode({"PatientID": "P"}, DEFLATED)
    image = Instance(data, transfer_syntax=DEFLATED)
    assert converted(wall(), image, IMPLICIT).PatientID == "P"
    with pytest.raises(DataSetError, match="no pixels"):
        frame_of(wall(), image, 1)


def test_a_large_native_image_is_copied_and_not_read(wall):
    pixels = np.arange(3 * MIB, dtype="<u2").tobytes()
    size = {"Rows": 1024, "Columns": 1024, "NumberOfFrames": 3, "BitsAllocated": 16}
    image = instance(IMPLICIT, native=pixels, PatientName="A^B", **size)
    for target in (EXPLICIT, BIG_ENDIAN, DEFLATED):
        decoded = converted(wall(), image, target)
        order = ">u2" if target == BIG_ENDIAN else "<u2"
        assert (np.frombuffer(decoded.PixelData, order) == np.frombuffer(pixels, "<u2")).all()
        assert (decoded.PatientName, decoded["PixelData"].VR) == ("A^B", "OW")


@pytest.mark.parametrize("name", ["MPEG2MPML", "MPEG4HP41", "HEVCMP51", "JPIPReferenced"])
def test_video_and_pixels_elsewhere_are_never_decoded(name):
    image = instance(uids.transfer_syntax(name), [b"\0\0\1\xb3"])
    before = decoder_processes()
    with pytest.raises(DataSetError, match=r"never decoded|pixels are elsewhere"):
        image.open_as(EXPLICIT)
    assert decoder_processes() == before


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("syntax", "frames", "size", "reason"),
    [
        (RLE, [blank_rle(128)], {"Rows": 65535, "Columns": 65535}, "of RLE cannot be"),
        (RLE, [blank_rle(128)], {"Rows": 1000, "Columns": 1000}, "of RLE cannot be"),
        (RLE, [blank_rle(16)], {"NumberOfFrames": 200_000_000}, "of RLE cannot be"),
        (JPEG_LS, [FROZEN], {"NumberOfFrames": 3}, "fewer frames than it says"),
        (JPEG_LS, [FROZEN], {"NumberOfFrames": 1 << 30}, "more than 4 GiB"),
        (JPEG_LS, [FROZEN], {"Rows": 40_000, "Columns": 40_000}, "an eighth of decode_memory"),
        (JPEG_LS, [FROZEN], {"Rows": 0}, "does not say its rows"),
        (JPEG_LS, [FROZEN], {"NumberOfFrames": "many"}, "Number of Frames is invalid"),
        (JPEG_LS, [blank_jpeg_ls(5, 5, 8)], {}, "not as large|cannot be decoded"),
        (JPEG_2000, [b"nothing"], {}, "cannot be decoded"),
        ("1.2.840.10008.1.2.4.52", [b"nothing"], {}, "nothing decodes JPEG Extended"),
    ],
)
def test_impossible_image_size_is_refused_before_decoding(wall, syntax, frames, size, reason):
    values = {"NumberOfFrames": size.pop("NumberOfFrames")} if "NumberOfFrames" in size else {}
    if values.get("NumberOfFrames") == "many":
        data = instance(syntax, frames, NumberOfFrames=1234).open().read()
        image = Instance(data.replace(b"1234", b"many"), transfer_syntax=syntax)
    else:
        image = instance(syntax, frames, **values, **size)
    started = time.monotonic()
    with pytest.raises(DataSetError, match=reason):
        converted(wall(), image)
    assert time.monotonic() - started < WAIT


def test_frames_are_served_one_by_one_where_all_are_too_many(wall):
    frame = blank_jpeg_ls(8000, 8000)
    size = {"Rows": 8000, "Columns": 8000, "BitsAllocated": 16, "NumberOfFrames": 40}
    image = instance(JPEG_LS, [frame] * 40, **size)
    with pytest.raises(DataSetError, match="more than 4 GiB"):
        converted(wall(), image)
    with frame_of(wall(), image, 40).file as file:
        assert file.seek(0, os.SEEK_END) == 8000 * 8000 * 2


def test_a_decoder_that_raises_or_panics_is_a_reason(monkeypatch):
    class PanicException(BaseException):  # as that of Rust is
        pass

    class Panicking:
        available_plugins = ("pylibjpeg",)

        def as_array(self, *_, **options):
            raise PanicException("index out of bounds: Doe^John")

    monkeypatch.setattr(decoders, "get_decoder", lambda uid: Panicking())
    with pytest.raises(DataSetError) as raised:
        decoders.decode_frame(b"1234", ImagePixel(4, 4, 8), RLE)
    assert str(raised.value) == "RLE Lossless cannot be decoded: PanicException"


def test_without_a_decoder_the_reason_names_the_extra(monkeypatch):
    class Missing:
        is_available = False

    monkeypatch.setattr(decoders, "get_decoder", lambda uid: Missing)
    with pytest.raises(DataSetError, match=r"pacsroute\[pixels\]"):
        decoders.check_decoder(JPEG_LS)


# --------------------------------------------------------------------------- what ends them


def test_a_decoder_that_hangs_is_ended_and_another_takes_its_place(wall):
    decoding = wall(decode_seconds=1, decoders=1)
    image = instance(JPEG_LS, [FROZEN], Rows=100, Columns=100)
    good = instance(RLE, [blank_rle(16)])
    assert converted(decoding, good).PixelData == bytes(16)
    (first,) = decoder_processes()
    with pytest.raises(DataSetError, match="more than 1 s of decode_seconds"):
        converted(decoding, image)
    assert first not in decoder_processes()
    assert converted(decoding, good).PixelData == bytes(16)


def test_a_decoder_cannot_take_more_memory_than_it_may(wall):
    decoding = wall(decode_memory=128 * MIB)
    huge = instance(JPEG_LS, [blank_jpeg_ls(20_000, 20_000)])
    with pytest.raises(DataSetError, match=r"memory|died|cannot be decoded"):
        converted(decoding, huge)
    assert all(resident(process)[1] < 512 * MIB for process in decoder_processes())


def test_abandoned_decoding_ends_early(wall):
    decoding = wall(decode_seconds=1000, decoders=1)
    image = instance(JPEG_LS, [FROZEN], Rows=100, Columns=100)
    left = threading.Event()
    outcome = []

    def ask():
        with pytest.raises(DataSetError, match="no longer wanted"):
            converted(decoding, image, wanted=lambda: not left.is_set())
        outcome.append("ended")

    waiting = [threading.Thread(target=ask) for _ in range(2)]  # one decodes, one waits for it
    for thread in waiting:
        thread.start()
    assert until(decoder_processes)
    left.set()
    for thread in waiting:
        thread.join(WAIT)
    assert outcome == ["ended", "ended"]
    assert until(lambda: not decoder_processes())


@pytest.mark.parametrize("busy", [False, True])
def test_killed_decoder_is_replaced(wall, busy):
    decoding = wall(decode_seconds=1000, decoders=1)
    good = instance(RLE, [blank_rle(16)])
    assert converted(decoding, good).PixelData == bytes(16)
    (process,) = decoder_processes()
    if busy:
        frozen = instance(JPEG_LS, [FROZEN], Rows=100, Columns=100)
        killer = threading.Timer(0.3, os.kill, (process, signal.SIGKILL))
        killer.start()
        with pytest.raises(DataSetError, match="killed by SIGKILL"):
            converted(decoding, frozen)
    else:
        os.kill(process, signal.SIGKILL)
        assert until(lambda: not decoder_processes())
    assert converted(decoding, good).PixelData == bytes(16)
    assert decoder_processes() != [process]


def test_there_are_no_more_decoders_than_are_set(wall):
    decoding = wall(decoders=2)
    image = instance(RLE, [blank_rle(16)])
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(converted(decoding, image).PixelData))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert (done, len(decoder_processes())) == ([bytes(16)] * 8, 2)


def test_decoders_end_with_their_server(sample):
    app = App(decoders=1, decode_seconds=1000)
    with app.serve(port=0):
        Instance(sample("MR_small_RLE.dcm")).open_as(EXPLICIT).close()
        assert len(decoder_processes()) == 1
    assert until(lambda: not decoder_processes())


FREEZING = """
import sys
from pacsroute import App, Instance
app = App(decode_seconds=1000)
with app.serve(port=0):
    print("ready", flush=True)
    Instance(sys.argv[1]).open_as("1.2.840.10008.1.2.1")
"""


def test_no_decoder_outlives_a_server_that_is_killed(tmp_path):
    path = instance(JPEG_LS, [FROZEN], Rows=100, Columns=100).save(tmp_path)
    server = subprocess.Popen(
        [sys.executable, "-c", FREEZING, str(path)], env=environment(), stdout=subprocess.PIPE
    )
    with server:
        assert server.stdout.readline() == b"ready\n"
        assert until(lambda: decoder_processes(server.pid))
        time.sleep(0.5)  # it is in the decoder by then; earlier, it ends all the same
        server.kill()
    assert until(lambda: not decoder_processes(server.pid), seconds=10)


def test_a_decoder_knows_nothing_of_its_servers_environment(wall, monkeypatch):
    monkeypatch.setenv("PACSROUTE_TLS_KEY_PASSPHRASE", "secret")
    decoding = wall(decoders=1)
    converted(decoding, instance(RLE, [blank_rle(16)]))
    (process,) = decoder_processes()
    with open(f"/proc/{process}/environ", "rb") as file:
        assert b"secret" not in file.read()
    names = [os.readlink(f"/proc/{process}/fd/{fd}") for fd in os.listdir(f"/proc/{process}/fd")]
    assert sum(name.startswith("socket:") for name in names) == 1
    assert {name for name in names if not name.startswith("socket:")} == {"/dev/null"}


# ------------------------------------------------------------------------------- the spool


def test_decoded_data_counts_in_the_spool_until_closed(wall):
    room = Room()
    decoding = wall(room, max_spool=100_000)
    image = instance(RLE, [blank_rle(10_000)], Rows=100, Columns=100)
    file = decoding.convert(image.open(), RLE, EXPLICIT)
    assert room.used == file.seek(0, os.SEEK_END)
    file.close()
    del file
    assert room.used == 0
    large = instance(RLE, [blank_rle(250_000)], Rows=500, Columns=500)
    with pytest.raises(OSError, match="max_spool"):
        decoding.convert(large.open(), RLE, EXPLICIT)
    assert room.used == 0


def test_nothing_stays_behind_in_the_spool(wall, tmp_path, sample, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decoding = wall(spool="spool")
    converted(decoding, Instance(sample("MR_small_RLE.dcm")))
    converted(decoding, instance(DEFLATED, native=bytes(16)))
    with pytest.raises(DataSetError):
        converted(decoding, instance(JPEG_2000, [b"nothing"]))
    assert list((tmp_path / "spool").iterdir()) == []


# ------------------------------------------------------------------------------ large ones


@pytest.mark.slow
def test_sixty_frames_of_nine_megabytes_take_the_memory_of_one(wall):
    decoding = wall(decoders=1)
    size = {"Rows": 2457, "Columns": 1996, "BitsAllocated": 16, "NumberOfFrames": 60}
    image = instance(JPEG_LS, [blank_jpeg_ls(2457, 1996)] * 60, **size)
    before = resident()[0]
    with decoding.convert(image.open(), JPEG_LS, EXPLICIT) as file:
        assert file.seek(0, os.SEEK_END) > 60 * 2457 * 1996 * 2
        (process,) = decoder_processes()
        assert resident(process)[1] < 300 * MIB
        assert resident()[0] < before + 50 * MIB


@pytest.mark.slow
def test_ten_thousand_frames_in_colour(wall):
    from openjpeg.utils import encode_array

    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:, :, 0] = 200
    frame = encode_array(colours, photometric_interpretation=1)
    values = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    image = instance(
        JPEG_2000, [frame] * 10_000, Rows=48, Columns=64, NumberOfFrames=10_000, **values
    )
    with wall().convert(image.open(), JPEG_2000, EXPLICIT) as file:
        assert file.seek(0, os.SEEK_END) > 10_000 * colours.nbytes
        file.seek(-colours.nbytes, os.SEEK_END)
        assert file.read() == colours.tobytes()


@pytest.mark.slow
def test_a_hundred_and_fifty_thousand_tiles(wall):
    frame = blank_rle(64)
    image = instance(RLE, [frame] * 150_000, Rows=8, Columns=8, NumberOfFrames=150_000)
    with wall().convert(image.open(), RLE, EXPLICIT) as file:
        assert file.seek(0, os.SEEK_END) > 150_000 * 64
    with frame_of(wall(), image, 150_000).file as file:
        assert file.read() == bytes(64)


def with_functional_groups(count, *, is_undefined):
    """Return an image of many frames, with 300 elements for each, and that sequence."""
    item = b"".join(
        struct.pack("<HH2sH2s", 0x41, 0x1000 + number, b"LO", 2, b"ab") for number in range(300)
    )
    items = (b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item) * count
    groups = b"\x00\x52\x30\x92SQ\0\0" + len(items).to_bytes(4, "little") + items
    if is_undefined:
        groups = groups[:8] + b"\xff" * 4 + items + b"\xfe\xff\xdd\xe0" + bytes(4)
    data = instance(RLE, [blank_rle(16)] * count, NumberOfFrames=count).open().read()
    at = data.index(b"\xe0\x7f\x10\0")
    return Instance(data[:at] + groups + data[at:], transfer_syntax=RLE), groups


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, DEFLATED], ids=uids.name)
@pytest.mark.parametrize("is_undefined", [False, True])
def test_a_large_sequence_is_kept(wall, is_undefined, target):
    image, groups = with_functional_groups(400, is_undefined=is_undefined)
    decoded = converted(wall(decoders=1), image, target)
    assert decoded.PixelData == bytes(400 * 16)
    items = decoded.PerFrameFunctionalGroupsSequence
    assert len(items) == 400
    assert [len(item) for item in items[::100]] == [300] * 4
    if target == EXPLICIT:
        with wall().convert(image.open(), RLE, EXPLICIT) as file:
            assert groups in file.read()


@pytest.mark.slow
@pytest.mark.parametrize("is_undefined", [False, True])
def test_twelve_thousand_frames_with_three_hundred_elements_each(wall, is_undefined):
    image, groups = with_functional_groups(12_000, is_undefined=is_undefined)
    decoding = wall(decoders=1)
    with frame_of(decoding, image, 12_000).file as file:
        assert file.read() == bytes(16)
    with decoding.convert(image.open(), RLE, EXPLICIT) as file:
        assert groups in file.read()
    (process,) = decoder_processes()
    assert resident(process)[1] < 400 * MIB


@pytest.mark.slow
def test_an_enhanced_ct_of_four_gigabytes(wall, tmp_path):
    size = {"Rows": 512, "Columns": 512, "BitsAllocated": 16, "NumberOfFrames": 8191}
    small = instance(EXPLICIT, native=b"", **size).save(tmp_path)
    length = 8191 * 512 * 512 * 2
    with open(small, "r+b") as file:  # a sparse file
        file.seek(-4, os.SEEK_END)
        file.write(length.to_bytes(4, "little"))
        file.truncate(file.tell() + length)
    image = Instance(small)
    before = resident()[1]
    with frame_of(wall(), image, 8191).file as file:
        assert file.read() == bytes(512 * 512 * 2)
    with image.open() as file:
        assert file.read(8) == b"\x08\0\x16\0UI\x1a\0"
    assert resident()[1] < before + 50 * MIB
    assert all(resident(process)[1] < 300 * MIB for process in decoder_processes())
