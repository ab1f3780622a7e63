"""``python -m tests.benchmarks.cluster``: an archive on one node and on two, and a large index.

Rates of one node with a folder and SQLite, of one with PostgreSQL and a bucket of Swift, and of two
behind HAProxy, in rounds that alternate. Then the size of the rows, and how long queries take, with
many instances in the index of both engines.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from pydicom import Dataset

from pacsroute import App
from pacsroute import Archive as Blueprint
from tests.benchmarks import archives

_ROOT = Path(__file__).parents[2]
_FOLDER, _ONE, _TWO = "1 node, SQLite", "1 node, PostgreSQL + S3", "2 nodes, PostgreSQL + S3"
_IMAGES, _SERIES = 100, 5  # instances of a series, and series of a study


def _try_out():
    path = _ROOT / "examples" / "cluster" / "try_out.py"
    spec = importlib.util.spec_from_file_location("try_out", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _At:
    """What listens at a port, for the works of `archives`."""

    def __init__(self, port):
        self.port = port


def rates(server, scale):
    """Return the figures of one round, in a second."""
    few = max(8, int(200 * scale))
    return {
        "C-STORE 40 KB, 1 association": archives.store(server, 40_000, few),
        "C-GET of a study, 40 KB each": archives.get(server),
        "C-STORE 40 KB, 8 associations": archives.store(server, 40_000, 2 * few, 8),
        "C-STORE 512 KB, 8 associations": archives.store(server, 512_000, few, 8),
    } | _found(server)


def _found(server):
    archives.fill(server)
    return {"C-FIND of 1,000 studies": archives.find(server)}


@contextlib.contextmanager
def _cluster(nodes):
    """Yield what peers connect to: the balancer, or the only node there is."""
    module = _try_out()
    with tempfile.TemporaryDirectory(prefix="pacs-") as folder:
        os.chmod(folder, 0o755)
        with module.Cluster(Path(folder)) as cluster:
            if nodes == 2:
                yield _At(cluster.port)
                return
            for node in cluster.nodes.values():
                node.kill()
            port = module.free_port()
            words = (sys.executable, "-m", "pacsroute", "run", module.HERE / "app.py")
            options = ("--port", port, "--log-level", "warning")
            one = module.Program(Path(folder), "one", port, *words, *options, **cluster.variables)
            one.start()
            try:
                yield _At(port)
            finally:
                one.kill()


@contextlib.contextmanager
def _folder(top):
    with archives.Archive("pacsroute", Path(tempfile.mkdtemp(dir=top)), _At(1)) as server:
        yield server


def measure(rounds, scale, top):
    """Return the rates by party and work."""
    parties = {
        _FOLDER: lambda: _folder(top),
        _ONE: lambda: _cluster(1),
        _TWO: lambda: _cluster(2),
    }
    results = {party: {} for party in parties}
    for _ in range(rounds):
        for party, serving in parties.items():
            with serving() as server:
                for work, rate in rates(server, scale).items():
                    results[party].setdefault(work, []).append(rate)
    return results


# ------------------------------------------------------------- a large index


def _uid(kind, number):
    """Return a UID as long as those of a manufacturer are: 58 characters."""
    return f"1.2.840.113619.2.55.3.6046881198.681.1.{kind}9{number:017d}"


def rows_of(count):
    """Yield tables, their columns and rows: a CT of five series and 500 images for each study."""
    series, studies = count // _IMAGES, count // _IMAGES // _SERIES
    columns = (
        "id patient PatientID IssuerOfPatientID PatientName PatientName_key PatientBirthDate"
        " PatientSex StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID"
        " StudyDescription ReferringPhysicianName ReferringPhysicianName_key PatientAge"
    )
    yield (
        "study",
        columns,
        (
            (
                *(n + 1, f"PAT{n // 3}\\NORTH", f"PAT{n // 3}", "NORTH"),
                *(f"Lastname{n % 997}^First{n % 89}", f"lastname{n % 997}^first{n % 89}"),
                *("19600101", "M", _uid(1, n), _day(n), "101500.000", f"ACC{n:09d}", str(n)),
                *("CT thorax and abdomen", "Who^Doctor", "who^doctor", "064Y"),
            )
            for n in range(studies)
        ),
    )
    columns = (
        "id study SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDate SeriesTime"
        " BodyPartExamined ProtocolName InstitutionName StationName Manufacturer"
    )
    yield (
        "series",
        columns,
        (
            (
                *(n + 1, n // _SERIES + 1, _uid(2, n), "CT", n % _SERIES, "Thorax  5.0  B31f"),
                *("20200101", "101501.123", "CHEST", "ThoraxRoutine"),
                *("University Hospital North", "CT99234", "SIEMENS"),
            )
            for n in range(series)
        ),
    )
    columns = (
        "id series path transfer_syntax calling_ae received SOPInstanceUID SOPClassUID"
        " InstanceNumber ContentDate ContentTime AcquisitionDate AcquisitionTime"
        " Rows Columns BitsAllocated"
    )
    began = 1_764_500_000_000_000_000
    yield (
        "image",
        columns,
        (
            (
                *(n + 1, n // _IMAGES + 1),
                f"{_uid(3, n)}/{began + n * 1_000_000:020d}-{n % 100_000:08d}-a1b2c3.dcm",
                *("1.2.840.10008.1.2.4.90", "CT1_NORTH", began + n * 1_000_000, _uid(3, n)),
                *("1.2.840.10008.5.1.4.1.1.2", n % _IMAGES, "20200101", "101502.250"),
                *("20200101", "101502.250", 512, 512, 16),
            )
            for n in range(count)
        ),
    )


def _day(number):
    return f"{2015 + number % 10}{1 + number % 12:02d}{1 + number % 28:02d}"


def _fill_sqlite(archive, count):
    db = archive._database.connect()
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    for table, columns, rows in rows_of(count):
        names = columns.split()
        marks = ", ".join("?" * len(names))
        db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)
    db.execute("COMMIT")
    db.execute("ANALYZE")
    db.close()


def _fill_postgresql(url, count):
    with psycopg.connect(url, autocommit=True) as db:
        for table, columns, rows in rows_of(count):
            names = ", ".join(columns.split())
            with db.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        db.execute("VACUUM ANALYZE")


def _sizes_of_postgresql(url):
    """Yield lines: the bytes of a row of each table, and of its entries in indexes."""
    with psycopg.connect(url) as db:
        for table in ("study", "series", "image"):
            ((count,),) = db.execute(f"SELECT count(*) FROM {table}").fetchall()
            sizes = f"SELECT pg_table_size('{table}'), pg_indexes_size('{table}')"
            (whole,) = db.execute(sizes).fetchall()
            row, entries = (size / count for size in whole)
            yield f"| {table} | {count:,} | {row:,.0f} | {entries:,.0f} |"


def _asked(**values):
    ds = Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate"):
        setattr(ds, keyword, "")
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


QUERIES = {
    "a study by its UID": ("STUDY", _asked(StudyInstanceUID=_uid(1, 77)), None),
    "the studies of a patient": ("STUDY", _asked(PatientID="PAT77"), None),
    "by accession number": ("STUDY", _asked(AccessionNumber="ACC000000077"), None),
    "a name with a wildcard": ("STUDY", _asked(PatientName="lastname77*"), None),
    "the studies of a day": ("STUDY", _asked(StudyDate="20200606"), None),
    "the newest 50 studies, with counts": (
        "STUDY",
        _asked(NumberOfStudyRelatedInstances="", ModalitiesInStudy=""),
        50,
    ),
    "the 100 images of a series": (
        "IMAGE",
        _asked(SeriesInstanceUID=_uid(2, 77), SOPInstanceUID="", InstanceNumber=None),
        None,
    ),
}


def latencies(archive, times=20):
    """Return how many milliseconds each query takes, without the network."""
    found = {}
    for name, (level, identifier, limit) in QUERIES.items():
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            answers = sum(1 for _ in archive.matching(identifier, level, limit=limit))
            taken.append((time.perf_counter() - started) * 1000)
        found[name] = statistics.median(taken), answers
    return found


def large(count, top):
    """Yield the lines of two tables: sizes of rows, and latencies of queries."""
    module = _try_out()
    database = module.PostgreSQL(Path(top, "database"))
    database.start()
    try:
        found = {}
        for engine, index in (("SQLite", ""), ("PostgreSQL", database.url)):
            app = App("BENCH")
            archive = Blueprint(Path(top, engine), index=index)
            app.register_blueprint(archive)
            with app.running():
                if index:
                    _fill_postgresql(index, count)
                else:
                    _fill_sqlite(archive, count)
                found[engine] = latencies(archive)
        yield f"| table of PostgreSQL, {count:,} instances | rows | bytes a row | in indexes |"
        yield "|---|---:|---:|---:|"
        yield from _sizes_of_postgresql(database.url)
        size = Path(top, "SQLite", "index.db").stat().st_size
        yield ""
        yield f"SQLite: {size / count:,.0f} bytes an instance, of all tables and indexes"
        yield ""
        yield "| query, ms | answers | SQLite | PostgreSQL |"
        yield "|---|---:|---:|---:|"
        for name in QUERIES:
            (one, answers), (other, same) = found["SQLite"][name], found["PostgreSQL"][name]
            assert answers == same, name
            yield f"| {name} | {answers} | {one:.2f} | {other:.2f} |"
    finally:
        database.stop("immediate")


def table(results):
    """Yield the lines of a table: rates a second, medians of the rounds."""
    parties = list(results)
    yield "| a second | " + " | ".join(parties) + " |"
    yield "|---|" + "---:|" * len(parties)
    for work in results[parties[0]]:
        cells = (f"{statistics.median(results[party][work]):,.0f}" for party in parties)
        yield f"| {work} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster")
    parser.add_argument("--rounds", type=int, default=3, help="0 leaves out the rates")
    parser.add_argument("--scale", type=float, default=1, help="the part of the work that is done")
    parser.add_argument("--rows", type=int, default=1_000_000, help="instances in a large index")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.disk) as top:
        os.chmod(top, 0o755)
        if options.rounds:
            lines.append(table(measure(options.rounds, options.scale, top)))
        if options.rows:
            lines.append(large(options.rows, top))
        for line in itertools.chain.from_iterable(lines):
            print(line, flush=True)


if __name__ == "__main__":
    main()
