"""``python -m tests.benchmarks.jobs``: the queue of jobs beside a bare loop and `pacsroute store`.

Enqueueing is compared with a loop that writes as many bytes and flushes them, forwarding to
DCMTK's storescp with the command that sends the same files on one association. The rounds
alternate, on the same disk; the tables have medians, of rates and of the ratios of each round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from click.testing import CliRunner
from pydicom import dcmread
from pydicom.data import get_testdata_file

from pacsroute import App, Instance, Peer
from pacsroute.cli import main as command
from pacsroute.jobs.opening import open_queue
from pacsroute.jobs.rows import NewJob

_BYTES = 800  # of a job with its arguments, as it is in the database
_DEAD = 1000  # jobs that wait for a destination that is away
_GOALS = {
    "enqueue, 1 thread / write and fdatasync": 0.7,
    "enqueue, 4 threads / 1 thread": 2,
    "forward 40 KB / pacsroute store -j 1": 0.7,
    "forward beside a dead lane / alone": 0.9,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.jobs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1, help="the part of the work that is done")
    parser.add_argument("--folder", help="where: a disk whose flushes count")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as top:
        for number in range(options.rounds):
            folder = Path(top, str(number))
            folder.mkdir()
            for name, rate in one_round(folder, options.scale):
                rates.setdefault(name, []).append(rate)
                print(f"{name}: {rate:.0f} /s", file=sys.stderr)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print("| | per second |", "|---|---:|", sep="\n")
    for name, rate in medians.items():
        print(f"| {name} | {rate:,.0f} |")
    print("", "| ratio | | goal |", "|---|---:|---:|", sep="\n")
    for name, goal in _GOALS.items():
        ours, theirs = (rates[one] for one in _named(name))
        found = [one / other for one, other in zip(ours, theirs, strict=True)]
        print(f"| {name} | {statistics.median(found):.2f} | ≥ {goal} |")


def _named(ratio: str) -> tuple[str, str]:
    ours, _, theirs = ratio.partition(" / ")
    if theirs == "1 thread":
        theirs = "enqueue, 1 thread"
    return ours, "forward 40 KB" if theirs == "alone" else theirs


def one_round(folder: Path, scale: float):
    count = max(8, round(400 * scale))
    yield "write and fdatasync", bare(folder / "bare", count)
    yield "enqueue, 1 thread", enqueued(folder / "one.db", count, 1)
    yield "enqueue, 4 threads", enqueued(folder / "four.db", count, 4)
    files = instances(folder / "files", max(8, round(1000 * scale)))
    with storescp(folder / "came") as port:
        yield "pacsroute store -j 1", commanded(files, port)
        yield "forward 40 KB", forwarded(folder, "alone", files, port, 0)
        dead = max(1, round(_DEAD * scale))
        yield "forward beside a dead lane", forwarded(folder, "beside", files, port, dead)


def bare(path: Path, count: int) -> float:
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(_BYTES))
            os.fdatasync(file.fileno())
    return count / (time.perf_counter() - began)


def enqueued(path: Path, count: int, threads: int) -> float:
    opened = open_queue(str(path), path.parent, "BENCH")

    def put() -> None:
        for number in range(count // threads):
            opened.queue.put([NewJob("f()", "f", {"args": [f"1.2.3.{number}"], "kwargs": {}})])

    workers = [threading.Thread(target=put) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rate = count // threads * threads / (time.perf_counter() - began)
    opened.close()
    return rate


def instances(folder: Path, count: int) -> Path:
    folder.mkdir()
    dataset = dcmread(get_testdata_file("CT_small.dcm"))
    for number in range(count):
        dataset.SOPInstanceUID = f"1.2.3.{number}"
        Instance(dataset).save(folder, durable=False)
    return folder


@contextlib.contextmanager
def storescp(folder: Path):
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = shutil.which("storescp", path=f"/usr/bin{os.pathsep}{os.environ['PATH']}")
    command = [program, "--ignore", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.02)
        try:
            yield port
        finally:
            process.kill()


def commanded(files: Path, port: int) -> float:
    """Run the command in this process, which has its modules already."""
    count = len(list(files.iterdir()))
    arguments = ["store", "-j", "1", "127.0.0.1", str(port)]
    CliRunner().invoke(command, [*arguments, str(next(files.iterdir()))])
    began = time.perf_counter()
    done = CliRunner().invoke(command, [*arguments, str(files)])
    assert done.exit_code == 0, done.output
    return count / (time.perf_counter() - began)


def forwarded(folder: Path, name: str, files: Path, port: int, dead: int) -> float:
    app = App("BENCH", jobs=str(folder / f"{name}.db"))
    app.destinations = {"PACS": Peer("127.0.0.1", port), "DEAD": Peer("127.0.0.1", 9)}
    paths = sorted(files.iterdir())
    for path in paths:
        app.forward(path, to="PACS")
    for path in (paths * (dead // len(paths) + 1))[:dead]:
        app.forward(path, to="DEAD", key=f"{path} {len(paths)}")
    count = len(paths)
    with app.serve(port=0):
        began, before = 0.0, count
        while waiting := _left(app):
            if not began and waiting < count * 0.9:  # the server and the lane have begun
                began, before = time.perf_counter(), waiting
            time.sleep(0.02)
        return before / (time.perf_counter() - began)


def _left(app: App) -> int:
    lane = next(lane for lane in app.work.lanes() if lane.name == "PACS")
    return lane.waiting + lane.running


if __name__ == "__main__":
    main()
