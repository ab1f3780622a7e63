"""What is measured: each work as its parties do it, and what it is to be compared with."""

from dataclasses import dataclass
from functools import partial

from tests.benchmarks import exchanges, processes

OURS, INFO, WORKERS = "pacsroute", "pacsroute, log at INFO", "pacsroute --workers 2"
DURABLE, BARE_DURABLE, UNFLUSHED = "pacsroute, durable", "bare server, durable", "storescp, on disk"
BARE, DCMTK, FORKS, QRSCP = "bare server", "storescp", "storescp --fork", "dcmqrscp"
PYNETDICOM, UNLIMITED = "pynetdicom", "pynetdicom, PDUs without limit"
PYDCM, ORTHANC = "pydcm", "Orthanc"


@dataclass
class Party:
    """One of those who do a work.

    Parameters
    ----------
    server : str
        Whose server, as `servers.Server` names it.
    run : callable
        Called with the server and a count; returns the figure.
    aim : float, optional
        What the ratio of our figure to its figure should be at least, or at most where smaller is
        better.
    share : float
        Its part of the count, where all of it would take minutes.
    name : str
        What it is called, where that is not the server's name.
    others : tuple of str
        Servers that a short trial compares it with; the best does the work.
    """

    server: str
    run: object
    aim: float | None = None
    share: float = 1
    name: str = ""
    others: tuple[str, ...] = ()

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
    aim: float | None = None  # for our own figure


def _pynetdicom(run, aim=None, share=0.1):
    return Party(PYNETDICOM, run, aim, share, others=(UNLIMITED,))


def _store(name, size, count, dcmtk, bare, pynetdicom):
    run = partial(exchanges.store, size=size)
    parties = [
        Party(OURS, run),
        Party(DCMTK, run, dcmtk),
        Party(BARE, run, bare),
        _pynetdicom(run, pynetdicom, share=0.2),
        Party(PYDCM, run, share=0.5),
    ]
    if size < 1_000_000:
        parties.append(Party(ORTHANC, run, share=0.1))
    return Work(name, "MB/s", count, parties)


def _durable(name, size, count, associations=1):
    run = partial(exchanges.store_parallel, size=size, associations=associations)
    parties = [
        Party(DURABLE, run),
        Party(BARE_DURABLE, run, 0.9),
        Party(UNFLUSHED, run, name="storescp --fork, which never flushes"),
    ]
    if associations > 1:
        alone = partial(exchanges.store_parallel, size=size, associations=1)
        parties.append(
            Party(BARE_DURABLE, alone, 3, 1 / associations, name="bare server, 1 association")
        )
    return Work(name, "MB/s", count, parties)


def _retrieve(name, run, count, dcmtk):
    parties = [
        Party(OURS, run),
        Party(QRSCP, run, dcmtk),
        Party(BARE, run, 0.9),
    ]
    if count < 1000:
        parties.append(_pynetdicom(run, share=1))
    return Work(name, "MB/s", count, parties)


_GET_SMALL = partial(exchanges.get, size=40_000)
_MOVE_SMALL = partial(exchanges.move, size=40_000)

