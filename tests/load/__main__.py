"""How the archive example holds up: many at once, and for long, with clients that die.

    python -m tests.load --seconds 120

It starts ``examples/archive.py`` in a process of its own, and prints a table of

- idle: as many associations as ``--idle`` says, that do nothing, and what they cost; beside
  them, others are served;
- at once: ``--at-once`` associations that store at the same time;
- soak: for ``--seconds``, clients that echo, store, find, get and move, others that are killed
  in the middle of what they do, and hostile ones: bombs, code streams that hang a decoder,
  requests sent ahead, wildcards, PDUs in which nothing is. A good peer echoes meanwhile.

Each instance that was acknowledged has to be on the disk as it was sent, and memory, threads
and descriptors where they were. The exit code is 1 if anything is not as it has to be. All of
it is on this machine's loopback, with a bound.
"""

import argparse
import contextlib
import hashlib
import itertools
import os
import random
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pacsroute
from pacsroute import App, Instance
from tests.benchmarks import client as raw
from tests.load import hostile

ROOT = Path(__file__).parents[2]
CT = raw.CT_STORAGE.decode()
SIZES = (2_000, 40_000, 400_000)  # of the pixels, in bytes
WORKERS, KILLERS, HOSTILE = 6, 2, 2
UIDS = 40  # of each worker: it stores them over and over, so that the disk has a bound
MIB = 1_048_576
KEPT = 32  # descriptors of the connections to its index that the archive keeps


def element(group, number, vr, value):
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def data_set(uid, size, chance):
    """Return the bytes of an instance; no two of them are the same."""
    of, number = uid.rsplit(".", 1)
    return b"".join(
        (
            element(8, 0x16, "UI", raw.CT_STORAGE),
            element(8, 0x18, "UI", uid.encode()),
            element(0x10, 0x20, "LO", b"LOAD"),
            element(0x20, 0x0D, "UI", of.encode()),
            element(0x20, 0x0E, "UI", f"{of}.1".encode()),
            element(0x20, 0x13, "IS", number.encode()),
            struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, size),
            chance.randbytes(min(size, 1000)).ljust(size, b"\1"),
        )
    )


class Server:
    """The archive in a process of its own, and what it has and holds."""

    def __init__(self, folder, most, workstation):
        self.folder = folder
        options = {
            "port": 0,
            "max-associations": most,
            "max-associations-per-host": most,
            "max-associations-per-ae": most,
            "destination": f"WS=127.0.0.1:{workstation}",
            "log-level": "error",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "pacsroute", "run", str(ROOT / "examples" / "archive.py")]
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**os.environ, "ARCHIVE": str(folder)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stdout:
            if line.startswith("listening"):
                self.port = int(line.split(",")[0].rpartition(":")[2])
                return
        raise RuntimeError("the server does not start")

    def has(self):
        """Return its memory in bytes, its threads and its descriptors."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        descriptors = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"]), descriptors

    def settled(self, threads, descriptors, seconds=30):
        """Wait until no association is left; return what it has then."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.has()
            is_over = found[1] <= threads and found[2] <= descriptors
            if is_over or time.monotonic() > deadline:
                return found
            threading.Event().wait(0.05)

    def saved(self, uid):
        with Instance(self.folder / f"{uid}.dcm").open() as file:
            return hashlib.sha256(file.read()).digest()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


class Report:
    """The table, and what is not as it has to be."""

    def __init__(self):
        self.wrong = []
        print("| what | result |\n|---|---|")

    def line(self, what, result):
        print(f"| {what} | {result} |", flush=True)

    def check(self, right, what):
        if not right:
            self.wrong.append(what)


def megabytes(count):
    return f"{count / MIB:,.0f} MiB"


def store(association, message_id, uid, data):
    """Store over a raw association; return the status."""
    encoded = raw.command(0x01, message_id, raw.CT_STORAGE, uid.encode())
    association.socket.sendall(b"".join(association.pdus(encoded, data)))
    return association.status()[0]


