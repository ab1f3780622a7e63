"""What a peer does with a server; each function returns its rate, and checks what was done."""

import hashlib
import os
import random
import subprocess
import threading
import time

from pydicom import Dataset

from pacsroute.instances import part10
from tests.benchmarks import client, sink
from tests.benchmarks.servers import dcmtk


def uid(number):
    """Return a SOP Instance UID; all of them have the same length."""
    return b"1.2.826.0.1.3680043.1%08d" % number


_NOISE = random.Random(0).randbytes(1 << 20)


def images(size, count, first=0, study=b"1.2.3"):
    """Return UIDs and data sets of images; no two of them have the same pixels."""
    head = client.image(0, uid(0)).replace(b"1.2.3\0", study + b"\0")
    head = head[:-4] + size.to_bytes(4, "little")
    noise = _NOISE * (size // len(_NOISE) + 2)
    for number in range(first, first + count):
        at = number * 4098 % len(_NOISE)
        yield uid(number), head.replace(uid(0), uid(number)) + noise[at : at + size]


# ------------------------------------------------------------------ C-ECHO


def echo(server, count):
    association = client.Association(server.port, client.VERIFICATION, client.IMPLICIT)
    message = _echo(association)
    started = time.perf_counter()
    for _ in range(count):
        association.socket.sendall(message)
        assert association.status() == (0, False)
    seconds = time.perf_counter() - started
    association.release()
    return count / seconds


def _echo(association):
    encoded = client.command(client.C_ECHO, 1, client.VERIFICATION, data_set=False)
    return b"".join(association.pdus(encoded))


def associate(server, count):
    started = time.perf_counter()
    for _ in range(count):
        association = client.Association(server.port, client.VERIFICATION, client.IMPLICIT)
        association.socket.sendall(_echo(association))
        assert association.status() == (0, False)
        association.release()
    return count / (time.perf_counter() - started)


def raw_ping_pong(server, count, times=1):
    message = bytes(74)
    with client.connect(server.port) as sock:
        started = time.perf_counter()
        for _ in range(count * times):
            sock.sendall(message)
            sock.recv(4096)
        return count * times / (time.perf_counter() - started)


# ------------------------------------------------------------------ C-STORE


def store(server, count, size):
    """Store instances one after the other; they are compared with what was sent by hash."""
    association = client.Association(server.port, client.CT_STORAGE)
    messages, digests, length = _stores(association, size, count, _numbers(server, count))
    started = time.perf_counter()
    _send_all(association, messages)
    seconds = time.perf_counter() - started
    association.release()
    check(server, digests, length)
    return count * length / seconds / 1e6


def _numbers(server, count):
    """Return the first of as many numbers that no instance had at this server."""
    server.sent += count
    return server.sent - count


def store_parallel(server, count, size=512_000, associations=8):
    """Store instances over several associations at once."""
    each = max(1, count // associations)
    all_of_them, digests = [], []
    for _ in range(associations):
        association = client.Association(server.port, client.CT_STORAGE)
        messages, hashes, length = _stores(association, size, each, _numbers(server, each))
        all_of_them.append((association, messages))
        digests += hashes

    def send(association, messages):
        _send_all(association, messages)
        association.release()

    seconds = _at_once(send, all_of_them)
    check(server, digests, length)
    return associations * each * length / seconds / 1e6


def _at_once(function, calls):
    """Call a function in a thread for each of the arguments; return the seconds that all took."""
    ready = threading.Barrier(len(calls) + 1)

    def run(arguments):
        ready.wait()
        function(*arguments)

    threads = [threading.Thread(target=run, args=(arguments,)) for arguments in calls]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def _stores(association, size, count, first=0):
    messages, digests = [], []
    for number, (name, data) in enumerate(images(size, count, first)):
        encoded = client.command(client.C_STORE, number % 200 + 1, client.CT_STORAGE, name)
        pieces = association.pdus(encoded, data)
        messages.append([b"".join(pieces)] if len(data) < client.LARGEST else pieces)
        digests.append(hashlib.sha256(data).hexdigest())
    return messages, digests, len(data)


def _send_all(association, messages):
    for pieces in messages:
        for piece in pieces:
            association.socket.sendall(piece)
        assert association.status() == (0, False)


def check(server, digests, length):
    """Compare the files of a server with what was sent, and remove them.

    Each server writes a head of its own; the data sets behind it are the same.
    """
    if not server.keeps_files:
        return
    found = []
    for path in server.folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                file.seek(-length, os.SEEK_END)
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
            path.unlink()
    assert sorted(found) == sorted(digests), f"{len(found)} files of {len(digests)}, or others"


def storescu(server, count, no_delay=False):
    """Store with DCMTK's tool, without what it takes to start and to associate."""
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    if no_delay:
        environment["TCP_NODELAY"] = "1"
    sent = server.folder / "sent"
    sent.mkdir(exist_ok=True)
    data = []
    for name, image in images(40_000, count + 1):
        head = part10.head(client.CT_STORAGE.decode(), name.decode(), client.EXPLICIT.decode())
        sent.joinpath(name.decode()).write_bytes(head + image)
        data.append(image)
    paths = sorted(map(str, sent.iterdir()))
    seconds = []
    for some in (paths[:1], paths):
        listed = server.folder / "listed"  # more paths than a command line should have
        listed.mkdir()
        for path in some:
            os.link(path, listed / os.path.basename(path))
        command = [dcmtk("storescu"), "+sd", "127.0.0.1", str(server.port), str(listed)]
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
        for path in listed.iterdir():
            path.unlink()
        listed.rmdir()
    for path in paths:
        os.unlink(path)
    sent.rmdir()
    check(server, [hashlib.sha256(image).hexdigest() for image in data], len(data[0]))
    return count / (seconds[1] - seconds[0])


# ------------------------------------------------------------------ C-FIND


def find(server, count, root=client.STUDY_FIND, matches=1000):
    association = client.Association(server.port, root)
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    for keyword in (
        *("PatientName", "StudyInstanceUID", "StudyDate", "StudyTime", "ModalitiesInStudy"),
        *("AccessionNumber", "StudyDescription"),
    ):
        setattr(keys, keyword, "")
    keys.PatientID = str(matches)  # the apps take it for how many answers to give
    encoded = client.command(client.C_FIND, 1, root)
    message = b"".join(association.pdus(encoded, client.encode(keys)))
    answers = 0
    started = time.perf_counter()
    for _ in range(count):
        association.socket.sendall(message)
        pending, status = association.answers()
        assert status == 0, hex(status)
        answers += pending
    seconds = time.perf_counter() - started
    association.release()
    assert answers == matches * count
    return answers / seconds


def find_datasets(server, count):
    return find(server, count, client.PATIENT_FIND)


def find_datasets_parallel(server, count, associations=4):
    """Query over several associations at once; return the answers of all of them a second."""
    rates = []
    seconds = _at_once(lambda: rates.append(find_datasets(server, count)), [()] * associations)
    assert len(rates) == associations
    return 1000 * count * associations / seconds


# ------------------------------------------------------------------ C-GET and C-MOVE

_TIMES = 3  # that the same instances are fetched in one round


_STUDIES = {512_000: b"1.2.3", 40_000: b"1.2.4"}  # by the size of their instances
_FIRSTS = {512_000: 0, 40_000: 1_000_000}  # their numbers: an instance is in one study only


def prepare(server, count, size):
    """Give a server what it is to send: dcmqrscp by C-STORE, the others as files."""
    study = _STUDIES[size]
    folder = server.kept / study.decode()
    if folder.exists():
        return
    folder.mkdir(parents=True)
    sent = images(size, count, _FIRSTS[size], study)
    if server.name == "dcmqrscp":
        association = client.Association(server.port, client.CT_STORAGE)
        for number, (name, data) in enumerate(sent):
            encoded = client.command(client.C_STORE, number % 200 + 1, client.CT_STORAGE, name)
            _send_all(association, [association.pdus(encoded, data)])
        association.release()
        return
    for name, data in sent:
        head = part10.head(client.CT_STORAGE.decode(), name.decode(), client.EXPLICIT.decode())
        folder.joinpath(f"{name.decode()}.dcm").write_bytes(head + data)


def get(server, count, size=512_000):
    """Fetch instances; a second time, untimed, they are compared by hash the first time."""
    prepare(server, count, size)
    return _fetched(server, _get, count, size)


def _fetched(server, fetch, count, size):
    study = _STUDIES[size].decode()
    if server.unchecked((fetch, study)):
        _, receiver = fetch(server, hashing=True, study=study)
        _compare(receiver, count, size)
    seconds = length = 0
    for _ in range(_TIMES):
        took, receiver = fetch(server, study=study)
        assert receiver.count == count
        seconds += took
        length += receiver.size
    return length / seconds / 1e6


def _get(server, hashing=False, study="1.2.3"):
    association = client.Association(server.port, client.STUDY_GET, fetched=client.CT_STORAGE)
    message = _study(association, client.command(client.C_GET, 1, client.STUDY_GET), study)
    receiver = sink.Receiver(association.socket, association.file, hashing)
    started = time.perf_counter()
    association.socket.sendall(message)
    status = receiver.run()
    seconds = time.perf_counter() - started
    association.release()
    assert status == 0, hex(status)
    return seconds, receiver


def _study(association, encoded, study="1.2.3"):
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study
    return b"".join(association.pdus(encoded, client.encode(keys)))


def move(server, count, size=512_000):
    """Have instances sent to a receiver that keeps nothing."""
    prepare(server, count, size)
    return _fetched(server, _move, count, size)


def _move(server, hashing=False, study="1.2.3"):
    server.sink.hashing = hashing
    association = client.Association(server.port, client.STUDY_MOVE)
    encoded = client.command(client.C_MOVE, 1, client.STUDY_MOVE, destination=b"SINK")
    message = _study(association, encoded, study)
    started = time.perf_counter()
    association.socket.sendall(message)
    _, status = association.answers()
    seconds = time.perf_counter() - started
    association.release()
    receiver = server.sink.take()  # also after a failure, for the next one not to get it
    assert status == 0, hex(status)
    return seconds, receiver


def _compare(receiver, count, size):
    sent = images(size, count, _FIRSTS[size], _STUDIES[size])
    expected = [hashlib.sha256(data).hexdigest() for _, data in sent]
    assert sorted(receiver.digests) == sorted(expected)
