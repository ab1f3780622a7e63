"""Storages for instances: a folder, or a bucket, with a new key for each attempt.

>>> from tempfile import TemporaryDirectory
>>> from pydicom import Dataset
>>> from pacsroute import Instance
>>> from pacsroute.storage import Folder
>>> ds = Dataset()
>>> ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
>>> with TemporaryDirectory() as place:
...     storage = Folder(place)
...     kept = Instance(ds).save(storage)
...     print(kept.dataset.SOPInstanceUID, len(list(storage.list("1.2.3"))))
1.2.3 1
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

from pacsroute.errors import SetupError
from pacsroute.instances.atomic_files import draft, publish, sync, write_all
from pacsroute.instances.stored import Storage, Stored

__all__ = ["Folder", "Objects", "Storage", "Stored"]

_made: WeakValueDictionary[str, Folder | Objects] = WeakValueDictionary()  # by URL
_PIECE = 8 << 20  # bytes per part of an upload; longer objects are sent in parts
_PATIENCE = timedelta(seconds=20)  # how long a request is retried


class Folder:
    """A storage of files in a folder.

    Parameters
    ----------
    folder : path
        The folder, created with the first file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = os.fspath(folder)
        self.url = f"file://{os.path.abspath(self._folder)}"
        _made[self.url] = self

    def __repr__(self) -> str:
        return f"Folder({self._folder!r})"

    def at(self, key: str) -> Stored:
        """Return the source of an `Instance` for a file here."""
        return Stored(self, key)

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Store a file: it appears whole, and is on the disk when this returns."""
        path = self._path(key)
        folder = os.path.dirname(path)
        fd, name = draft(folder)
        try:
            while piece := file.read(_PIECE):
                write_all(fd, piece)
            os.fsync(fd)
            publish(fd, name, path, replace=True)
        except BaseException:
            if name:
                with contextlib.suppress(OSError):
                    os.unlink(name)
            raise
        finally:
            os.close(fd)
        sync(folder)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Return a file to read from an offset on."""
        file: Any = _File(self._path(key))
        file.seek(offset)
        if length is None:
            return file  # type: ignore[no-any-return]
        with file:
            return io.BytesIO(file.read(length))

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))
            sync(os.path.dirname(self._path(key)))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a path."""
        start = self._path(prefix) if prefix else self._folder
        if os.path.isfile(start):
            yield prefix
        for folder, _, names in os.walk(start):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self._folder)
                if not name.startswith("."):
                    yield path.replace(os.sep, "/")

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, *_parts(key))


class _File(io.FileIO):
    """An open file that knows how long it is."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.size = os.fstat(self.fileno()).st_size


class Objects:
    """A storage of objects in a bucket of S3, or of a server with its protocol.

    It needs the extra ``s3``. Credentials and region come from the usual variables:
    ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT`` and the like.

    Parameters
    ----------
    url : str
        As ``s3://bucket/prefix``.
    **options
        The options of obstore's ``from_url``, instead of the variables.

    Raises
    ------
    SetupError
        If the extra is not installed, or the URL does not name a bucket.
    """

    def __init__(self, url: str, **options: Any) -> None:
        try:
            import obstore  # noqa: PLC0415 - of an extra
            from obstore.store import from_url  # noqa: PLC0415
        except ImportError:
            raise SetupError(
                "a bucket (pacsroute.storage.Objects) needs obstore: pip install 'pacsroute[s3]'"
            ) from None
        self._obstore = obstore
        self.url = url.partition("?")[0]
        endpoint = os.environ.get("AWS_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL") or ""
        client = {"allow_http": True} if endpoint.startswith("http://") else {}
        retry = {"max_retries": 3, "retry_timeout": _PATIENCE}
        defaults: dict[str, Any] = {"client_options": client, "retry_config": retry}
        if not url.startswith(("http", "s3", "gs", "az", "abfs")):
            defaults = {}  # memory and files have neither
        try:
            self._store: Any = from_url(url, **(defaults | options))
        except Exception as error:  # noqa: BLE001 - obstore's own, of Rust
            raise SetupError(f"{self.url} is not a bucket: {_first_line(error)}") from None
        _made[self.url] = self

    def __repr__(self) -> str:
        return f"Objects({self.url!r})"

    def at(self, key: str) -> Stored:
        """Return the source of an `Instance` for an object here."""
        return Stored(self, key)

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Store an object: it is durable and visible to all when this returns."""
        with _as_os_errors(key):
            if size <= _PIECE:
                self._obstore.put(self._store, _key(key), file.read(), use_multipart=False)
            else:
                pieces = iter(lambda: file.read(_PIECE), b"")
                self._obstore.put(self._store, _key(key), pieces, chunk_size=_PIECE)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Return an object to read from an offset on."""
        options: Any = {}
        if length is not None:
            options = {"range": (offset, offset + max(1, length))}
        elif offset:
            options = {"range": {"offset": offset}}
        try:
            with _as_os_errors(key):
                found = self._obstore.get(self._store, _key(key), options=options)
        except _BeyondTheEnd:
            return io.BytesIO()
        if length is not None:
            with _as_os_errors(key):
                return io.BytesIO(bytes(found.bytes())[:length])
        stream: Any = _Object(found.stream(min_chunk_size=1 << 20), found.meta["size"], key)
        return stream  # type: ignore[no-any-return]

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError), _as_os_errors(key):
            self._obstore.delete(self._store, _key(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a path."""
        with _as_os_errors(prefix):
            for batch in self._obstore.list(self._store, _key(prefix) if prefix else None):
                for one in batch:
                    yield one["path"]


def url_of(storage: Storage) -> str | None:
    """Return the URL by which `at_url` finds a storage; None for a storage of another class."""
    return storage.url if isinstance(storage, (Folder, Objects)) else None


def at_url(url: str) -> Storage:
    """Return the storage of a URL: an existing one of this process, or a new one.

    Raises
    ------
    SetupError
        If it cannot be made.

    Examples
    --------
    >>> folder = Folder("kept")
    >>> at_url(folder.url) is folder
    True
    """
    if (made := _made.get(url)) is not None:
        return made
    return Folder(url.removeprefix("file://")) if url.startswith("file://") else Objects(url)


class _Object(io.RawIOBase):
    """An object that is read piece by piece."""

    def __init__(self, pieces: Any, size: int, key: str) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self._key = key
        self.size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            with _as_os_errors(self._key):
                self._left = memoryview(bytes(next(self._pieces, b"")))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


# Not any 416: the text of an error holds ports, numbers of requests, and keys.
_RANGE = re.compile(r"\bstatus(?: code)?:? 416\b|416 Range Not Satisfiable|Invalid range")


class _BeyondTheEnd(Exception):
    """A range begins at or after the end of an object."""


@contextlib.contextmanager
def _as_os_errors(key: str) -> Iterator[None]:
    """Raise obstore's errors as `OSError`, without their secrets."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", key) from None
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        if _RANGE.search(str(error)):
            raise _BeyondTheEnd from None
        raise OSError(errno.EIO, f"the bucket failed: {_first_line(error)}", key) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _key(key: str) -> str:
    return "/".join(_parts(key))


def _parts(key: str) -> tuple[str, ...]:
    """Return the parts of a key, which never lead out of the storage."""
    parts = PurePosixPath(key).parts
    if not key or key.startswith("/") or "\0" in key or "\\" in key or ".." in parts:
        raise ValueError(f"{key!r:.100} is not a key")
    return parts
