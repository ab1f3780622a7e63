"""The whole cluster on one machine, for trying it out: Ctrl-C ends it.

    python try_out.py [FOLDER]

It needs Debian's packages postgresql and haproxy. The bucket is one of Swift (swift-proxy,
swift-account, swift-container, swift-object, memcached), or else of moto (pip install
'moto[server]').
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
LOCAL = "127.0.0.1"
WAIT = 60.0  # seconds that a program may take to start
KEY, SECRET = "test:tester", "testing"


def free_port() -> int:
    """Return the number of a port on which nothing listens."""
    with socket.create_server((LOCAL, 0)) as one:
        return int(one.getsockname()[1])


def until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for a program that was started."""
    deadline = time.monotonic() + WAIT
    while True:
        with contextlib.suppress(OSError), socket.create_connection((LOCAL, port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args} does not listen at {port}")
        time.sleep(0.05)


class Program:
    """A program that listens at a port, with a log in the folder."""

    def __init__(self, folder: Path, name: str, port: int, *command: object, **environment: str):
        self.port = port
        self.log = folder / f"{name}.log"
        self._command = [str(word) for word in command]
        self._environment = os.environ | environment
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children end with it
            )
        if wait:
            until_it_listens(self.port, self.process)

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class PostgreSQL:
    """A database of its own, which listens at a socket in the folder."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not found:
            raise SystemExit("apt-get install postgresql")
        self._programs, self._folder = found[-1], folder
        # It refuses to be root's.
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        folder.mkdir(mode=0o755)
        if os.getuid() == 0:
            shutil.chown(folder, self._user)
        self._run("initdb", "--auth=trust", "--username=pacs", "--encoding=UTF8", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://pacs@/postgres?host={self._folder}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self._folder}"
        self._run(
            "pg_ctl", "--wait", f"--log={self._folder / 'log'}", f"--options={options}", "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, f"--pgdata={self._folder / 'data'}", *arguments],
            user=self._user if os.getuid() == 0 else None,
            cwd=self._folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


class Swift:
    """OpenStack's object storage with one disk, a folder; it speaks S3's protocol."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "disks" / "one").mkdir(parents=True)
        kinds = ("account", "container", "object")
        ports = {kind: free_port() for kind in kinds}
        cache, self.port = free_port(), free_port()
        (folder / "swift.conf").write_text(SWIFT)
        for kind in kinds:
            self._ring(kind, ports[kind])
            text = SERVER.format(folder=folder, port=ports[kind], kind=kind, user=_user())
            (folder / f"{kind}-server.conf").write_text(text)
        text = PROXY.format(folder=folder, port=self.port, cache=cache, user=_user())
        (folder / "proxy-server.conf").write_text(text)
        memcached = ("memcached", "-l", LOCAL, "-p", cache, "-u", _user())
        self._programs = [Program(folder, "memcached", cache, *memcached)]
        for kind in (*kinds, "proxy"):
            port = ports.get(kind, self.port)
            file = folder / f"{kind}-server.conf"
            self._programs.append(Program(folder, kind, port, f"swift-{kind}-server", file))

    def _ring(self, kind: str, port: int) -> None:
        """Say where accounts, containers and objects are: all on the one disk."""
        builder = f"{kind}.builder"
        for words in (
            ("create", "4", "1", "0"),
            ("add", f"r1z1-{LOCAL}:{port}/one", "1"),
            ("rebalance",),
        ):
            subprocess.run(
                ["swift-ring-builder", builder, *words],
                cwd=self._folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def start(self) -> None:
        for program in self._programs:
            program.start(wait=False)
        for program in self._programs:
            assert program.process is not None
            until_it_listens(program.port, program.process)
        self._make_bucket()

    def _make_bucket(self) -> None:
        url = f"http://{LOCAL}:{self.port}"
        headers = {"X-Auth-User": KEY, "X-Auth-Key": SECRET}
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/auth/v1.0", headers=headers)
        ) as told:
            token, place = told.headers["X-Auth-Token"], told.headers["X-Storage-Url"]
        headers = {"X-Auth-Token": token}
        make = urllib.request.Request(f"{place}/pacs", headers=headers, method="PUT")
        urllib.request.urlopen(make).close()

    def refuse(self) -> None:
        """Make it answer every request with 503, as if its disks were gone."""
        self._programs[3].kill()

    def resume(self) -> None:
        """Answer again."""
        self._programs[3].start()

    def stop(self) -> None:
        """End all of it; what was stored is there at the next start."""
        for program in self._programs:
            program.kill()


