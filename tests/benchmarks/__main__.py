"""``python -m tests.benchmarks``: the same work for each server, as ratios of medians."""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import traceback
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.growth import growth
from tests.benchmarks.plot import plot
from tests.benchmarks.servers import Server, installed, on_disk
from tests.benchmarks.sink import Sink
from tests.benchmarks.works import WORKS

PLOT = report.GUIDE.with_name("speed.png")


def main():
    options = _options()
    if options.render:
        _show(json.loads(options.render.read_text()), options)
        return
    ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=ram) as top,
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.disk) as disk,
        contextlib.closing(Sink()) as sink,
    ):
        results = measure(options, Path(top), Path(disk), sink)
        grown = {}
        if options.growth:
            with Server("pacsroute", Path(top, "growth"), sink) as server:
                grown = growth(server, options.scale)
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "rounds": options.rounds,
    }
    figures = {"machine": machine, "works": results, "growth": grown}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    _show(figures, options)
    # Others may fail now and then, as pynetdicom's C-MOVE does on a busy machine.
    sys.exit(any(not figures[WORKS[key].parties[0].name] for key, figures in results.items()))


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--without", nargs="+", default=[], metavar="SERVER")
    parser.add_argument("--scale", type=float, default=1, help="the part of the work that is done")
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--disk", type=Path, default=Path(), help="a folder for what is flushed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing, show these")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG; needs matplotlib")
    parser.add_argument(
        "--publish", action="store_true", help="write tables and plot to the README and the guide"
    )
    return parser.parse_args()


def _show(figures, options):
    print(*report.whole(WORKS, figures), sep="\n")
    if options.publish:
        report.publish(WORKS, figures)
    if path := options.plot or (PLOT if options.publish else None):
        plot(WORKS, figures["works"], figures["growth"], path)


def here(work, options):
    """Return the parties of a work that can be measured here."""
    return [
        party
        for party in work.parties
        if installed(party.server) and party.server not in options.without
    ]


def measure(options, top, disk, sink):
    """Return the figures of each work by party; the parties of a work take turns."""
    results = {}
    with contextlib.ExitStack() as stack:
        running = {}

        def server_of(name):
            if name not in running:
                folder = (disk if on_disk(name) else top) / f"server{len(running)}"
                running[name] = stack.enter_context(Server(name, folder, sink))
            return running[name]

        for key in options.only:
            work = WORKS[key]
            parties = here(work, options)
            servers = {party.name: best(party, work, options, server_of) for party in parties}
            figures = results[key] = {party.name: [] for party in parties}
            for _ in range(min(options.rounds, work.rounds)):
                for party in parties:
                    count = _count(work, party, options)
                    figures[party.name] += tried(party, servers[party.name], count)
            print(f"measured: {work.name}", file=sys.stderr)
    return results


def _count(work, party, options):
    return max(1, round(work.count * party.share * options.scale))


def best(party, work, options, server_of):
    """Return the server of a party; of several, the one that does best once."""
    servers = [server_of(name) for name in (party.server, *party.others)]
    if len(servers) == 1 or options.scale < 0.1:
        return servers[0]
    count = _count(work, party, options)
    return max(servers, key=lambda server: tried(party, server, count) or [0])


def tried(party, server, count):
    """Return a list with the figure of one round; an empty one if it has failed."""
    try:
        return [party.run(server, count)]
    except Exception:  # noqa: BLE001 - the other works are not its fault
        print(f"failed: {party.name}", file=sys.stderr)
        traceback.print_exc()
        return []


if __name__ == "__main__":
    main()
