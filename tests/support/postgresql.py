"""A PostgreSQL server of the tests' own, from Debian's package, in a folder that goes with it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.programs import missing

WAIT = 60


class PostgreSQL:
    """A server that listens at a socket in its folder only; it can be stopped and started."""

    def __init__(self, programs: Path, folder: Path, primary: PostgreSQL | None = None) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._socket = folder
        # The server refuses to be root's.
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(folder, self._user)
        if primary is None:
            self._run("initdb", "--auth=trust", "--username=tests", "--encoding=UTF8", "--no-sync")
        else:  # a standby, with what the primary has now
            host = f"--host={primary._socket}"
            options = ("--username=tests", "--write-recovery-conf", "--checkpoint=fast")
            self._run("pg_basebackup", host, *options)

    def standby(self, folder: Path) -> PostgreSQL:
        return PostgreSQL(self._programs, folder, self)

    def promote(self) -> None:
        """Let a standby take over."""
        self._run("pg_ctl", "--wait", "promote")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tests@/{database}?host={self._socket}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self._socket}"
        log = ("--log", str(self._socket / "log"))
        self._run("pg_ctl", "--wait", *log, "--options", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "--wait", "--mode", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "--pgdata", self._data, *arguments],
            user=self._user if os.getuid() == 0 else None,
            cwd=self._socket,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=WAIT,
        )


@contextlib.contextmanager
def server():
    """Start a server; without the package the test is skipped, but not in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        missing("PostgreSQL")
    # Not a folder of pytest's: the path of a socket has 107 bytes at most, and its user differs.
    with tempfile.TemporaryDirectory(prefix="pacsroute-pg-") as folder:
        postgresql = PostgreSQL(found[-1].parent, Path(folder))
        postgresql.start()
        try:
            yield postgresql
        finally:
            postgresql.stop("immediate")
