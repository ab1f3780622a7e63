"""The memory that large instances take over HTTP, in a server's process of its own."""

import contextlib
import http.client
import json
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from support.names import WAIT
from support.web import ROOT

from pacsroute import uids
from pacsroute.dataset import encode
from pacsroute.instances import part10

SERVER = """
import sys
from pacsroute import App, Instance

folder = sys.argv[1]
app, kept = App("KEEPER", spool=folder), []

@app.store
def store(request):
    kept.append(request.save(folder + "/files"))

@app.get("StudyRoot")
def get(request):
    yield Instance(kept[0])

with app.serve(port=0, web_port=0) as server:
    print(server.web_port, flush=True)
    sys.stdin.read()
"""
SIZE, FRAMES = 512 * 512 * 2, 572
MOST = 20  # MB
MULTIPART = 'multipart/related; type="application/dicom"'


class Serving:
    """A server, and the most memory that it has taken since `begin`."""

    def __init__(self, process):
        self._process = process
        self._port = int(process.stdout.readline())

    def _status(self, name):
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.partition(f"{name}:")[2].split()[0]) / 1024

    def begin(self):
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        self._before = self._status("VmHWM")

    def taken(self):
        return self._status("VmHWM") - self._before

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            size = sum(map(len, iter(lambda: response.read(1 << 20), b"")))
            return response.status, size


def large():
    """Yield the body of a STOW with an instance of 300 MB."""
    row = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1",
        "SOPInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.3",
        "NumberOfFrames": FRAMES,
        "Rows": 512,
        "Columns": 512,
        "BitsAllocated": 16,
        "SamplesPerPixel": 1,
    }
    syntax = uids.EXPLICIT_VR_LITTLE_ENDIAN
    yield b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    yield part10.head(row["SOPClassUID"], "1.2.3", syntax) + encode(row, syntax)
    yield b"\xe0\x7f\x10\0OW\0\0" + (SIZE * FRAMES).to_bytes(4, "little")
    for number in range(FRAMES):
        yield bytes([number & 0xFF]) * SIZE
    yield b"\r\n--b--\r\n"


MODELS = 'multipart/related; type="application/dicom+json"; boundary=b'


def apart():
    """Yield the body of a STOW with metadata and 300 MB of bulk data."""
    model = {
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2.1"]},
        "00080018": {"vr": "UI", "Value": ["1.2.4"]},
        "0020000D": {"vr": "UI", "Value": ["1.2"]},
        "0020000E": {"vr": "UI", "Value": ["1.3"]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "pixels"},
    }
    yield b"--b\r\nContent-Type: application/dicom+json\r\n\r\n" + json.dumps(model).encode()
    yield b"\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Location: pixels\r\n\r\n"
    for number in range(FRAMES):
        yield bytes([number & 0xFF]) * SIZE
    yield b"\r\n--b--\r\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_an_instance_of_300_mb_takes_little_memory(tmp_path):
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        server = Serving(process)
        assert server.ask("GET", f"{ROOT}/")[0] == 200  # what is imported late, is by now
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        instance = f"{ROOT}/studies/1.2/series/1.3/instances/1.2.3"
        for method, path, body, size, headers in (
            ("POST", f"{ROOT}/studies", large(), 1, {"Content-Type": kind}),
            ("GET", instance, None, SIZE * FRAMES, {"Accept": "application/dicom"}),
            ("GET", instance, None, SIZE * FRAMES, {"Accept": MULTIPART}),
            ("GET", f"{instance}/frames/500", None, SIZE, {"Accept": "*/*;q=0.1"}),
            ("GET", f"{instance}/frames/1,300,572", None, 3 * SIZE, {"Accept": "*/*;q=0.1"}),
            ("GET", f"{instance}/frames/500/rendered", None, 1, {"Accept": "image/png"}),
            ("GET", f"{instance}/metadata", None, 1, {}),
            ("GET", f"{instance}/bulkdata/7FE00010", None, SIZE * FRAMES, {}),
            ("GET", f"{ROOT}/studies/1.2/pixeldata", None, SIZE * FRAMES, {}),
            ("POST", f"{ROOT}/studies", apart(), 1, {"Content-Type": MODELS}),
        ):
            server.begin()
            status, found = server.ask(method, path, body, **headers)
            assert status == 200
            assert found >= size
            assert server.taken() < MOST, path
        process.stdin.close()
