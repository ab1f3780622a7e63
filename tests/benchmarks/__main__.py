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
from tests.benchmarks.servers import Server, installed
from tests.benchmarks.sink import Sink
from tests.benchmarks.works import WORKS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--without", nargs="+", default=[], metavar="SERVER")
    parser.add_argument("--scale", type=float, default=1, help="the part of the work that is done")
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG; needs matplotlib")
    options = parser.parse_args()
    ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=ram) as top,
        contextlib.closing(Sink()) as sink,
    ):
        results = measure(options, Path(top), sink)
        grown = {}
        if options.growth:
            with Server("pacsroute", Path(top, "growth"), sink) as server:
                grown = growth(server, options.scale)
    print(*report.table(WORKS, results), sep="\n")
    if grown:
        print("", *report.growth(grown), sep="\n")
    if options.json:
        machine = {"python": platform.python_version(), "processors": os.cpu_count()}
        figures = {"machine": machine, "works": results, "growth": grown}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        plot(WORKS, results, grown, options.plot)
    sys.exit(any(len(figures) < len(here(WORKS[key], options)) for key, figures in results.items()))


def here(work, options):
    """Return the parties of a work that can be measured here."""
    return [
        party
        for party in work.parties
        if installed(party.server) and party.server not in options.without
    ]


def measure(options, top, sink):
    """Return the figures of each work by party; the parties of a work take turns."""
    results = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for key in options.only:
            work = WORKS[key]
            parties = here(work, options)
            for party in parties:
                if party.server not in running:
                    server = Server(party.server, top / f"server{len(running)}", sink)
                    running[party.server] = stack.enter_context(server)
            figures = results[key] = {party.name: [] for party in parties}
            for _ in range(min(options.rounds, work.rounds)):
                for party in list(parties):
                    count = max(1, round(work.count * party.share * options.scale))
                    try:
                        figures[party.name].append(party.run(running[party.server], count))
                    except Exception:  # noqa: BLE001 - the other works are not its fault
                        print(f"failed: {work.name}, {party.name}", file=sys.stderr)
                        traceback.print_exc()
                        parties.remove(party)
                        del figures[party.name]
            print(f"measured: {work.name}", file=sys.stderr)
    return results


if __name__ == "__main__":
    main()