def idle(server, count, report):
    """Hold idle associations, and have others served beside them."""
    chance = random.Random(1)
    with raw_association(server, raw.VERIFICATION, raw.IMPLICIT):
        memory, threads, descriptors = server.has()
    started = time.monotonic()
    held = [raw.Association(server.port, raw.VERIFICATION, raw.IMPLICIT) for _ in range(count)]
    took = time.monotonic() - started
    more, threads_then, descriptors_then = server.has()
    report.line(
        f"{count:,} idle associations",
        f"{(more - memory) / count / 1024:.0f} KiB of memory each, {threads_then} threads, "
        f"{descriptors_then} descriptors; made in {took:.1f} s",
    )
    report.check(descriptors_then >= count, "not all idle associations are held")
    times = []
    for number in range(50):
        uid = f"1.2.826.1.{number}"
        begun = time.perf_counter()
        with raw_association(server, raw.CT_STORAGE) as association:
            status = store(association, 1, uid, data_set(uid, SIZES[1], chance))
        times.append(time.perf_counter() - begun)
        report.check(status == 0, f"beside the idle ones a C-STORE is answered {status:04X}")
    report.line(
        "beside them: associate, store 40 KB, release",
        f"{statistics.median(times) * 1000:.1f} ms in the median, {max(times) * 1000:.0f} at most",
    )
    for association in held:
        association.release()
    after, threads_after, descriptors_after = server.settled(threads + 8, descriptors + KEPT)
    report.line(
        "after their release",
        f"{megabytes(after)} ({megabytes(memory)} before), {threads_after} threads, "
        f"{descriptors_after} descriptors",
    )
    report.check(threads_after <= threads + 8, f"{threads_after} threads are left")
    report.check(
        descriptors_after <= descriptors + KEPT, f"{descriptors_after} descriptors are left"
    )


@contextlib.contextmanager
def raw_association(server, abstract, syntax=raw.EXPLICIT):
    association = raw.Association(server.port, abstract, syntax)
    try:
        yield association
        association.release()
    finally:
        association.close()


def at_once(server, count, each, report):
    """Have many associations store at the same time; compare what is on the disk."""
    acknowledged, refused = {}, Counter()
    together = threading.Barrier(count)

    def work(number):
        chance = random.Random(number)
        with raw_association(server, raw.CT_STORAGE) as association:
            together.wait(60)
            for i in range(each):
                uid = f"1.2.827.{number}.{i}"
                data = data_set(uid, SIZES[i % 3], chance)
                status = store(association, i + 1, uid, data)
                if status == 0:
                    acknowledged[uid] = len(data), hashlib.sha256(data).digest()
                else:
                    refused[f"{status:04X}"] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    took = time.monotonic() - started
    whole = sum(server.saved(uid) == digest for uid, (_, digest) in acknowledged.items())
    size = sum(length for length, _ in acknowledged.values())
    report.line(
        f"{count} associations store {each} instances each, at once",
        f"{whole:,} of {count * each:,} whole; {len(acknowledged) / took:,.0f} a second, "
        f"{size / took / 1e6:.0f} MB/s, synced to the disk",
    )
    report.check(whole == count * each, f"{whole} instances are whole, {dict(refused)}")


