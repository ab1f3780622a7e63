"""What is measured: each work as its parties do it, and what it is to be compared with."""

from dataclasses import dataclass
from functools import partial

from tests.benchmarks import exchanges, processes


@dataclass
class Party:
    """One of those who do a work.

    Parameters
    ----------
    server : str
        Whose server, as `servers.Server` names it.
    run : callable
        Called with the server and a count; returns the figure.
    aim : str
        What the ratio of our figure to its figure should be.
    share : float
        Its part of the count, where all of it would take minutes.
    name : str
        What it is called, where that is not the server's name.
    """

    server: str
    run: object
    aim: str = ""
    share: float = 1
    name: str = ""

    def __post_init__(self):
        self.name = self.name or self.server


@dataclass
class Work:
    """A row of the table; the first party is ours."""

    name: str
    unit: str
    count: int
    parties: list[Party]
    smaller_is_better: bool = False
    rounds: int = 100  # at the most
    aim: str = ""  # for our own figure


def _store(name, size, count, dcmtk, pynetdicom, limit):
    run = partial(exchanges.store, size=size)
    return Work(
        name,
        "MB/s",
        count,
        [
            Party("pacsroute", run),
            Party("storescp", run, dcmtk),
            Party("pynetdicom", run, pynetdicom, share=0.2),
            Party("raw sockets", partial(exchanges.raw_to_file, size=size), limit),
            Party("pacsroute, durable", run),
        ],
    )


WORKS = {
    "echo": Work(
        "C-ECHO, one association",
        "/s",
        6000,
        [
            Party("pacsroute", exchanges.echo),
            Party("storescp", exchanges.echo, "≥ 1.1"),
            Party("pynetdicom", exchanges.echo, "≥ 22", share=0.1),
            Party("raw sockets", exchanges.raw_ping_pong, "≥ 0.8"),
        ],
    ),
    "associate": Work(
        "associate, echo, release",
        "/s",
        1000,
        [
            Party("pacsroute", exchanges.associate),
            Party("storescp --fork", exchanges.associate, "≥ 5", share=0.3),
            Party("storescp", exchanges.associate, name="storescp, one peer at a time"),
            Party("pynetdicom", exchanges.associate, "≥ 100", share=0.03),
            Party("raw sockets", exchanges.raw_associate),
        ],
    ),
    "store40k": _store("C-STORE 40 KB with save", 40_000, 2000, "≥ 1.4", "≥ 18", ""),
    "store512k": _store("C-STORE 512 KB with save", 512_000, 500, "≥ 1.1", "≥ 10", "≥ 0.8"),
    "store200m": _store("C-STORE 200 MB with save", 200_000_000, 1, "≥ 3", "≥ 7", "≥ 0.8"),
    "store8": Work(
        "C-STORE 512 KB, 8 associations",
        "MB/s",
        1600,
        [
            Party("pacsroute", exchanges.store_parallel),
            Party("storescp --fork", exchanges.store_parallel, "≥ 1.3"),
            Party("pynetdicom", exchanges.store_parallel, "≥ 25", share=0.1),
            Party("pacsroute --workers 2", exchanges.store_parallel),
        ],
    ),
    "find": Work(
        "C-FIND, 1,000 answers of 8 attributes, from dicts",
        "answers/s",
        30,
        [
            Party("pacsroute", exchanges.find),
            Party("pynetdicom", exchanges.find, "≥ 50", share=0.05),
            Party(
                "raw sockets",
                partial(exchanges.raw_ping_pong, times=400),
                "≥ 6",
                name="raw ping-pongs",
            ),
        ],
    ),
    "findds": Work(
        "the same, from Datasets",
        "answers/s",
        3,
        [
            Party("pacsroute", exchanges.find_datasets),
            Party("pynetdicom", exchanges.find_datasets, "≥ 8", share=0.4),
        ],
    ),
    "find4": Work(
        "the same, 4 associations",
        "answers/s",
        3,
        [
            Party("pacsroute", exchanges.find_datasets_parallel),
            Party("pacsroute --workers 2", exchanges.find_datasets_parallel, "near 0.5"),
        ],
    ),
    "storescu": Work(
        "C-STORE 40 KB from storescu as people run it",
        "/s",
        500,
        [
            Party("pacsroute", exchanges.storescu),
            Party("storescp", exchanges.storescu, "≥ 50", share=0.06),
            Party(
                "pacsroute",
                partial(exchanges.storescu, no_delay=True),
                "level",
                name="pacsroute, TCP_NODELAY=1 in storescu",
            ),
        ],
    ),
    "get": Work(
        "C-GET of 200 x 512 KB",
        "MB/s",
        200,
        [
            Party("pacsroute", exchanges.get),
            Party("dcmqrscp", exchanges.get, "≥ 1.2"),
            Party("pynetdicom", exchanges.get, "≥ 12"),
        ],
    ),
    "move": Work(
        "C-MOVE of 200 x 512 KB",
        "MB/s",
        200,
        [
            Party("pacsroute", exchanges.move),
            Party("dcmqrscp", exchanges.move, "≥ 1.2"),
            Party("pynetdicom", exchanges.move, "≥ 12"),
        ],
    ),
    "start": Work(
        "from the command to listening",
        "ms",
        1,
        [
            Party("pacsroute", processes.start),
            Party("pynetdicom", processes.start, "< 0.5"),
            Party("storescp", processes.start),
        ],
        smaller_is_better=True,
    ),
    "import": Work(
        "import",
        "ms",
        1,
        [
            Party("pacsroute", partial(processes.imported, module="pacsroute")),
            Party("pynetdicom", partial(processes.imported, module="pynetdicom"), "< 0.5"),
        ],
        smaller_is_better=True,
    ),
    "memory": Work(
        "memory for an instance of 200 MB",
        "MB",
        1,
        [
            Party("pacsroute", processes.memory_of_store),
            Party("storescp", processes.memory_of_store),
            Party("pynetdicom", processes.memory_of_store),
        ],
        smaller_is_better=True,
        rounds=3,
        aim="< 8 MB",
    ),
    "idle": Work(
        "memory for an idle association",
        "KB",
        1000,
        [
            Party("pacsroute", processes.memory_of_idle),
            Party("pynetdicom", processes.memory_of_idle, share=0.1),
        ],
        smaller_is_better=True,
        rounds=3,
        aim="< 40 KB",
    ),
}
