"""C-GET and C-MOVE of a study of many instances, in memory that does not grow with its size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.archives import image
from support.names import CT, WAIT
from support.places import ROOT

from pacsroute import App, Instance, connect

SERVER = """
import sys
from pacsroute import App, Archive, Peer

app = App("ARCHIVE")
archive = Archive(sys.argv[1])
app.register_blueprint(archive)

@app.destination
def destination(ae_title, request):
    return Peer("127.0.0.1", int(ae_title))

with app.running():
    print(archive.count(), flush=True)
    server = app.serve(port=0, grace=1)
    print(server.port, flush=True)
    server.run()
"""
_LENGTH = 40_000


def fill(folder, count):
    """Write the files of a study, which the archive takes in at its first start."""
    folder.mkdir()
    first = image(10**6, study="1.9", PixelData=bytes(_LENGTH), BitsAllocated=16, Rows=200)
    place = Instance(first).save(folder, "first", durable=False)
    data = place.read_bytes()
    place.unlink()
    for number in range(count):
        uid = f"1.3.{10**6 + number}".encode()
        (folder / f"{uid.decode()}.dcm").write_bytes(data.replace(b"1.3.1000000", uid))


def peak(pid):
    """Return the most memory that a process ever had, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.skip("there is no /proc here to read the memory of a process from")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if "VmHWM" in line)


@pytest.mark.parametrize(
    ("count", "most"),
    [
        (300, 8_000_000),
        pytest.param(10_000, 40_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_large_study_is_sent_in_little_memory(tmp_path, count, most):
    """What grows is the list of its instances, and not with their length."""
    fill(tmp_path / "archive", count)
    taken = []
    there = App("DEST", spool=tmp_path / "spool")
    there.store(lambda request: taken.append(request.instance.sop_instance))
    arguments = [sys.executable, "-c", SERVER, str(tmp_path / "archive")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process,
        there.serve(port=0, grace=1) as destination,
    ):
        try:
            assert int(process.stdout.readline()) == count
            port = int(process.stdout.readline())
            with connect("127.0.0.1", port, timeout=WAIT) as client:
                asked = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.9"}
                asked |= {"SeriesInstanceUID": "1.2", "SOPInstanceUID": "1.3.1000000"}
                assert len(list(client.get(asked, storage=[CT]))) == 1
                before = peak(process.pid)
                asked = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.9"}
                got = sum(
                    len(one.open().read()) > _LENGTH for one in client.get(asked, storage=[CT])
                )
                assert got == count
                list(client.move(asked, str(destination.port)))
            assert len(set(taken)) == count
            grown = peak(process.pid) - before
            print(f"{count} instances, {count * _LENGTH >> 20} MiB: {grown >> 10} KiB more")
            assert grown < most
        finally:
            process.kill()
