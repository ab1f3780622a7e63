"""Storages: whole files under keys, in a folder, in memory and in a bucket, read in ranges."""

import errno
import io
import os
import subprocess
import sys
import threading

import pytest
from pydicom import dcmread
from support.buckets import bucket
from support.names import CT, WAIT

from pacsroute import App, Failure, Instance, SetupError, StoreRequest
from pacsroute import storage as storage_module
from pacsroute.instances.stored import new_key
from pacsroute.storage import Folder, Objects


@pytest.fixture(scope="module")
def s3():
    with bucket() as variables:
        yield variables


@pytest.fixture(params=["folder", "memory", "s3"])
def storage(request, tmp_path):
    if request.param == "folder":
        return Folder(tmp_path / "files")
    if request.param == "memory":
        return Objects("memory://")
    request.getfixturevalue("s3")
    return Objects(f"s3://bucket/{tmp_path.name}")


def put(storage, key, data):
    storage.put(key, io.BytesIO(data), len(data))


def test_file_is_kept_read_and_deleted(storage):
    put(storage, "1.2/3.dcm", b"0123456789")
    for offset, length, expected in (
        (0, None, b"0123456789"),
        (4, None, b"456789"),
        (4, 3, b"456"),
        (8, 9, b"89"),
        (10, None, b""),
        (10, 5, b""),
        (0, 0, b""),
    ):
        with storage.open("1.2/3.dcm", offset, length) as file:
            assert file.read() == expected
    put(storage, "1.2/3.dcm", b"another")
    with storage.open("1.2/3.dcm") as file:
        assert (file.read(), file.size) == (b"another", 7)
    storage.delete("1.2/3.dcm")
    storage.delete("1.2/3.dcm")
    with pytest.raises(FileNotFoundError):
        storage.open("1.2/3.dcm")


def test_keys_are_listed_by_the_whole_parts_they_begin_with(storage):
    assert list(storage.list()) == []
    for key in ("1.2/a", "1.2/b", "1.20/a", "3"):
        put(storage, key, b"x")
    assert sorted(storage.list()) == ["1.2/a", "1.2/b", "1.20/a", "3"]
    assert sorted(storage.list("1.2")) == ["1.2/a", "1.2/b"]
    assert list(storage.list("1")) == []
    assert list(storage.list("3")) in ([], ["3"])


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../up", "a\0b", "a\\..\\b"])
def test_key_never_leads_out_of_the_storage(storage, key):
    for use in (storage.open, storage.delete, lambda key: put(storage, key, b"x")):
        with pytest.raises(ValueError, match="is not a key"):
            use(key)


def test_large_object_goes_and_comes_in_parts(storage):
    data = os.urandom(1 << 20) * 20
    put(storage, "large", data)
    with storage.open("large") as file:
        assert file.size == len(data)
        pieces = iter(lambda: file.read(3_000_001), b"")
        assert b"".join(pieces) == data


def test_keys_of_attempts_sort_by_time_and_never_repeat():
    keys = [new_key("1.2.3") for _ in range(1000)]
    assert keys == sorted(set(keys))
    assert all(key.startswith("1.2.3/") for key in keys)


def test_instances_are_saved_read_and_sent_from_a_storage(storage, sample):
    app = App("ARCHIVE")
    app.state.kept = []

    @app.store
    def store(request):
        app.state.kept.append(request.save(storage))

    @app.get
    def get(request):
        return app.state.kept

    original = dcmread(sample("CT_small.dcm"))
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": original.StudyInstanceUID}
    with app.test_client() as client:
        client.store(sample("CT_small.dcm"))
        (kept,) = app.state.kept
        assert kept.dataset == original
        assert kept.path is None
        (instance,) = client.get(keys, storage=[CT])
        with instance.open() as came, Instance(sample("CT_small.dcm")).open() as file:
            assert came.read() == file.read()
        fresh = Instance(storage.at(kept._source.key))
        assert (fresh.sop_class, fresh.sop_instance) == (CT, original.SOPInstanceUID)
        assert fresh.transfer_syntax == original.file_meta.TransferSyntaxUID
        client.store(sample("CT_small.dcm"))
        assert len(list(storage.list(str(original.SOPInstanceUID)))) == 2


