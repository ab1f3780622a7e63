"""Transactions of SQLite that several threads share."""

import os
import sqlite3
import threading

import pytest
from support.names import WAIT
from support.unharmed import until

from pacsroute.group_commit import GroupCommit, connect


@pytest.fixture
def commits(tmp_path):
    """Return the file, the statements that ran on the connection, and what commits to it."""
    path, statements = tmp_path / "rows.db", []

    def opened():
        db = connect(path, WAIT, "journal_mode = WAL")
        db.execute("CREATE TABLE row (value)")
        db.set_trace_callback(statements.append)
        return db

    made = GroupCommit(opened)
    yield path, statements, made
    made.close()


def add(value):
    return lambda db: db.execute("INSERT INTO row VALUES (?)", [value])


def values(path):
    db = sqlite3.connect(path)
    try:
        return {value for (value,) in db.execute("SELECT value FROM row")}
    finally:
        db.close()


def together(commits, works):
    """Let threads write while another one has its turn; return what each has raised or got."""
    has_turn, go_on = threading.Event(), threading.Event()
    results = [None] * len(works)

    def first(db):
        has_turn.set()
        assert go_on.wait(WAIT)

    def write(number, work, flush):
        try:
            results[number] = commits.write(work, flush=flush)
        except BaseException as error:  # noqa: BLE001 - it is what the test looks at
            results[number] = error

    threads = [threading.Thread(target=commits.write, args=(first,), kwargs={"flush": False})]
    threads[0].start()
    assert has_turn.wait(WAIT)
    for number, (work, flush) in enumerate(works):
        threads.append(threading.Thread(target=write, args=(number, work, flush)))
        threads[-1].start()
        assert until(lambda waiting=number + 1: len(commits._jobs) == waiting)
    go_on.set()
    for thread in threads:
        thread.join(WAIT)
    return results


def test_threads_that_wait_share_one_commit(commits):
    path, statements, made = commits
    together(made, [(add(1), False), (add(2), False), (add(3), False)])
    assert values(path) == {1, 2, 3}
    assert statements.count("COMMIT") == 2  # the first thread's, and that of all three


def test_a_commit_is_flushed_if_one_of_its_writers_wants_it(commits):
    _, statements, made = commits
    together(made, [(add(1), False), (add(2), True)])
    pragmas = [one for one in statements if one.startswith("PRAGMA")]
    assert pragmas == ["PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"]
    made.write(add(3), flush=True)
    assert [one for one in statements if one.startswith("PRAGMA")] == pragmas


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_of_one_writer_undoes_only_its_own_work(commits, error):
    path, _, made = commits

    def fails(db):
        add(99)(db)
        raise error

    results = together(made, [(add(1), False), (fails, False), (lambda db: "kept", True)])
    assert results[1] is error
    assert results[2] == "kept"
    assert values(path) == {1}


def test_a_writer_alone_gets_its_own_error_and_leaves_nothing(commits):
    path, _, made = commits

    def fails(db):
        add(99)(db)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        made.write(fails, flush=True)
    made.write(add(1), flush=True)
    assert values(path) == {1}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="it looks at what Linux lists")
def test_file_that_is_no_database_is_closed_again(tmp_path):
    path = tmp_path / "rows.db"
    path.write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database") as raised:
        connect(path, WAIT, "journal_mode = WAL")
    open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert str(path.resolve()) not in open_files
    assert raised.tb is not None, "the frame, and what it had, is still there"
