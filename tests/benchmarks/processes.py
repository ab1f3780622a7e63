"""What a server costs besides time at work: its start and its memory (Linux)."""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks import client, exchanges
from tests.benchmarks.servers import environment


def start(server, count):
    """Return the milliseconds from the command to the first connection that is taken."""
    other = server.another()
    started = time.perf_counter()
    other.launch()
    try:
        other.wait_until_listening()
        return (time.perf_counter() - started) * 1000
    finally:
        other.stop()


def imported(server, count, module):
    """Return the milliseconds of an import in a new interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    for _ in range(2):  # the first compiles it
        done = subprocess.run(
            command, capture_output=True, check=True, text=True, env=environment()
        )
    return float(done.stdout) * 1000


def memory_of_store(server, count, size=200_000_000):
    """Return how far the peak is over what an idle server has that has stored before."""
    with server.another() as other:
        exchanges.store(other, 1, 512_000)
        before = _settled(other)
        Path(f"/proc/{other.process.pid}/clear_refs").write_text("5")
        exchanges.store(other, 1, size)
        return (_status(other, "VmHWM") - before) / 1000


def memory_of_idle(server, count):
    """Return what each idle association takes, beyond what its thread's stack has touched."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with server.another() as other:
        exchanges.associate(other, 1)
        before = _settled(other) - _stacks(other)
        idle = []
        for _ in range(count):
            idle.append(client.Association(other.port, client.VERIFICATION, client.IMPLICIT))
        taken = _status(other, "VmRSS") - _stacks(other) - before
        for association in idle:
            association.release()
    return taken / count


def _settled(server):
    """Return the kilobytes of a server that has done what it does after its start."""
    before, now = 0, _status(server, "VmRSS")
    while now != before:
        time.sleep(0.5)
        before, now = now, _status(server, "VmRSS")
    return now


def _status(server, name):
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1])


def _stacks(server):
    """Return the kilobytes that are touched of the stacks of all threads."""
    size, _ = resource.getrlimit(resource.RLIMIT_STACK)
    text = Path(f"/proc/{server.process.pid}/smaps").read_text()
    pairs = re.findall(r"^Size:\s+(\d+) kB\n(?:.*\n){2}Rss:\s+(\d+) kB", text, re.MULTILINE)
    return sum(int(rss) for total, rss in pairs if int(total) == size // 1024)
