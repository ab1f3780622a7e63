"""Instances, spools and saving, without a socket."""

import contextlib
import gc
import os
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from support.names import CT, EXPLICIT

from pacsroute import DataSetError, Failure, Instance, uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import parse
from pacsroute.instances import atomic_files, part10
from pacsroute.instances.room import Room
from pacsroute.instances.spool import Spool
from pacsroute.instances.without_bulk_data import without_bulk_data


def element(group, number, vr, value):
    value += b"\0" * (len(value) % 2)
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr
    if vr in (b"OB", b"OW"):
        return head + bytes(2) + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


def data_set(pixels=16, name=b"DOE^JOHN"):
    return b"".join(
        (
            element(8, 0x16, b"UI", CT.encode()),
            element(8, 0x18, b"UI", b"1.2.3"),
            element(0x10, 0x10, b"PN", name),
            element(0x7FE0, 0x10, b"OW", bytes(pixels)),
        )
    )


def spooled(data, folder, threshold=1000, uid="1.2.3"):
    spool = Spool(part10.head(CT, uid, EXPLICIT), str(folder), threshold)
    for start in range(0, len(data), 300):
        spool.write(memoryview(data)[start : start + 300])
    return Instance(spool, sop_class=CT, sop_instance=uid, transfer_syntax=EXPLICIT)


def body(path):
    instance = Instance(path)
    with instance.open() as file:
        return file.read()


@pytest.fixture(autouse=True, params=[True, False], ids=["nameless", "named"])
def nameless(request, monkeypatch):
    """Have drafts without a name, where the system can, and with one, as elsewhere."""
    if request.param and not atomic_files._NAMELESS:
        pytest.skip("no nameless files here")
    monkeypatch.setattr(atomic_files, "_NAMELESS", request.param)
    return request.param


@pytest.fixture(params=[16, 5000], ids=["memory", "file"])
def received(request, tmp_path):
    data = data_set(request.param)
    return spooled(data, tmp_path / "spool"), data


@pytest.mark.parametrize("durable", [True, False])
def test_save_writes_the_bytes_as_they_came(received, tmp_path, durable):
    instance, data = received
    path = instance.save(tmp_path / "new" / "folder", durable=durable)
    assert path == tmp_path / "new" / "folder" / "1.2.3.dcm"
    assert body(path) == data
    ds = pydicom.dcmread(path)
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (ds.file_meta.MediaStorageSOPInstanceUID, ds.PatientName) == ("1.2.3", "DOE^JOHN")
    assert [entry.name for entry in path.parent.iterdir()] == ["1.2.3.dcm"]


def test_saving_twice_gives_two_whole_files(received, tmp_path):
    instance, data = received
    one = instance.save(tmp_path / "a")
    two = instance.save(tmp_path / "b", "other.dcm")
    assert body(one) == body(two) == data
    del instance
    gc.collect()
    assert one.is_file()
    assert two.is_file()


def test_tiny_fragments_take_no_more_memory_than_large_ones():
    spool, data = Spool(b""), os.urandom(100_000)
    tracemalloc.start()
    for at in range(0, len(data), 2):
        spool.write(memoryview(data)[at : at + 2])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spool.open().read() == data
    assert held < 2 * len(data)


def test_saving_twice_to_one_place(received, tmp_path):
    instance, data = received
    assert instance.save(tmp_path / "a") == instance.save(tmp_path / "a")
    assert body(tmp_path / "a" / "1.2.3.dcm") == data
    assert len(list((tmp_path / "a").iterdir())) == 1


@pytest.mark.parametrize("size", [16, 5000])
def test_duplicates_are_replaced_kept_or_refused(tmp_path, size):
    old, new = data_set(size, b"OLD"), data_set(size, b"NEW")
    folder, spool = tmp_path / "a", tmp_path / "spool"
    path = spooled(old, spool).save(folder)
    assert spooled(new, spool).save(folder, duplicate="keep") == path
    assert body(path) == old
    with pytest.raises(Failure) as failure:
        spooled(new, spool).save(folder, duplicate="refuse")
    assert failure.value.status == 0x0111
    del failure  # its traceback holds the instance
    assert body(path) == old
    assert spooled(new, spool).save(folder) == path
    assert body(path) == new
    assert [entry.name for entry in folder.iterdir()] == ["1.2.3.dcm"]
    gc.collect()
    assert list(spool.glob("*")) == []


