"""``python -m tests.benchmarks.dicomweb``: DICOMweb beside Orthanc's, and C-STORE beside HTTP.

The rounds alternate; the tables have medians. Searches ask both servers for the same attributes.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from pacsroute.instances import part10
from tests.benchmarks import client, exchanges
from tests.benchmarks.http_load import accept_of, load
from tests.benchmarks.servers import Server, _free_port, environment, installed

_OURS, _WORKERS, _ORTHANC = "pacsroute", "pacsroute --workers 2", "Orthanc"
_ROOT = "/dicom-web"
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_BOUNDARY = b"6c1fbb6a2b8f4a0c9d5e7f3a1b2c4d6e"  # as long as those of clients
_FRAME = 512 * 512 * 2
_STUDY, _SERIES, _INSTANCE = "123"  # the digit with which their UIDs begin
_ATTRIBUTES = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "PatientName"),
    *("PatientID", "PatientSex", "PatientBirthDate", "StudyInstanceUID", "StudyID"),
    *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
)


class WebServer(Server):
    """An archive with DICOMweb, in a process of its own; Orthanc, or ours."""

    def _command(self):
        self.web_port = _free_port()
        files = str(self.folder / "files")
        if self.name == _ORTHANC:
            path = self.folder / "orthanc.json"
            path.write_text(
                json.dumps(
                    {
                        "StorageDirectory": files,
                        "IndexDirectory": files,
                        "HttpPort": self.web_port,
                        "AuthenticationEnabled": False,
                        "DicomAet": "BENCH",
                        "DicomPort": self.port,
                        "DicomCheckCalledAet": False,
                        "DicomAlwaysAllowStore": True,
                        "Plugins": [str(_PLUGIN)],
                        "DicomWeb": {"Enable": True, "Root": f"{_ROOT}/"},
                    }
                )
            )
            return [shutil.which("Orthanc"), str(path)]
        app = self.folder / "app.py"
        app.write_text(
            "from pacsroute import App, Archive\n"
            'app = App("BENCH")\n'
            f"app.register_blueprint(Archive({files!r}, min_free=0))\n"
        )
        options = ["--log-level", "warning", "--web-port", str(self.web_port)]
        command = [sys.executable, "-m", "pacsroute", "run", str(app), "--port", str(self.port)]
        return [*command, *options, *self.name.split()[1:]]

    def ask(self, method, path, body=None, **headers):
        """Return the body of a response."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=client.TIMEOUT)
        ) as connection:
            path = f"{_ROOT}/{path}"
            connection.request(method, path, body, {"Accept": accept_of(path)} | headers)
            response = connection.getresponse()
            data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {data[:300]}")
        return data

    def memory(self, name="VmHWM"):
        """Return megabytes: the most that it has had since `forget_memory`."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition(f"{name}:")[2].split()[0]) / 1000

    def forget_memory(self):
        """Begin the highest mark of memory anew; return what it has."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory()


# ------------------------------------------------------------------ what is stored


def _uid(kind, number):
    return f"2.25.{kind}{number:010d}"


