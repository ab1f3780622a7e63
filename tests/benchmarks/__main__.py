"""``python -m tests.benchmarks``: the same work for each server, as ratios of medians."""

import argparse
import contextlib
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydicom import Dataset, FileMetaDataset, dcmwrite

from pacsroute.dataset import part10
from tests.benchmarks import client

HERE = Path(__file__).parent
EXPLICIT = client.EXPLICIT.decode()


def data_set(size, instance):
    """Return the bytes of a CT image of about a size, in explicit VR little endian."""
    ds = Dataset()
    ds.SOPClassUID = client.CT_STORAGE.decode()
    ds.SOPInstanceUID = instance.decode()
    ds.PatientName, ds.PatientID = "Doe^John", "1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.add_new("PixelData", "OW", bytes(size))
    ds.file_meta = FileMetaDataset()
    out = io.BytesIO()
    dcmwrite(out, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return out.getvalue()


def instance_uid(number):
    return b"1.2.826.0.1.3680043.1%08d" % number


class Echo:
    name, unit, count = "C-ECHO, one association", "/s", 3000

    def run(self, port, folder, count):
        association = client.Association(port, client.VERIFICATION, client.IMPLICIT)
        encoded = client.command(0x30, 1, client.VERIFICATION, data_set=False)
        message = b"".join(association.pdus(encoded))
        started = time.perf_counter()
        for _ in range(count):
            association.socket.sendall(message)
            assert association.status() == (0, False)
        seconds = time.perf_counter() - started
        association.release()
        return count / seconds


class Associate:
    name, unit, count = "associate, echo, release", "/s", 300

    def run(self, port, folder, count):
        encoded = client.command(0x30, 1, client.VERIFICATION, data_set=False)
        started = time.perf_counter()
        for _ in range(count):
            association = client.Association(port, client.VERIFICATION, client.IMPLICIT)
            association.socket.sendall(b"".join(association.pdus(encoded)))
            assert association.status() == (0, False)
            association.release()
        return count / (time.perf_counter() - started)


class Store:
    def __init__(self, name, size, count):
        self.name, self.size, self.count, self.unit = name, size, count, " MB/s"

    def run(self, port, folder, count):
        association = client.Association(port, client.CT_STORAGE)
        template = data_set(self.size, instance_uid(0))
        messages = []
        for number in range(count):
            uid = instance_uid(number)
            data = template.replace(instance_uid(0), uid) if number else template
            encoded = client.command(0x01, number % 60_000 + 1, client.CT_STORAGE, uid)
            messages.append(association.pdus(encoded, data))
        started = time.perf_counter()
        for pieces in messages:
            if len(pieces) <= 4:
                association.socket.sendall(b"".join(pieces))
            else:
                for piece in pieces:
                    association.socket.sendall(piece)
            assert association.status() == (0, False)
        seconds = time.perf_counter() - started
        association.release()
        # Each server did the whole work: every instance is there, with all of its bytes.
        files = [path for path in Path(folder).iterdir() if path.is_file()]
        assert len(files) == count, (len(files), count)
        for path in files:
            assert path.stat().st_size >= len(template), path
            path.unlink()
        return count * len(template) / seconds / 1e6


class Find:
    name, unit, count = "C-FIND, 1,000 answers of 8 attributes", " answers/s", 5

    def run(self, port, folder, count):
        association = client.Association(port, client.STUDY_FIND)
        keys = Dataset()
        keys.QueryRetrieveLevel = "STUDY"
        for keyword in (
            *("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime"),
            *("ModalitiesInStudy", "AccessionNumber", "StudyDescription"),
        ):
            setattr(keys, keyword, "")
        out = io.BytesIO()
        dcmwrite(out, keys, implicit_vr=False, little_endian=True, enforce_file_format=False)
        encoded = client.command(0x20, 1, client.STUDY_FIND)
        message = b"".join(association.pdus(encoded, out.getvalue()))
        answers = 0
        started = time.perf_counter()
        for _ in range(count):
            association.socket.sendall(message)
            while True:
                status, has_data = association.status()
                if has_data:
                    association.read()
                if status == 0:
                    break
                assert status in (0xFF00, 0xFF01), hex(status)
                answers += 1
        seconds = time.perf_counter() - started
        association.release()
        assert answers == 1000 * count
        return answers / seconds


class Get:
    name, unit, count = "C-GET of 200 instances of 512 KB", " MB/s", 200

    def prepare(self, name, port, folder, count):
        """Give the server what it is to send: dcmqrscp by C-STORE, the others as files."""
        if name == "dcmqrscp":
            association = client.Association(port, client.CT_STORAGE)
        else:
            folder.joinpath("kept").mkdir(exist_ok=True)
        for number in range(count):
            uid = instance_uid(number)
            data = data_set(512_000, uid)
            if name == "dcmqrscp":
                encoded = client.command(0x01, number + 1, client.CT_STORAGE, uid)
                for piece in association.pdus(encoded, data):
                    association.socket.sendall(piece)
                assert association.status() == (0, False)
            else:
                head = part10.head(client.CT_STORAGE.decode(), uid.decode(), EXPLICIT)
                folder.joinpath("kept", f"{uid.decode()}.dcm").write_bytes(head + data)
        if name == "dcmqrscp":
            association.release()

    def run(self, port, folder, count):
        association = client.Association(port, client.STUDY_GET, fetched=client.CT_STORAGE)
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", "1.2.3"
        out = io.BytesIO()
        dcmwrite(out, keys, implicit_vr=False, little_endian=True, enforce_file_format=False)
        encoded = client.command(0x10, 1, client.STUDY_GET)
        message = b"".join(association.pdus(encoded, out.getvalue()))
        started = time.perf_counter()
        association.socket.sendall(message)
        fetched, size, status = association.fetch()
        seconds = time.perf_counter() - started
        association.release()
        assert (fetched, status) == (count, 0), (fetched, hex(status))
        assert size >= count * 512_000
        return size / seconds / 1e6


WORKS = {
    "echo": Echo(),
    "associate": Associate(),
    "store40k": Store("C-STORE 40 KB with save", 40_000, 500),
    "store512k": Store("C-STORE 512 KB with save", 512_000, 100),
    "store200m": Store("C-STORE 200 MB with save", 200_000_000, 1),
    "find": Find(),
    "get": Get(),
}

# DCMTK's storescp is its fastest receiver, and dcmqrscp what has files to send.
NOT_BY = {"find": {"dcmtk", "dcmqrscp"}, "get": {"dcmtk"}}
ONLY_BY = {"dcmqrscp": {"get"}}

QRSCP = """
MaxPDUSize = 131072
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
BENCH {folder} RW (200, 1024mb) ANY
AETable END
"""


def start(name, port, folder):
    config = folder.with_suffix(".cfg")
    config.write_text(QRSCP.format(folder=folder))
    commands = {
        "pacsroute": [
            *(sys.executable, "-m", "pacsroute", "run", str(HERE / "pacsroute_app.py")),
            *("--port", str(port), "--log-level", "warning"),
        ],
        "pynetdicom": [sys.executable, str(HERE / "pynetdicom_app.py"), str(port)],
        "dcmqrscp": ["dcmqrscp", "-c", str(config), str(port)],
        "dcmtk": ["storescp", "-pdu", "131072", "-od", str(folder), str(port)],
    }
    return subprocess.Popen(
        commands[name],
        env={**os.environ, "TCP_NODELAY": "1", "BENCH_FOLDER": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, RuntimeError):
            client.Association(port, client.VERIFICATION, client.IMPLICIT).release()
            return
        time.sleep(0.02)
    raise RuntimeError("a server did not start")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of the work")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument(
        "--server", nargs="+", choices=["pacsroute", "pynetdicom", "dcmtk", "dcmqrscp"]
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    servers = options.server or ["pacsroute", "dcmtk", "dcmqrscp", "pynetdicom"]
    for name, tool in (("dcmtk", "storescp"), ("dcmqrscp", "dcmqrscp")):
        if name in servers and shutil.which(tool) is None:
            servers.remove(name)
    ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
    results = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ram) as top, contextlib.ExitStack() as on:
        ports, folders = {}, {}
        for name in servers:
            folders[name] = Path(top, name)
            folders[name].mkdir()
            ports[name] = free_port()
            process = start(name, ports[name], folders[name])
            on.callback(process.wait)
            on.callback(process.kill)
            wait_for(ports[name], process)
        for key in options.only:
            work = WORKS[key]
            count = max(1, work.count // 10) if options.quick else work.count
            figures = {
                name: []
                for name in servers
                if name not in NOT_BY.get(key, ()) and key in ONLY_BY.get(name, WORKS)
            }
            for name in figures:
                if hasattr(work, "prepare"):
                    work.prepare(name, ports[name], folders[name], count)
            for _ in range(1 if options.quick else options.rounds):
                for name, values in figures.items():
                    values.append(work.run(ports[name], folders[name], count))
            results[key] = figures
    report(results, servers)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def report(results, servers):
    others = [name for name in servers if name != "pacsroute"]
    print("| work |", *(f" {name} |" for name in servers), *(f" x {name} |" for name in others))
    print("|---" * (1 + len(servers) + len(others)) + "|")
    for key, figures in results.items():
        medians = {name: statistics.median(values) for name, values in figures.items()}
        cells = []
        for name in servers:
            if name not in medians:
                cells.append("–")
                continue
            spread = (max(figures[name]) - min(figures[name])) / medians[name]
            cells.append(f"{medians[name]:,.0f}{WORKS[key].unit} ±{spread / 2:.0%}")
        for name in others:
            both = name in medians and "pacsroute" in medians
            cells.append(f"{medians['pacsroute'] / medians[name]:.2f}" if both else "–")
        print(f"| {WORKS[key].name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