WORKS = {
    "echo": Work(
        "C-ECHO",
        "/s",
        6000,
        [
            Party(OURS, exchanges.echo),
            Party(DCMTK, exchanges.echo, 1.3),
            Party(BARE, exchanges.echo, 0.85),
            Party(PYNETDICOM, exchanges.echo, 22, share=0.1),
            Party(PYDCM, exchanges.echo),
            Party(ORTHANC, exchanges.echo, share=0.5),
        ],
    ),
    "echoinfo": Work(
        "C-ECHO, a log line each",
        "/s",
        6000,
        [
            Party(INFO, exchanges.echo),
            Party(DCMTK, exchanges.echo, 1.2),
            Party(BARE, exchanges.echo),
        ],
    ),
    "associate": Work(
        "associate, echo, release",
        "/s",
        1000,
        [
            Party(OURS, exchanges.associate),
            Party(FORKS, exchanges.associate, 5.5, share=0.3),
            Party(DCMTK, exchanges.associate, name="storescp, one peer at a time"),
            Party(BARE, exchanges.associate, 0.8),
            Party(PYNETDICOM, exchanges.associate, 100, share=0.03),
            Party(PYDCM, exchanges.associate, 0.9),
            Party(ORTHANC, exchanges.associate, share=0.3),
        ],
    ),
    "store40k": _store("C-STORE 40 KB", 40_000, 2000, 1.15, 0.88, 18),
    "store512k": _store("C-STORE 512 KB", 512_000, 500, 0.96, 0.97, 5),
    "store200m": _store("C-STORE 200 MB", 200_000_000, 1, 2.0, 0.95, 7),
    "store8": Work(
        "C-STORE 512 KB, 8 associations",
        "MB/s",
        1600,
        [
            Party(OURS, exchanges.store_parallel),
            Party(FORKS, exchanges.store_parallel, 1.1),
            Party(BARE, exchanges.store_parallel, 0.9),
            _pynetdicom(exchanges.store_parallel, 9),
            Party(PYDCM, exchanges.store_parallel, share=0.5),
            Party(ORTHANC, exchanges.store_parallel, share=0.05),
        ],
    ),
    "store8workers": Work(
        "the same, `--workers 2`",
        "MB/s",
        1600,
        [
            Party(WORKERS, exchanges.store_parallel),
            Party(FORKS, exchanges.store_parallel, 1.1),
            Party(BARE, exchanges.store_parallel),
        ],
    ),
    "durable40k": _durable("C-STORE 40 KB, durable", 40_000, 400),
    "durable512k": _durable("C-STORE 512 KB, durable", 512_000, 200),
    "durable40k8": _durable("C-STORE 40 KB, durable, 8 associations", 40_000, 1600, 8),
    "durable512k8": _durable("C-STORE 512 KB, durable, 8 associations", 512_000, 800, 8),
    "find": Work(
        "C-FIND, 1,000 answers from dicts",
        "answers/s",
        30,
        [
            Party(OURS, exchanges.find),
            Party(PYNETDICOM, exchanges.find, 50, share=0.05),
            Party(
                "raw sockets",
                partial(exchanges.raw_ping_pong, times=400),
                6,
                name="raw ping-pongs",
            ),
        ],
    ),
    "findds": Work(
        "the same, from Datasets",
        "answers/s",
        3,
        [
            Party(OURS, exchanges.find_datasets),
            Party(PYNETDICOM, exchanges.find_datasets, 12, share=0.4),
        ],
    ),
    "find4": Work(
        "the same, 4 associations, `--workers 2`",
        "answers/s",
        3,
        [
            Party(WORKERS, exchanges.find_datasets_parallel),
            Party(OURS, exchanges.find_datasets_parallel, 1.8, name="one process"),
        ],
    ),
    "storescu": Work(
        "C-STORE 40 KB from storescu as people run it",
        "/s",
        500,
        [
            Party(OURS, exchanges.storescu),
            Party(DCMTK, exchanges.storescu, 50, share=0.06),
            Party(
                OURS,
                partial(exchanges.storescu, no_delay=True),
                name="pacsroute, TCP_NODELAY=1 in storescu",
            ),
        ],
    ),
    "get": _retrieve("C-GET of 200 x 512 KB", exchanges.get, 200, 1.15),
    "move": _retrieve("C-MOVE of 200 x 512 KB", exchanges.move, 200, 1.15),
    "get40k": _retrieve("C-GET of 2,000 x 40 KB", _GET_SMALL, 2000, 1.1),
    "move40k": _retrieve("C-MOVE of 2,000 x 40 KB", _MOVE_SMALL, 2000, 1.1),
    "start": Work(
        "from the command to listening",
        "ms",
        1,
        [
            Party(OURS, processes.start),
            Party(PYNETDICOM, processes.start, 0.5),
            Party(DCMTK, processes.start),
        ],
        smaller_is_better=True,
    ),
    "import": Work(
        "import",
        "ms",
        1,
        [
            Party(OURS, partial(processes.imported, module="pacsroute")),
            Party(PYNETDICOM, partial(processes.imported, module="pynetdicom"), 0.5),
        ],
        smaller_is_better=True,
    ),
    "memory": Work(
        "memory for an instance of 200 MB",
        "MB",
        1,
        [
            Party(OURS, processes.memory_of_store),
            Party(DCMTK, processes.memory_of_store),
            Party(PYNETDICOM, processes.memory_of_store),
        ],
        smaller_is_better=True,
        rounds=3,
        aim=8,
    ),
    "idle": Work(
        "memory for an idle association",
        "KB",
        1000,
        [
            Party(OURS, processes.memory_of_idle),
            Party(PYNETDICOM, processes.memory_of_idle, share=0.1),
        ],
        smaller_is_better=True,
        rounds=3,
        aim=40,
    ),
}