class Soak:
    """Clients that do what they like, until the time is over."""

    def __init__(self, server, seconds):
        self.server = server
        self.deadline = time.monotonic() + seconds
        self.done = Counter()
        self.failed = Counter()
        # What may be on the disk under a UID: the last acknowledged, and what came later.
        self.allowed = {}
        self.acknowledged = set()
        self.echoes = []  # seconds

    def going(self):
        return time.monotonic() < self.deadline

    def work(self, number):
        chance = random.Random(number)
        kinds = ("echo", "store", "store", "store", "find", "get", "move")
        while self.going():
            what = "associate"
            try:
                with pacsroute.connect("127.0.0.1", self.server.port, called_ae="ARCHIVE") as peer:
                    for _ in range(chance.randrange(1, 20)):
                        what = chance.choice(kinds)
                        getattr(self, what)(peer, number, chance)
                        self.done[what] += 1
            except Exception as error:  # noqa: BLE001 - counted, and shown
                self.failed[f"{what}: {type(error).__name__}: {error}"] += 1

    def echo(self, peer, number, chance):
        peer.echo()

    def store(self, peer, number, chance):
        uid, data = self.another(number, chance)
        peer.store(Instance(data, **hints(uid)))
        self.taken(uid, data)

    def find(self, peer, number, chance):
        keys = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": f"1.2.828.{number}"}
        found = {row.SOPInstanceUID for row in peer.find(keys | {"SOPInstanceUID": ""})}
        mine = {uid for uid in self.acknowledged.copy() if uid.startswith(f"1.2.828.{number}.")}
        if not mine <= found:
            raise LookupError(f"{len(mine - found)} instances are not found")

    def get(self, peer, number, chance):
        uid = f"1.2.828.{number}.{chance.randrange(UIDS)}"
        for instance in peer.get(image_keys(uid), storage=[CT]):
            with instance.open() as file:
                if hashlib.sha256(file.read()).digest() not in self.allowed[uid]:
                    raise LookupError("another instance was sent")

    def move(self, peer, number, chance):
        for _ in peer.move(image_keys(f"1.2.828.{number}.{chance.randrange(UIDS)}"), "WS"):
            pass

    def another(self, number, chance):
        uid = f"1.2.828.{number}.{chance.randrange(UIDS)}"
        content = random.Random(uid)  # the same each time: an archive refuses another version
        data = data_set(uid, content.choice(SIZES), content)
        self.allowed.setdefault(uid, set()).add(hashlib.sha256(data).digest())
        return uid, data

    def taken(self, uid, data):
        self.allowed[uid] = {hashlib.sha256(data).digest()}
        self.acknowledged.add(uid)

    def kill(self, number):
        """Begin to store, and die in the middle, again and again."""
        chance = random.Random(number)
        while self.going():
            with contextlib.suppress(OSError, RuntimeError, struct.error, ValueError):
                association = raw.Association(self.server.port, raw.CT_STORAGE)
                if chance.random() < 0.2:
                    store(association, 1, *self.sent_by_the_dead(number, chance))
                uid, data = self.sent_by_the_dead(number, chance)
                encoded = raw.command(0x01, 2, raw.CT_STORAGE, uid.encode())
                message = b"".join(association.pdus(encoded, data))
                association.socket.sendall(message[: chance.randrange(1, len(message) + 1)])
                linger = struct.pack("ii", 1, 0)
                if chance.random() < 0.7:  # an RST, as of a process that is killed
                    association.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                association.close()
                self.done["kill"] += 1
            threading.Event().wait(0.02)

    def attack(self, number):
        """Attack the server, in one way after the other."""
        attacks = itertools.cycle(hostile.ATTACKS[number:] + hostile.ATTACKS[:number])
        while self.going():
            with contextlib.suppress(OSError, RuntimeError, struct.error, ValueError):
                next(attacks)(self.server.port)
            self.done["attack"] += 1

    def echo_meanwhile(self):
        """Note how long a good peer waits for an echo."""
        while self.going():
            try:
                self.echoes.append(hostile.seconds_of_an_echo(self.server.port))
            except Exception as error:  # noqa: BLE001 - counted, and shown
                self.failed[f"echo meanwhile: {type(error).__name__}: {error}"] += 1
            threading.Event().wait(0.05)

    def sent_by_the_dead(self, number, chance):
        uid = f"1.2.829.{number}.{chance.randrange(UIDS)}"
        return uid, data_set(uid, chance.choice(SIZES), chance)


def hints(uid):
    return {"sop_class": CT, "sop_instance": uid, "transfer_syntax": raw.EXPLICIT.decode()}


