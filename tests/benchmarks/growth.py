"""How the cost grows with the work: flat or linear, for our server alone."""

import os
import time

from tests.benchmarks import client, exchanges

MATCHES = (10, 1_000, 100_000)
ASSOCIATIONS = (1, 10, 100, 1_000)
SIZES = (*(10**power for power in range(3, 10)), 2_000_000_000)


def growth(server, scale=1.0):
    """Return figures by name, each a dict of amounts and rates.

    Parameters
    ----------
    scale : float
        The part of the largest amounts that is done.
    """
    exchanges.find(server, 1, matches=1)  # imports what the first query needs
    free = os.statvfs(server.folder)
    room = free.f_bavail * free.f_frsize // 3
    return {
        "C-FIND, answers/s by matches": {
            count: exchanges.find(server, max(1, 2000 // count), matches=count)
            for count in MATCHES
            if count <= MATCHES[-1] * scale
        },
        "C-ECHO, /s by associations": {
            count: echoes(server, count)
            for count in ASSOCIATIONS
            if count <= ASSOCIATIONS[-1] * scale
        },
        "C-STORE, MB/s by bytes": {
            size: store(server, size) for size in SIZES if size <= min(room, SIZES[-1] * scale)
        },
    }


def echoes(server, associations, rounds=2000):
    """Return echoes a second over associations that all have one under way."""
    idle = [
        client.Association(server.port, client.VERIFICATION, client.IMPLICIT)
        for _ in range(associations)
    ]
    encoded = client.command(client.C_ECHO, 1, client.VERIFICATION, data_set=False)
    message = b"".join(idle[0].pdus(encoded))
    turns = max(1, rounds // associations)
    started = time.perf_counter()
    for _ in range(turns):
        for association in idle:
            association.socket.sendall(message)
        for association in idle:
            assert association.status() == (0, False)
    seconds = time.perf_counter() - started
    for association in idle:
        association.release()
    return turns * associations / seconds


def store(server, size):
    """Return MB/s for instances of a size, none of which is held in memory here."""
    count = max(1, min(500, 50_000_000 // size))
    association = client.Association(server.port, client.CT_STORAGE)
    room = association.maximum - 6 & ~1
    whole, rest = divmod(size, room)
    middle, end = client.pdu(1, 0, bytes(room)), client.pdu(1, 2, bytes(rest))
    begins = []
    for number, (name, empty) in enumerate(exchanges.images(0, count)):
        encoded = client.command(client.C_STORE, number % 200 + 1, client.CT_STORAGE, name)
        head = empty[:-4] + size.to_bytes(4, "little")
        begins.append(client.pdu(1, 3, encoded) + client.pdu(1, 0, head))
    started = time.perf_counter()
    for begin in begins:
        if whole:
            association.socket.sendall(begin)
            for _ in range(whole):
                association.socket.sendall(middle)
            association.socket.sendall(end)
        else:
            association.socket.sendall(begin + end)
        assert association.status() == (0, False)
    seconds = time.perf_counter() - started
    association.release()
    files = [path for path in server.folder.iterdir() if path.is_file()]
    assert len(files) == count
    for path in files:
        assert path.stat().st_size > size
        path.unlink()
    return count * size / seconds / 1e6
