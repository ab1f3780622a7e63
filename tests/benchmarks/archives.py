"""``python -m tests.benchmarks.archives``: the archive beside Orthanc, both on the same disk.

Both flush what they acknowledge: Orthanc with its default settings. The rounds alternate; the table
has medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pydicom import Dataset

from tests.benchmarks import client, exchanges
from tests.benchmarks.servers import Server
from tests.benchmarks.sink import Receiver, Sink

_ROOT = Path(__file__).parents[2]
_ARCHIVE, _WORKERS, _ORTHANC = "pacsroute", "pacsroute --workers 2", "Orthanc"
_GOALS = {
    "C-STORE 40 KB, 1 association": 1.5,
    "C-STORE 40 KB, 8 associations": 2,
    "C-STORE 512 KB, 1 association": 1.5,
    "C-FIND of 1,000 studies": 5,
    "C-GET of 200 x 40 KB": 2,
    "C-MOVE of 200 x 40 KB": 2,
}


class Archive(Server):
    """An archive in a process of its own, with its folder on a disk."""

    numbers = 0  # of instances: none is sent twice

    def _command(self):
        if self.name == _ORTHANC:
            services = ("Echo", "Store", "Find", "Get", "Move")
            path = self.folder / "orthanc.json"
            path.write_text(
                json.dumps(
                    {
                        "StorageDirectory": str(self.folder / "files"),
                        "IndexDirectory": str(self.folder / "files"),
                        "HttpServerEnabled": False,
                        "DicomAet": "BENCH",
                        "DicomPort": self.port,
                        "DicomCheckCalledAet": False,
                        "DicomCheckModalityHost": False,
                        **{f"DicomAlwaysAllow{service}": True for service in services},
                        "DicomModalities": {"sink": ["SINK", "127.0.0.1", self.sink.port]},
                    }
                )
            )
            return [shutil.which("Orthanc"), str(path)]
        app = self.folder / "app.py"
        app.write_text(
            "from pacsroute import App, Archive\n"
            'app = App("BENCH")\n'
            f"app.register_blueprint(Archive({str(self.folder / 'files')!r}))\n"
        )
        options = ["--log-level", "warning", "--destination", f"SINK=127.0.0.1:{self.sink.port}"]
        command = [sys.executable, "-m", "pacsroute", "run", str(app), "--port", str(self.port)]
        return [*command, *options, *self.name.split()[1:]]


def _messages(server, association, size, count, study):
    """Return encoded requests for new instances of a study."""
    template = client.image(size, exchanges.uid(0)).replace(b"1.2.3.4", b"9.2.3.4")
    messages = []
    for number in range(count):
        name = exchanges.uid(Archive.numbers)
        Archive.numbers += 1
        data = template.replace(exchanges.uid(0), name)
        data = data.replace(b"1.2.3\0", study(number))
        encoded = client.command(client.C_STORE, number % 200 + 1, client.CT_STORAGE, name)
        messages.append([b"".join(association.pdus(encoded, data))])
    return messages


def _one_study(number):
    return b"1.2.3\0"


def store(server, size, count, associations=1):
    """Return how many instances are stored a second."""
    ready = []
    for _ in range(associations):
        association = client.Association(server.port, client.CT_STORAGE)
        ready.append(
            (association, _messages(server, association, size, count // associations, _one_study))
        )

    def send(association, messages):
        exchanges._send_all(association, messages)
        association.release()

    return count // associations * associations / exchanges._at_once(send, ready)


def fill(server, studies=1000):
    """Store an instance each of many studies, whose UIDs have the length of the others."""
    association = client.Association(server.port, client.CT_STORAGE)
    messages = _messages(server, association, 100, studies, lambda n: b"2.%03d\0" % n)
    exchanges._send_all(association, messages)
    association.release()


def find(server, count=3):
    """Return how many answers come a second."""
    association = client.Association(server.port, client.STUDY_FIND)
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime"):
        setattr(keys, keyword, "")
    encoded = client.command(client.C_FIND, 1, client.STUDY_FIND)
    message = b"".join(association.pdus(encoded, client.encode(keys)))
    answers, started = 0, time.perf_counter()
    for _ in range(count):
        association.socket.sendall(message)
        pending, status = association.answers()
        assert status == 0, hex(status)
        answers += pending
    seconds = time.perf_counter() - started
    association.release()
    assert answers >= 1000 * count
    return answers / seconds


def get(server, count=5):
    """Return how many instances of a study come a second by C-GET, several times in a row."""
    association = client.Association(server.port, client.STUDY_GET, fetched=client.CT_STORAGE)
    encoded = client.command(client.C_GET, 1, client.STUDY_GET)
    message = exchanges._study(association, encoded)
    instances, started = 0, time.perf_counter()
    for _ in range(count):
        receiver = Receiver(association.socket, association.file, False)
        association.socket.sendall(message)
        status = receiver.run()
        assert status == 0, hex(status)
        instances += receiver.count
    seconds = time.perf_counter() - started
    association.release()
    return instances / seconds


def move(server, count=5):
    """Return how many instances of a study are sent on a second by C-MOVE, as for `get`."""
    moves = [exchanges._move(server) for _ in range(count)]
    return sum(receiver.count for _, receiver in moves) / sum(seconds for seconds, _ in moves)


def measure(server, scale):
    """Return the figures of one round."""
    figures = {}
    few = max(8, int(200 * scale))
    figures["C-STORE 40 KB, 1 association"] = store(server, 40_000, few)
    figures["C-GET of 200 x 40 KB"] = get(server)
    figures["C-MOVE of 200 x 40 KB"] = move(server)
    figures["C-STORE 40 KB, 8 associations"] = store(server, 40_000, 2 * few, 8)
    figures["C-STORE 512 KB, 1 association"] = store(server, 512_000, few // 2)
    fill(server)
    figures["C-FIND of 1,000 studies"] = find(server)
    return figures


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.archives")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1, help="the part of the work that is done")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured")
    parser.add_argument("--without", nargs="*", default=[], metavar="SERVER")
    options = parser.parse_args()
    parties = [_ARCHIVE, _WORKERS, *([_ORTHANC] if shutil.which("Orthanc") else [])]
    parties = [party for party in parties if party not in options.without]
    results = {party: {} for party in parties}
    # Nothing is removed before the end: ext4 looks for an inode beyond all that were freed lately.
    with (
        contextlib.closing(Sink()) as sink,
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as top,
    ):
        for number in range(options.rounds):
            for party in parties:
                folder = Path(top, f"{number}-{party}")
                folder.mkdir()
                with Archive(party, folder, sink) as server:
                    for work, rate in measure(server, options.scale).items():
                        results[party].setdefault(work, []).append(rate)
    print(*table(results), sep="\n")


def table(results):
    """Yield the lines of a table: rates a second, and how many times Orthanc's."""
    medians = {
        party: {work: statistics.median(rates) for work, rates in works.items()}
        for party, works in results.items()
    }
    parties = list(medians)
    yield f"| a second | {' | '.join(parties)} | x Orthanc | goal |"
    yield "|---|" + "---:|" * (len(parties) + 2)
    for work, goal in _GOALS.items():
        rates = [medians[party].get(work, 0) for party in parties]
        others = medians.get(_ORTHANC, {}).get(work)
        best = max(rate for party, rate in zip(parties, rates, strict=True) if party != _ORTHANC)
        times = f"{best / others:.2f}" if others else ""
        yield f"| {work} | {' | '.join(f'{rate:,.0f}' for rate in rates)} | {times} | ≥ {goal} |"


if __name__ == "__main__":
    main()
