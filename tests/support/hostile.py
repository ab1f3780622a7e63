"""Attacks on a server in a process of its own: what it takes, and how long others wait."""

import threading
import time
from pathlib import Path

from support.names import WAIT
from support.raw_peer import RawPeer


def resident(server, name="VmHWM"):
    """Return the resident memory of a server at its highest, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024
    )


def slowest_echo(server, threads):
    """Return the seconds of the slowest echo of a good peer while threads are under way."""
    slowest = 0.0
    while True:
        ending = not any(thread.is_alive() for thread in threads)
        began = time.monotonic()
        with RawPeer(server.port) as peer:
            assert peer.echo() == 0
            peer.release()
        slowest = max(slowest, time.monotonic() - began)
        if ending:
            return slowest


def hostile(server, attack, peers):
    """Attack a server over some associations; return its memory beyond before, and slowest echo."""
    before, failed = resident(server), []

    def run():
        try:
            attack(server.port)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(peers)]
    for thread in threads:
        thread.start()
    slowest = slowest_echo(server, threads)
    for thread in threads:
        thread.join(WAIT)
    assert not failed
    return resident(server) - before, slowest