@pytest.mark.parametrize("duplicate", ["keep", "refuse"])
def test_existing_duplicate_is_durable_before_success(tmp_path, monkeypatch, duplicate):
    path = spooled(data_set(), tmp_path).save(tmp_path, durable=False)
    flushed, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.add(os.fstat(fd).st_ino) or fsync(fd))
    with contextlib.suppress(Failure):
        spooled(data_set(), tmp_path).save(tmp_path, duplicate=duplicate)
    assert {path.stat().st_ino, tmp_path.stat().st_ino} <= flushed


@pytest.mark.parametrize("duplicate", ["keep", "refuse"])
def test_first_copy_is_saved_whatever_duplicate_says(received, tmp_path, duplicate):
    instance, data = received
    path = instance.save(tmp_path / "a", duplicate=duplicate)
    del instance
    gc.collect()
    assert body(path) == data
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_word_for_duplicates_is_refused(received, tmp_path):
    with pytest.raises(ValueError, match="duplicate"):
        received[0].save(tmp_path / "a", duplicate="overwrite")


@pytest.mark.parametrize("name", ["a/b.dcm", "../b.dcm", "/etc/b.dcm", "", ".", "..", "a\0b"])
def test_a_name_that_leaves_the_folder_is_refused(received, tmp_path, name):
    with pytest.raises(ValueError, match="not the name of a file"):
        received[0].save(tmp_path / "a", name)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("uid", ["../../x", "", "1.2.x", "1..2", "1.2.", "1" * 65, "1.2\n", "١.٢"])
def test_invalid_uid_never_becomes_a_file_name(tmp_path, uid):
    instance = Instance(data_set(), sop_class=CT, sop_instance=uid, transfer_syntax=EXPLICIT)
    with pytest.raises(Failure) as failure:
        instance.save(tmp_path / "a", "safe.dcm")
    assert failure.value.status == 0x0117
    assert not (tmp_path / "a").exists()


def test_an_edited_data_set_is_not_saved_as_if_it_were_not(received, tmp_path):
    instance, data = received
    assert instance.dataset.PatientName == "DOE^JOHN"
    assert body(instance.save(tmp_path / "read")) == data
    instance.dataset.PatientName = "ROE^JANE"
    with pytest.raises(DataSetError, match="edited"):
        instance.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    path = Instance(instance.dataset).save(tmp_path / "b")
    assert pydicom.dcmread(path).PatientName == "ROE^JANE"


@pytest.mark.parametrize("edit", ["add", "remove"])
def test_an_element_added_or_removed_is_an_edit(received, tmp_path, edit):
    ds = received[0].dataset
    if edit == "add":
        ds.PatientID = "1"
    else:
        del ds.PatientName
    with pytest.raises(DataSetError, match="edited"):
        received[0].save(tmp_path / "a")


def test_few_bytes_stay_in_memory_and_many_go_to_a_file(tmp_path, nameless):
    folder = tmp_path / "spool"
    spool = Spool(b"head", str(folder), threshold=10)
    spool.write(b"0123456789")
    assert not folder.exists()
    spool.write(memoryview(b"abc"))
    assert len(list(folder.iterdir())) == (not nameless)
    for file in folder.iterdir():
        assert file.read_bytes() == b"head0123456789abc"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with spool.open() as opened:
        assert opened.read() == spool.first() == b"0123456789abc"
    assert spool.size == 13
    del spool
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("folder", ["archive", "archive/study/series"])
def test_saving_a_spool_on_the_same_file_system_renames_it(tmp_path, folder):
    (tmp_path / "archive").mkdir()
    data = data_set(5000)
    instance = spooled(data, tmp_path / "spool")
    inode = os.fstat(instance._source._fd).st_ino
    path = instance.save(tmp_path / folder)
    assert path.stat().st_ino == inode
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    assert list((tmp_path / "spool").iterdir()) == []
    assert instance.dataset.PatientName == "DOE^JOHN"
    del instance
    gc.collect()
    assert body(path) == data