def image_keys(uid):
    of = uid.rpartition(".")[0]
    return {
        "QueryRetrieveLevel": "IMAGE",
        "StudyInstanceUID": of,
        "SeriesInstanceUID": f"{of}.1",
        "SOPInstanceUID": uid,
    }


def soak(server, seconds, report):
    """Mixed work for a time; memory has to be flat, and what was acknowledged there."""
    _, threads, descriptors = server.has()
    run = Soak(server, seconds)
    workers = [threading.Thread(target=run.work, args=(number,)) for number in range(WORKERS)]
    workers += [threading.Thread(target=run.kill, args=(number,)) for number in range(KILLERS)]
    workers += [threading.Thread(target=run.attack, args=(number,)) for number in range(HOSTILE)]
    workers.append(threading.Thread(target=run.echo_meanwhile))
    for worker in workers:
        worker.start()
    memory = []
    while run.going():
        memory.append(server.has()[0])
        threading.Event().wait(max(0.05, seconds / 200))
    for worker in workers:
        worker.join(60)
    quarters = [memory[i * len(memory) // 4 : (i + 1) * len(memory) // 4] for i in range(4)]
    medians = [statistics.median(quarter or memory) for quarter in quarters]
    work = ", ".join(f"{count:,} {what}" for what, count in sorted(run.done.items()))
    report.line(f"soak of {seconds:g} s", work)
    report.line(
        "memory in each quarter, and at most",
        f"{', '.join(map(megabytes, medians))}, {megabytes(max(memory))}",
    )
    report.check(max(memory) < 1024 * MIB, f"memory reaches {megabytes(max(memory))}")
    slowest = max(run.echoes, default=0.0)
    report.line(
        "an echo meanwhile: associate, echo, release",
        f"{statistics.median(run.echoes or [0.0]) * 1000:.1f} ms in the median, "
        f"{slowest * 1000:.0f} at most",
    )
    report.check(bool(run.echoes) and slowest < 10, f"an echo took {slowest:.1f} s")
    report.check(
        medians[3] <= medians[1] * 1.1 + 4 * MIB or seconds < 30, f"memory grows: {medians}"
    )
    right = sum(server.saved(uid) in run.allowed[uid] for uid in run.acknowledged)
    report.line("acknowledged, on the disk and readable", f"{right} of {len(run.acknowledged)}")
    report.check(right == len(run.acknowledged), "acknowledged instances are lost")
    for what, count in run.failed.items():
        report.check(False, f"{count} times {what}")
    _, threads_after, descriptors_after = server.settled(threads + 8, descriptors + KEPT)
    report.line("left behind", f"{threads_after} threads ({threads}), "
                f"{descriptors_after} descriptors ({descriptors})")  # fmt: skip
    report.check(threads_after <= threads + 8, f"{threads_after} threads are left")
    report.check(
        descriptors_after <= descriptors + KEPT, f"{descriptors_after} descriptors are left"
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="of the soak, 600 at most")
    parser.add_argument("--idle", type=int, default=2000, help="associations, 5,000 at most")
    parser.add_argument("--at-once", type=int, default=200, help="associations, 500 at most")
    parser.add_argument("--each", type=int, default=6, help="instances of each, 50 at most")
    options = parser.parse_args()
    needed, (soft, hard) = options.idle + 200, resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, needed), hard), hard))
    there, report = App("WS"), Report()
    there.store(lambda request: None)
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        with there.serve(port=0, grace=1) as workstation:
            server = Server(Path(folder, "archive"), 6000, workstation.port)
            try:
                idle(server, min(options.idle, 5000), report)
                at_once(server, min(options.at_once, 500), min(options.each, 50), report)
                soak(server, min(options.seconds, 600), report)
            finally:
                code = server.stop()
        report.check(code == 0, f"the server ended with {code}")
        left = list(Path(folder).rglob(".pacsroute-*"))
        report.check(not left, f"partial files are left: {left}")
    for what in report.wrong:
        print(f"wrong: {what}", file=sys.stderr)
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