class Moto:
    """A bucket in memory, where Swift is not installed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        words = (sys.executable, "-m", "moto.server", "-H", LOCAL, "-p", self.port)
        self._program = Program(folder, "moto", self.port, *words)

    def start(self) -> None:
        self._program.start()
        make = urllib.request.Request(f"http://{LOCAL}:{self.port}/pacs", method="PUT")
        urllib.request.urlopen(make).close()

    def stop(self) -> None:
        self._program.kill()


class Cluster:
    """Database, bucket, two nodes and a balancer in front of them."""

    def __init__(self, folder: Path) -> None:
        (folder / "bucket").mkdir(parents=True)
        self.database = PostgreSQL(folder / "database")
        place = Swift if shutil.which("swift-proxy-server") else Moto
        self.bucket: Swift | Moto = place(folder / "bucket")
        self.variables = {
            "INDEX": self.database.url,
            "BUCKET": "s3://pacs/archive",
            "PACSROUTE_JOBS": self.database.url,
            "AWS_ENDPOINT": f"http://{LOCAL}:{self.bucket.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
        }
        self.port, self.web_port = free_port(), free_port()
        self.places = {"DICOM": f"{LOCAL}:{self.port}", "WEB": f"{LOCAL}:{self.web_port}"}
        self.nodes = {name: self._node(folder, name) for name in ("A", "B")}
        words = ("haproxy", "-db", "-f", HERE / "haproxy.cfg")
        self.balancer = Program(folder, "haproxy", self.port, *words, **self.places)

    def _node(self, folder: Path, name: str) -> Program:
        port, web_port = free_port(), free_port()
        self.places |= {
            f"NODE_{name}": LOCAL,
            f"PORT_{name}": str(port),
            f"WEB_{name}": str(web_port),
        }
        command = (sys.executable, "-m", "pacsroute", "run", HERE / "app.py")
        options = ("--port", port, "--web-port", web_port, "--proxy-from", LOCAL, "--web-open")
        return Program(folder, f"node-{name}", port, *command, *options, **self.variables)

    def start(self) -> None:
        with ThreadPoolExecutor() as pool:
            for one in [pool.submit(self.database.start), pool.submit(self.bucket.start)]:
                one.result()
            for one in [pool.submit(node.start) for node in self.nodes.values()]:
                one.result()
        self.balancer.start()

    def stop(self) -> None:
        for program in (self.balancer, *self.nodes.values()):
            program.kill()
        self.bucket.stop()
        self.database.stop("immediate")

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            with contextlib.suppress(Exception):
                self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


SWIFT = """\
[swift-hash]
swift_hash_path_suffix = try_out
swift_hash_path_prefix = try_out
[storage-policy:0]
name = one
default = yes
"""

SERVER = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/disks
mount_check = false
fallocate_reserve = 0
log_level = WARNING
log_file =
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
allow_versions = true
"""

PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 2
user = {user}
swift_dir = {folder}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# Else a disk that has failed is left alone for a minute.
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache}
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
"""


def main() -> None:
    """Start it, say where it is, and wait."""
    with contextlib.ExitStack() as stack:
        if len(sys.argv) > 1:
            folder = Path(sys.argv[1]).resolve()
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pacs-")))
            folder.chmod(0o755)
        cluster = stack.enter_context(Cluster(folder))
        kind = type(cluster.bucket).__name__
        print(f"DICOM at {LOCAL}:{cluster.port}, AE title ARCHIVE")
        print(f"DICOMweb at http://{LOCAL}:{cluster.web_port}/dicom-web")
        print(f"nodes {', '.join(cluster.nodes)}; bucket of {kind}; logs in {folder}")
        print("Ctrl-C stops", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