def test_values_of_a_stored_instance_are_read_when_they_are_used(storage, sample):
    original = dcmread(sample("CT_small.dcm"))
    original.PixelData = os.urandom(1 << 20) * 8
    kept = Instance(original).save(storage)
    fetched = []
    opening = storage.open

    class Counting:
        put, delete, list = storage.put, storage.delete, storage.list

        def open(self, key, offset=0, length=None):
            file = opening(key, offset, length)
            read = file.read
            size = file.size

            class Counted(io.RawIOBase):
                def readable(self):
                    return True

                def close(self):
                    file.close()
                    super().close()

                def readinto(self, buffer):
                    data = read(len(buffer))
                    fetched.append(len(data))
                    buffer[: len(data)] = data
                    return len(data)

            counted = Counted()
            counted.size = size
            return counted

    dataset = Instance(type(kept._source)(Counting(), kept._source.key)).dataset
    assert dataset.PatientID == original.PatientID
    assert sum(fetched) < 4 << 20
    assert dataset.PixelData == original.PixelData


class Plain:
    """The least that a storage is: it does not tell how long a file is."""

    def __init__(self):
        self.files = {}

    def put(self, key, file, size):
        data = file.read()
        assert len(data) == size
        self.files[key] = data

    def open(self, key, offset=0, length=None):
        end = None if length is None else offset + length
        return io.BytesIO(self.files[key][offset:end])

    def delete(self, key):
        self.files.pop(key, None)

    def list(self, prefix=""):
        yield from self.files


@pytest.mark.parametrize("source", ["path", "dataset", "bytes"])
def test_any_object_with_four_methods_is_a_storage(sample, source):
    path = sample("CT_small.dcm")
    with open(path, "rb") as file:
        made = {"path": path, "dataset": dcmread(path), "bytes": file.read()}
    kept = Instance(made[source]).save(Plain())
    assert kept.dataset == dcmread(path)
    with Instance(path).open() as ours, kept.open() as theirs:
        assert theirs.seek(0, os.SEEK_END) > 0
        assert theirs.tell() > ours.seek(0, os.SEEK_END)


def test_storage_takes_no_name_and_replaces_nothing(sample):
    instance = Instance(sample("CT_small.dcm"))
    for options in ({"name": "a.dcm"}, {"duplicate": "refuse"}, {"duplicate": "keep"}):
        with pytest.raises(SetupError, match="takes no name and no duplicate"):
            instance.save(Plain(), **options)
    with pytest.raises(TypeError, match="a folder or a storage"):
        instance.save(object())
    with pytest.raises(Failure):
        Instance(b"", sop_class=CT, sop_instance="x", transfer_syntax="1.2").save(Plain())


def test_storage_that_fails_is_out_of_resources(sample, s3):
    app, nowhere = App("ARCHIVE"), Objects("s3://no-such-bucket/prefix")

    @app.store
    def store(request):
        request.save(nowhere)

    request = StoreRequest(app=app, instance=Instance(sample("CT_small.dcm")))
    assert app.handle(request).status.code == 0xA700


def test_error_of_a_bucket_is_one_of_files_and_tells_no_secret(s3):
    nowhere = Objects("s3://no-such-bucket/prefix")
    for use in (lambda: put(nowhere, "a", b"x"), lambda: list(nowhere.list("a"))):
        with pytest.raises(OSError) as failed:
            use()
        assert failed.value.errno in (errno.EIO, errno.ENOENT)
        assert s3["AWS_SECRET_ACCESS_KEY"] not in str(failed.value)
    assert "secret" not in repr(nowhere)


def test_many_threads_share_a_storage(storage):
    failed = []

    def work(number):
        try:
            for one in range(10):
                put(storage, f"{number}/{one}", f"{number} {one}".encode())
                with storage.open(f"{number}/{one}") as file:
                    assert file.read() == f"{number} {one}".encode()
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert failed == []
    assert len(list(storage.list())) == 40


def test_url_that_is_none_is_a_set_up_error():
    with pytest.raises(SetupError, match="is not a bucket"):
        Objects("nonsense")


def test_without_the_extra_the_error_names_it():
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pacsroute.storage import Objects\n"
        "try: Objects('s3://bucket')\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install 'pacsroute[s3]'" in done.stdout


def test_error_is_not_taken_for_a_range_because_its_text_holds_416():
    error = type("GenericError", (Exception,), {"__module__": "obstore.exceptions"})
    with pytest.raises(OSError, match="the bucket failed"), storage_module._as_os_errors("a"):
        raise error("Error performing PUT http://127.0.0.1:41607/a: request 8416 refused")
