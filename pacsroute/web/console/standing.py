"""The state of a server: its ports, its certificates, and its free space."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from pacsroute.archive.blueprint import Archive
from pacsroute.errors import SetupError
from pacsroute.framework.base import BaseApp, ServerView
from pacsroute.framework.work import is_there, where
from pacsroute.tls import expires

DAY = 86_400.0
SOON = 30.0
"""A certificate that expires in fewer days is shown as due for renewal."""

_LITTLE = 0.1  # with a smaller share free, a disk is shown as nearly full


class Port(NamedTuple):
    """A port that the server listens on, and its purpose."""

    purpose: str
    address: str


class Certificate(NamedTuple):
    """A certificate of the server, and its days until expiry; None if it is unreadable."""

    purpose: str
    days: float | None

    @property
    def is_due(self) -> bool:
        """Whether it has expired or soon will."""
        return self.days is None or self.days < SOON


class Room(NamedTuple):
    """The usage of a disk or of a limit, in bytes."""

    purpose: str
    used: int
    size: int

    @property
    def free(self) -> int:
        """The bytes still free."""
        return max(0, self.size - self.used)

    @property
    def is_little(self) -> bool:
        """Whether little space is left."""
        return self.free < self.size * _LITTLE


def ports(server: ServerView) -> Iterator[Port]:
    """Yield the ports of a server."""
    config = server.config
    if server.tls_port != server.port:
        yield Port("DICOM", _address(server.host, server.port))
    if server.tls_port is not None:
        yield Port("TLS", _address(server.host, server.tls_port))
    if server.web_port is not None:
        kind = "HTTPS" if config.web_certificate else "HTTP"
        yield Port(kind, _address(config.web_host, server.web_port))
    if server.metrics_port is not None:
        yield Port("metrics", _address(config.metrics_host, server.metrics_port))


def certificates(server: ServerView) -> Iterator[Certificate]:
    """Yield the certificates that a server presents to its peers."""
    config = server.config
    files = ("DICOM", config.tls_certificate), ("HTTPS", config.web_certificate)
    for purpose, file in files:
        if file is None:
            continue
        try:
            yield Certificate(purpose, (expires(file) - time.time()) / DAY)
        except (OSError, SetupError):
            yield Certificate(purpose, None)


def rooms(app: BaseApp, spools: Iterable[tuple[int, int]]) -> Iterator[Room]:
    """Yield the usage of an app's spools and of the disks that it writes to, each disk once.

    Parameters
    ----------
    app : App
        The app with the folders.
    spools : iterable of (int, int)
        For each process, the bytes in its spool and the limit.
    """
    config = app.config
    used, size = map(sum, zip(*spools, strict=True))
    if size:
        yield Room("spool", used, size)
    folders = {"spool": config.spool or tempfile.gettempdir()}
    if is_there(config):
        folders["jobs"] = os.path.dirname(where(config)) or "."
    for scope in dict.fromkeys(scope for family, _ in app.families for scope in family):
        if isinstance(scope, Archive):
            folders[scope.name] = os.fspath(scope.folder)
    disks: dict[int, tuple[str, list[str]]] = {}
    for purpose, folder in folders.items():
        with suppress(OSError):  # the folder is made when it is first needed
            disks.setdefault(os.stat(folder).st_dev, (folder, []))[1].append(purpose)
    for folder, purposes in disks.values():
        disk = shutil.disk_usage(folder)
        yield Room(f"disk of {', '.join(purposes)}", disk.total - disk.free, disk.total)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