def _template(frames=1, size=_FRAME):
    """Return the bytes of a CT image, but for its pixels, with placeholders for its UIDs."""
    dataset = Dataset(dcmread(get_testdata_file("CT_small.dcm")))  # without its file's head
    del dataset[0xFFFC_FFFC]
    dataset.Rows = dataset.Columns = int((size // 2) ** 0.5)
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.StudyInstanceUID = _uid(_STUDY, 0)
    dataset.SeriesInstanceUID = _uid(_SERIES, 0)
    dataset.SOPInstanceUID = _uid(_INSTANCE, 0)
    dataset.PatientID = "PATIENT000"
    del dataset.PixelData
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, frames * size)
    return client.encode(dataset) + pixels


def _filled(template, study, series, instance):
    for kind, number in ((_STUDY, study), (_SERIES, series), (_INSTANCE, instance)):
        template = template.replace(_uid(kind, 0).encode(), _uid(kind, number).encode())
    return template.replace(b"PATIENT000", b"PATIENT%03d" % (study % 1000))


def _path(study, series=None, instance=None):
    path = f"studies/{_uid(_STUDY, study)}"
    path += "" if series is None else f"/series/{_uid(_SERIES, series)}"
    return path + ("" if instance is None else f"/instances/{_uid(_INSTANCE, instance)}")


def _store(server, images, size):
    """Store images by DIMSE; an image is the bytes before its pixels, and its UID."""
    association = client.Association(server.port, client.CT_STORAGE)
    pixels = bytes(size)
    for number, (data, uid) in enumerate(images):
        encoded = client.command(client.C_STORE, number % 200 + 1, client.CT_STORAGE, uid.encode())
        association.send(association.pdus(encoded, data + pixels))
        status, _ = association.status()
        assert status == 0, hex(status)
    association.release()


def fill(server, studies, instances):
    """Store studies of one small instance, and one study of many CT images."""
    small, usual = _template(size=512), _template()
    numbers = itertools.count(1)
    _store(
        server,
        ((_filled(small, n, n, n), _uid(_INSTANCE, n)) for n in itertools.islice(numbers, studies)),
        512,
    )
    _store(
        server,
        (
            (_filled(usual, 9_000_000, 9_000_000, 9_000_000 + n), _uid(_INSTANCE, 9_000_000 + n))
            for n in range(instances)
        ),
        _FRAME,
    )


def _large(frames, number):
    """Yield the body of a STOW with one instance of many frames."""
    uid = _uid(_INSTANCE, number)
    yield b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % _BOUNDARY
    head = part10.head(client.CT_STORAGE.decode(), uid, client.EXPLICIT.decode())
    yield head + _filled(_template(frames), number, number, number)
    for frame in range(frames):
        yield bytes([frame & 0xFF]) * _FRAME
    yield b"\r\n--%s--\r\n" % _BOUNDARY


# ------------------------------------------------------------------ works


def _timed(ask):
    started = time.perf_counter()
    found = ask()
    return time.perf_counter() - started, found


def search(server, studies):
    """Return the seconds of a search for all studies, in pages that both servers give."""
    fields = ",".join(_ATTRIBUTES)
    ask = partial(server.ask, "GET", f"studies?limit={studies}&includefield={fields}")
    seconds, found = _timed(ask)
    rows = json.loads(found)
    assert len(rows) == studies, len(rows)
    if server.unchecked("search"):
        print(f"{server.name}: {len(rows[0])} attributes of a study", file=sys.stderr)
    return seconds


def metadata(server, instances):
    """Return the seconds of the metadata of a series."""
    seconds, found = _timed(partial(server.ask, "GET", f"{_path(9_000_000, 9_000_000)}/metadata"))
    rows = json.loads(found)
    assert len(rows) == instances
    if server.unchecked("metadata"):
        print(f"{server.name}: {len(rows[0])} attributes of an instance", file=sys.stderr)
    return seconds


def _paths(instances, behind=""):
    return [
        f"{_ROOT}/{_path(9_000_000, 9_000_000, 9_000_000 + n)}{behind}" for n in range(instances)
    ]


def retrieve(server, instances, clients, count, behind=""):
    """Return how many instances, or frames, come a second."""
    rate, size = load(server.web_port, _paths(instances, behind), clients, count=count)
    assert size > _FRAME, size
    return rate


def store_large(server, frames, number):
    """Return the seconds of a STOW of one large instance, and its megabytes of memory."""
    before = server.forget_memory()
    body = _large(frames, number)
    headers = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary='
        + _BOUNDARY.decode(),
        "Content-Length": str(sum(map(len, _large(frames, number)))),
        "Accept": "application/dicom+json",
    }
    seconds, _ = _timed(partial(server.ask, "POST", "studies", body, **headers))
    return seconds, server.memory() - before


def large_frame(server, frames, number):
    """Return the seconds of one of the last frames, and the megabytes of memory."""
    before = server.forget_memory()
    frame = max(1, frames - 72)
    path = f"{_path(number, number, number)}/frames/{frame}"
    seconds, found = _timed(partial(server.ask, "GET", path))
    assert bytes([frame - 1 & 0xFF]) * 1000 in found
    return seconds, server.memory() - before


def measure(scale, server, number):
    """Return the figures of one round by work."""
    studies, instances, frames = (max(8, int(n * scale)) for n in (1000, 500, 572))
    if server.unchecked("filled"):
        fill(server, studies, instances)
    found = {}
    found["QIDO of 1,000 studies, s"] = search(server, studies)
    found["metadata of 500 instances, s"] = metadata(server, instances)
    for clients in (1, 8):
        name = f"instance of 512 KB, {clients} client{'s' * (clients > 1)}, a second"
        found[name] = retrieve(server, instances, clients, instances * 2)
    found["frame, 8 clients, a second"] = retrieve(server, instances, 8, instances * 2, "/frames/1")
    if server.name == _WORKERS:
        return found  # what one client asks for, one of its processes answers
    stow, stow_memory = store_large(server, frames, 9_900_000 + number)
    found["STOW of 300 MB, s"], found["its memory, MB"] = stow, max(stow_memory, 0.1)
    frame, _ = large_frame(server, frames, 9_900_000 + number)
    found["frame 500 of 572, s"] = frame
    return found


_GOALS = {
    "QIDO of 1,000 studies, s": "≥ 15",
    "metadata of 500 instances, s": "≥ 2",
    "instance of 512 KB, 1 client, a second": "≥ 2",
    "instance of 512 KB, 8 clients, a second": "≥ 2",
    "frame, 8 clients, a second": "≥ 2",
    "STOW of 300 MB, s": "≥ 4",
    "its memory, MB": "< 20 MB",
    "frame 500 of 572, s": "≥ 50",
}


# ------------------------------------------------------------------ C-STORE beside HTTP