def test_a_spool_that_cannot_be_kept_says_so_and_goes_on(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    spool = Spool(b"", str(tmp_path / "file"), threshold=4)
    spool.write(b"0123456789")
    spool.write(b"0123456789")
    assert isinstance(spool.error, OSError)
    assert spool.size == 20


def test_failed_save_leaves_no_file(received, tmp_path):
    instance, _ = received
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        instance.save(tmp_path / "file" / "below")
    # A folder in the place of the file lets everything work but the last step.
    (tmp_path / "a" / "1.2.3.dcm" / "x").mkdir(parents=True)
    with pytest.raises(OSError):
        instance.save(tmp_path / "a")
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["1.2.3.dcm"]


def test_a_spooled_instance_can_be_read_after_a_failed_save(tmp_path):
    data = data_set(5000)
    instance = spooled(data, tmp_path / "spool")
    (tmp_path / "a" / "1.2.3.dcm").mkdir(parents=True)
    with pytest.raises(OSError):
        instance.save(tmp_path / "a")
    with instance.open() as file:
        assert file.read() == data


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc here")
def test_a_parsed_instance_holds_no_file_open(sample):
    before = len(list(Path("/proc/self/fd").iterdir()))
    instance = Instance(sample("CT_small.dcm"))
    assert instance.dataset.PatientName
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_large_values_are_found_after_the_spool_was_saved(tmp_path):
    instance = spooled(data_set(3_000_000), tmp_path / "spool")
    ds = instance.dataset
    instance.save(tmp_path / "a")
    assert len(ds.PixelData) == 3_000_000


def test_a_spool_can_be_saved_after_a_failure(received, tmp_path):
    instance, data = received
    (tmp_path / "a" / "1.2.3.dcm").mkdir(parents=True)
    with pytest.raises(OSError):
        instance.save(tmp_path / "a")
    assert body(instance.save(tmp_path / "b")) == data


def test_large_values_are_read_when_they_are_used(tmp_path):
    data = data_set(3_000_000)
    path = spooled(data, tmp_path / "spool").save(tmp_path / "a")
    for instance in (Instance(path), spooled(data, tmp_path / "spool")):
        raw = instance.dataset._dict[0x7FE00010]
        assert (raw.value, raw.length) == (None, 3_000_000)
        assert len(instance.dataset.PixelData) == 3_000_000


def test_an_instance_of_a_path_dataset_or_bytes(sample, tmp_path):
    path = sample("CT_small.dcm")
    ds = pydicom.dcmread(path)
    for source in (path, str(path), ds, path.read_bytes()):
        instance = Instance(source)
        assert instance.sop_class == CT
        assert instance.sop_instance == ds.SOPInstanceUID
        assert instance.transfer_syntax == EXPLICIT
        assert instance.dataset.PatientName == ds.PatientName
        saved = instance.save(tmp_path / "a")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert pydicom.dcmread(saved) == ds


def test_hints_spare_opening_the_file(tmp_path):
    instance = Instance(
        tmp_path / "lost.dcm", sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT
    )
    assert (instance.sop_class, instance.sop_instance) == (CT, "1.2.3")
    with pytest.raises(FileNotFoundError):
        instance.dataset


def test_instance_refuses_other_sources():
    for wrong in (None, 5, {"PatientID": "1"}):
        with pytest.raises(TypeError, match="path, Dataset or bytes"):
            Instance(wrong)


def test_a_file_that_is_not_dicom(tmp_path):
    (tmp_path / "x").write_bytes(b"not DICOM at all")
    with pytest.raises(DataSetError):
        Instance(tmp_path / "x").sop_class
    assert Instance(Dataset()).sop_instance == ""


def test_saved_files_have_the_mode_of_the_umask(received, tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(received[0].save(tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_a_crash_leaves_nothing_that_the_next_start_does_not_remove(tmp_path):
    code = (
        "import os, sys\n"
        "from pacsroute.instances import atomic_files, spool\n"
        f"atomic_files._NAMELESS = {atomic_files._NAMELESS}\n"
        "one = spool.Spool(b'', sys.argv[1], threshold=1)\n"
        "one.write(b'0123456789')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -9
    mine = Spool(b"", str(tmp_path), threshold=1)
    (tmp_path / ".pacsroute-notes.txt").write_text("not one of them")
    left = atomic_files.sweep(str(tmp_path))
    assert left == (not atomic_files._NAMELESS)
    mine.write(b"0123456789")
    assert atomic_files.sweep(str(tmp_path)) == 0  # what is being written stays
    with mine.open() as file:
        assert file.read() == b"0123456789"
    mine.close()
    assert [path.name for path in tmp_path.iterdir()] == [".pacsroute-notes.txt"]


def test_a_limit_of_a_spool_is_an_error_and_gives_its_room_back(tmp_path):
    room = Room()
    limits = {"most": 100, "room": room, "most_of_all": 150}
    one, two, small = (Spool(b"", str(tmp_path), 10, **limits) for _ in range(3))
    one.write(bytes(60))
    two.write(bytes(60))
    assert room.used == 120
    one.write(bytes(50))
    assert "max_dataset_length" in str(one.error)
    small.write(bytes(9))
    small.write(bytes(90))
    assert "max_spool" in str(small.error)
    for spool in (one, two, small):
        spool.close()
    assert room.used == 0
    assert list(tmp_path.iterdir()) == []


def test_replaced_file_is_not_sent_under_its_old_uid(tmp_path, sample):
    path = tmp_path / "1.2.3.dcm"
    shutil.copy(sample("CT_small.dcm"), path)
    was = Instance(path)
    known = Instance(
        path,
        sop_class=was.sop_class,
        sop_instance=was.sop_instance,
        transfer_syntax=was.transfer_syntax,
    )
    known.open().close()
    shutil.copy(sample("JPEG2000.dcm"), path)
    with pytest.raises(DataSetError, match="another transfer syntax"):
        known.open()
    with pytest.raises(DataSetError, match="another transfer syntax"):
        known.open_as(uids.IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("wrong", [0, 2, 1000, None])
@pytest.mark.parametrize("syntax", [EXPLICIT, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
def test_a_group_length_that_is_wrong_or_missing(wrong, syntax, tmp_path):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = CT, "1.2.3", "P"
    data = encode(ds, syntax)
    head = bytearray(part10.head(CT, "1.2.3", syntax))
    if wrong is None:
        del head[132:144]
    else:
        length = 0 if wrong == 0 else int.from_bytes(head[140:144], "little") + wrong
        head[140:144] = length.to_bytes(4, "little")
    path = tmp_path / "odd.dcm"
    path.write_bytes(head + data)
    hints = {"sop_class": CT, "sop_instance": "1.2.3", "transfer_syntax": syntax}
    for instance in (Instance(path), Instance(path, **hints)):
        assert instance.sop_instance == "1.2.3"
        with instance.open() as file:
            assert file.read() == data
        assert instance.dataset.PatientID == "P"


def compressed_icon(sample):
    """An RLE image with itself as its icon, and its pixels."""
    ds = pydicom.dcmread(sample("MR_small_RLE.dcm"))
    icon = Dataset()
    icon.update({element.tag: element for element in ds.group_dataset(0x0028)})
    icon.PixelData, native = ds.PixelData, Dataset()
    icon["PixelData"].is_undefined_length = True
    native.Rows, native.Columns, native.BitsAllocated, native.PixelData = 1, 2, 8, b"\1\2"
    ds.IconImageSequence = [icon, native]
    return ds, ds.pixel_array.tobytes()


@pytest.mark.parametrize("syntax", [EXPLICIT, uids.IMPLICIT_VR_LITTLE_ENDIAN])
def test_icon_images_are_decompressed(sample, tmp_path, syntax):
    ds, pixels = compressed_icon(sample)
    ds.save_as(tmp_path / "icon.dcm")
    converted = parse(Instance(tmp_path / "icon.dcm").open_as(syntax), syntax)
    assert converted.PixelData == pixels
    icon, native = converted.IconImageSequence
    assert (icon.PixelData, icon["PixelData"].is_undefined_length) == (pixels, False)
    assert native.PixelData == b"\1\2"


def test_without_bulk_data_icons_are_not_compressed(sample):
    ds, pixels = compressed_icon(sample)
    bare = without_bulk_data(Instance(ds))
    assert bare.transfer_syntax == EXPLICIT
    with bare.open() as file:
        icon, native = parse(file, EXPLICIT).IconImageSequence
    assert (icon.PixelData, icon["PixelData"].is_undefined_length) == (pixels, False)
    assert native.PixelData == b"\1\2"


def test_file_meta_information_in_implicit_vr(tmp_path):
    values = {0x02: CT, 0x03: "1.2.3", 0x10: EXPLICIT}
    meta = b"".join(
        struct.pack("<HHI", 2, number, len(uid) + len(uid) % 2)
        + uid.encode()
        + b"\0" * (len(uid) % 2)
        for number, uid in values.items()
    )
    path = tmp_path / "old.dcm"
    path.write_bytes(
        bytes(128) + b"DICM" + struct.pack("<HHII", 2, 0, 4, len(meta)) + meta + data_set()
    )
    hints = {"sop_class": CT, "sop_instance": "1.2.3", "transfer_syntax": EXPLICIT}
    for instance in (Instance(path), Instance(path, **hints)):
        assert (instance.sop_instance, instance.transfer_syntax) == ("1.2.3", EXPLICIT)
        with instance.open() as file:
            assert file.read() == data_set()


def test_file_meta_information_that_cannot_be_decoded(tmp_path):
    head = bytearray(part10.head(CT, "1.2.34", EXPLICIT))
    head[(at := head.index(bytes.fromhex("02000200")) + 4) : at + 2] = b"U."
    path = tmp_path / "damaged.dcm"
    path.write_bytes(head + data_set())
    with pytest.raises(DataSetError, match="not a Part 10 file"):
        Instance(path).transfer_syntax


@pytest.mark.parametrize("length", [10_000, 70_000, 1_200_000])
def test_file_meta_information_that_is_long(tmp_path, length):
    head = part10.head(CT, "1.2.3", EXPLICIT)
    private = struct.pack("<HH2sHI", 2, 0x102, b"OB", 0, length) + bytes(length)
    path = tmp_path / "long.dcm"
    path.write_bytes(head + private + data_set())
    for instance in (Instance(path), Instance(path).opened()):
        assert (instance.sop_instance, instance.transfer_syntax) == ("1.2.3", EXPLICIT)
        with instance.open() as file:
            assert file.read() == data_set()


def test_head_that_is_longer_than_its_file(tmp_path):
    path = tmp_path / "cut.dcm"
    path.write_bytes(part10.head(CT, "1.2.3", EXPLICIT)[:-3])
    with pytest.raises(DataSetError, match="longer than the file"):
        Instance(path).open()


def test_the_head_of_a_file_is_read_without_inflating_what_is_behind_it(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(data_set()) + packer.compress(bytes(50_000_000)) + packer.flush()
    path = tmp_path / "deflated.dcm"
    path.write_bytes(part10.head(CT, "1.2.3", uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN) + data)
    tracemalloc.start()
    try:
        assert Instance(path).sop_instance == "1.2.3"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_nan_is_not_an_edit(tmp_path):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, "1.2.3"
    ds.RecommendedDisplayFrameRateInFloat = float("nan")
    item = Dataset()
    item.RealWorldValueSlope = float("nan")
    ds.RealWorldValueMappingSequence = [item]
    instance = spooled(encode(ds, EXPLICIT), tmp_path)
    assert str(instance.dataset)
    assert instance.save(tmp_path / "out").is_file()
    instance.dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope = 1.0
    with pytest.raises(DataSetError, match="edited"):
        instance.save(tmp_path / "out")


def test_bytes_of_a_data_set_know_their_uids(tmp_path):
    instance = Instance(data_set(), transfer_syntax=EXPLICIT)
    assert (instance.sop_class, instance.sop_instance) == (CT, "1.2.3")
    assert body(instance.save(tmp_path)) == data_set()
    with pytest.raises(DataSetError, match="need transfer_syntax="):
        _ = Instance(data_set()).sop_class


def test_a_saved_file_that_was_truncated_is_not_copied_endlessly(tmp_path):
    instance = spooled(data_set(200_000), tmp_path / "spool")
    (tmp_path / "one").mkdir()
    path = instance.save(tmp_path / "one")
    os.truncate(path, 5000)
    with pytest.raises(OSError, match="truncated"):
        instance.save(tmp_path / "two")
    assert not list((tmp_path / "two").iterdir())


def test_a_scratch_folder_that_is_left_in_the_systems_folder_goes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_files, "_temporary", lambda: str(tmp_path))
    left = tmp_path / ".pacsroute-another-1-0.part"
    left.mkdir()
    (left / "0").write_bytes(b"DOE^JOHN")
    with atomic_files.scratch(None):
        assert not left.exists()


def test_a_scratch_folder_that_is_swept_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    quickly = atomic_files._quickly

    def late(path, flags):
        monkeypatch.setattr(atomic_files, "_quickly", quickly)
        assert atomic_files.sweep(str(tmp_path)) == 1
        return quickly(path, flags)

    monkeypatch.setattr(atomic_files, "_quickly", late)
    with atomic_files.scratch(str(tmp_path)) as folder:
        assert os.listdir(folder) == []
        assert atomic_files.sweep(str(tmp_path)) == 0
    assert os.listdir(tmp_path) == []


def test_a_scratch_folder_that_is_left_is_swept(tmp_path):
    with atomic_files.scratch(str(tmp_path)) as folder:
        Path(folder, "0").write_bytes(b"x")
        assert atomic_files.sweep(str(tmp_path)) == 0  # it is in use
    assert not list(tmp_path.iterdir())
    left = tmp_path / ".pacsroute-0123-1-1.part"
    left.mkdir()
    (left / "0").write_bytes(b"x")
    assert atomic_files.sweep(str(tmp_path)) == 1
    assert not list(tmp_path.iterdir())