@contextlib.contextmanager
def beside(server, paths, seconds, clients=8):
    """Let HTTP clients ask without a pause; yield a list that has their rate at the end."""
    command = [sys.executable, "-m", "tests.benchmarks.http_load", str(server.web_port)]
    rate = []
    with subprocess.Popen(
        [*command, str(clients), str(seconds), *paths],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        process.stdout.readline()  # the first response is here
        yield rate
        rate.append(float(process.stdout.readline()))


def _stores(server, seconds, numbers, size=40_000):
    """Return how many instances are stored a second, over one association."""
    association = client.Association(server.port, client.CT_STORAGE)
    template, pixels = _template(size=size), bytes(size)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        number = next(numbers)
        data = _filled(template, 9_500_000, 9_500_000, number)
        uid = _uid(_INSTANCE, number).encode()
        encoded = client.command(client.C_STORE, count % 200 + 1, client.CT_STORAGE, uid)
        association.send(association.pdus(encoded, data + pixels))
        status, _ = association.status()
        assert status == 0, hex(status)
        count += 1
    association.release()
    return count / seconds


def _echoes(server, seconds):
    """Return the milliseconds of echoes, one of which comes each hundredth of a second."""
    association = client.Association(server.port, client.VERIFICATION, client.IMPLICIT)
    message = exchanges._echo(association)
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        time.sleep(0.01)
        started = time.perf_counter()
        association.socket.sendall(message)
        assert association.status() == (0, False)
        found.append(1000 * (time.perf_counter() - started))
    association.release()
    return sorted(found)


def share(scale, only, numbers, server, _):
    """Return the figures of one round: C-STORE and C-ECHO, alone and beside HTTP clients."""
    seconds, (studies, instances) = (
        max(0.3, 2 * scale),
        (max(8, int(n * scale)) for n in (1000, 500)),
    )
    if server.unchecked("filled"):
        fill(server, studies, instances)
    found = {"C-STORE 40 KB alone": _stores(server, seconds, numbers)}
    for name, paths in asked(instances).items():
        if only and name not in only:
            continue
        found[f"{name}, alone"] = load(server.web_port, paths, 8, seconds=seconds)[0]
        with beside(server, paths, seconds + 0.5) as rate:
            found[f"C-STORE beside {name}"] = _stores(server, seconds, numbers)
        found[f"{name}, beside"] = rate[0]
        with beside(server, paths, seconds + 0.5):
            echoes = _echoes(server, seconds)
        found[f"echo beside {name}, median ms"] = statistics.median(echoes)
        found[f"echo beside {name}, 99th of 100 ms"] = echoes[int(0.99 * len(echoes))]
    return found


def asked(instances):
    """Return what HTTP clients ask for beside C-STORE, by name."""
    return {
        "metadata": [f"{_ROOT}/{_path(9_000_000, 9_000_000)}/metadata"],
        "instances": _paths(instances),
        "QIDO of a study": [f"{_ROOT}/studies?StudyInstanceUID={_uid(_STUDY, 5)}"],
        "QIDO of 1,000": [f"{_ROOT}/studies?limit=1000"],
    }


# ------------------------------------------------------------------ tables


def rounds(options, parties, run):
    """Return the figures of each party by work, of all rounds; the parties alternate."""
    results = {party: {} for party in parties}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as top:
        with contextlib.ExitStack() as stack:
            servers = [
                stack.enter_context(WebServer(party, Path(top, str(number)), None))
                for number, party in enumerate(parties)
            ]
            for number in range(options.rounds):
                for server in servers:
                    for work, figure in run(server, number).items():
                        results[server.name].setdefault(work, []).append(figure)
    return results


def table(results, goals=None):
    """Yield the lines of a table of medians; with goals, how many times Orthanc's our best is."""
    medians = {
        party: {work: statistics.median(figures) for work, figures in works.items()}
        for party, works in results.items()
    }
    parties = list(medians)
    more = ["x Orthanc", "goal"] if goals else []
    yield f"| | {' | '.join([*parties, *more])} |"
    yield "|---|" + "---:|" * (len(parties) + len(more))
    for work in medians[parties[0]]:
        figures = {party: medians[party].get(work) for party in parties}
        cells = ["" if one is None else f"{one:,.4g}" for one in figures.values()]
        if goals:
            theirs = figures.pop(_ORTHANC, None)
            ours = [figure for figure in figures.values() if figure is not None]
            is_less = work.endswith((", s", "MB"))  # the less of it, the better
            times = (theirs or 0) / min(ours) if is_less else max(ours) / (theirs or 1)
            cells += [f"{times:.2f}" if theirs else "", goals.get(work, "")]
        yield f"| {work} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dicomweb")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1, help="the part of the work that is done")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--only", choices=("orthanc", "share"))
    parser.add_argument("--beside", nargs="+", metavar="WORK", help="of the HTTP clients")
    options = parser.parse_args()
    if options.only != "share":
        parties = [_OURS, *([_WORKERS] if installed(_WORKERS) else [])]
        parties += [_ORTHANC] if shutil.which("Orthanc") and _PLUGIN.exists() else []
        run = partial(measure, options.scale)
        print(*table(rounds(options, parties, run), _GOALS), "", sep="\n")
    if options.only != "orthanc":
        parties = [_OURS, *([_WORKERS] if installed(_WORKERS) else [])]
        run = partial(share, options.scale, options.beside, itertools.count(20_000_000))
        print(*table(rounds(options, parties, run)), sep="\n")


if __name__ == "__main__":
    main()
