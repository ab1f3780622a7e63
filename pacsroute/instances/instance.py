"""A composite instance: in a file, in memory, or as it was received."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypedDict, overload

from pacsroute import dataset as data_sets
from pacsroute import uids
from pacsroute.dataset import late
from pacsroute.dataset.late import is_dataset
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.errors import DataSetError, Failure, SetupError
from pacsroute.instances import part10, peek
from pacsroute.instances.atomic_files import draft, publish, sync, write_all
from pacsroute.instances.convert import obstacle
from pacsroute.instances.spool import Spool
from pacsroute.instances.stored import Joined, Storage, Stored, new_key
from pacsroute.status import DUPLICATE_SOP_INSTANCE, IDENTIFIER_MISMATCH, INVALID_SOP_INSTANCE

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacsroute.instances.decoding.wall import Frame

Duplicate = Literal["replace", "keep", "refuse"]

_WILL_NEED = getattr(os, "POSIX_FADV_WILLNEED", None)
_BUFFER = io.DEFAULT_BUFFER_SIZE  # explicit, so that open() need not check for a terminal
_HEAD = 1024  # bytes that are read first: the usual head, and some of the data set
_AT_ONCE = 1_048_576  # files up to this many bytes are read in one call
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# PathLike is last, because checking it is slow.
_FILES = (str, Path, Stored, os.PathLike)
_SOURCES = (Spool, bytes, *_FILES)
DEFER_SIZE = 1_048_576
"""Values longer than this many bytes are read from a file only when they are used."""


Data = bytes | BinaryIO
"""A data set: its bytes, or a file at its position."""


class Hints(TypedDict):
    """The UIDs of an instance, as arguments of another `Instance` of it."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str


_NAMES = Hints.__required_keys__


class _Hint:
    """A UID of an instance: once it is known, it is an ordinary attribute, which is faster."""

    def __init__(self, purpose: str) -> None:
        self.__doc__ = purpose

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _Hint: ...

    @overload
    def __get__(self, instance: Instance, owner: type) -> str: ...

    def __get__(self, instance: Instance | None, owner: type) -> _Hint | str:
        return self if instance is None else instance.hints[self._name]  # type: ignore[literal-required]


class Instance:
    """A composite SOP instance.

    Parameters
    ----------
    source : str, os.PathLike, pydicom.Dataset, bytes or Stored
        The path of a Part 10 file, a data set, or bytes: those of a Part 10 file, or of a data set
        in the given `transfer_syntax`; or a Part 10 file in a storage.
    sop_class, sop_instance, transfer_syntax : str, optional
        UIDs, if known; with all three, no file is opened to read them.
    limits : Limits, optional
        The allowed depth and size when it is parsed.

    Examples
    --------
    >>> from pydicom import Dataset
    >>> ds = Dataset()
    >>> ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    >>> Instance(ds).sop_instance
    '1.2.3'
    """

    sop_class = _Hint("The SOP Class UID.")
    sop_instance = _Hint("The SOP Instance UID.")
    transfer_syntax = _Hint("The Transfer Syntax UID of its bytes.")

    def __init__(
        self,
        source: str | os.PathLike[str] | Dataset | bytes | Spool | Stored,
        *,
        sop_class: str | None = None,
        sop_instance: str | None = None,
        transfer_syntax: str | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._dataset: Dataset | None = None
        self._opened: Data | None = None
        if not isinstance(source, _SOURCES):
            if not is_dataset(source):
                raise TypeError(
                    f"an Instance is made of a path, Dataset or bytes, not {source!r:.40}"
                )
            self._dataset = source
        self._source = source
        self.limits = limits
        known = self.__dict__
        if sop_class is not None:
            known["sop_class"] = sop_class
        if sop_instance is not None:
            known["sop_instance"] = sop_instance
        if transfer_syntax is not None:
            known["transfer_syntax"] = transfer_syntax

    def __repr__(self) -> str:
        return f"Instance({self._known('sop_instance') or type(self._source).__name__})"

    @property
    def path(self) -> Path | None:
        """The path of its Part 10 file; None if it is in memory, or was just received."""
        is_file = isinstance(self._source, (str, os.PathLike))
        return Path(self._source) if is_file else None  # type: ignore[arg-type]

    @property
    def stored(self) -> Stored | None:
        """Its storage and key; None without a storage."""
        return self._source if isinstance(self._source, Stored) else None

    @property
    def sop_instance_if_known(self) -> str:
        """The SOP Instance UID if it is known without reading a file, else empty."""
        try:
            return self.__dict__.get("sop_instance") or (
                self.sop_instance if is_dataset(self._source) else ""
            )
        except DataSetError:
            return ""

    @property
    def kind_if_known(self) -> tuple[str, str] | None:
        """The SOP Class and Transfer Syntax UIDs if both were given, else None."""
        sop_class, syntax = self._known("sop_class"), self._known("transfer_syntax")
        return (sop_class, syntax) if sop_class and syntax else None

    @property
    def hints(self) -> Hints:
        """Its UIDs, as arguments of another `Instance` of it."""
        known = self.__dict__
        if not known.keys() >= _NAMES:
            _add(self._read_hints(), known)
        return {
            "sop_class": known["sop_class"],
            "sop_instance": known["sop_instance"],
            "transfer_syntax": known["transfer_syntax"],
        }

    def _known(self, name: str) -> str:
        """Return a UID if it is known without reading anything, else an empty text."""
        known: str = self.__dict__.get(name, "")
        return known

    def _read_hints(self) -> Hints:
        if is_dataset(self._source):
            return {
                "sop_class": str(self._source.get("SOPClassUID") or ""),
                "sop_instance": str(self._source.get("SOPInstanceUID") or ""),
                "transfer_syntax": _syntax_of(self._source),
            }
        if isinstance(self._source, bytes) and self._source[128:132] != b"DICM":
            syntax = self.__dict__.get("transfer_syntax")
            if syntax is None:
                raise DataSetError("bytes that are not a Part 10 file need transfer_syntax=")
            sop_class, sop_instance = peek.sop_uids(self._source[: peek.LOOK], syntax)
            return {"sop_class": sop_class, "sop_instance": sop_instance, "transfer_syntax": syntax}
        head, data = self._part10()
        try:
            return _told(head, data)
        finally:
            _close(data)

    def _part10(self, at_once: int = _AT_ONCE) -> tuple[part10.Head, Data]:
        """Return the head of the Part 10 file, and its data set; up to `at_once` bytes are read."""
        source = self._source
        if isinstance(source, bytes):
            return _split(io.BytesIO(source))
        if isinstance(source, Stored):
            return _split(source.open(at_once or part10.LOOK))
        assert isinstance(source, (str, Path, os.PathLike))
        return _read(source, at_once)

    def opened(self) -> Instance:
        """Return the same instance with its file open or read, so that `open` does not wait for it.

        The copy is independent: other threads may be sending this one, too. An instance that cannot
        be opened is returned unchanged, and `open` raises the error.
        """
        if type(self) is not Instance or not isinstance(self._source, _FILES):
            return self
        if self._opened is not None:
            return self
        opened = Instance.__new__(Instance)
        known = opened.__dict__
        known.update(self.__dict__)
        try:
            head, data = self._part10()
            self._check(head, data)
            if not known.keys() >= _NAMES:
                _add(_told(head, data), known)
        except Exception:  # noqa: BLE001 - a bad path, or whatever a storage raises
            return self
        opened._opened = data
        is_file = isinstance(data, io.BufferedReader) and not isinstance(self._source, Stored)
        if is_file and _WILL_NEED is not None:
            os.posix_fadvise(data.fileno(), 0, 0, _WILL_NEED)  # type: ignore[union-attr]
        return opened

    def forget(self) -> None:
        """Close the file of `opened`, if it was not used."""
        if self._opened is not None:
            _close(self._opened)
            self._opened = None

    def open(self, *, whole: bool = True) -> BinaryIO:
        """Return a binary file with the bytes of the data set, without the file head.

        Parameters
        ----------
        whole : bool
            Whether all of it will be read: then a small file is read immediately.
        """
        if self._opened is not None:
            opened, self._opened = self._opened, None
            return _as_file(opened)
        if isinstance(self._source, Spool):
            return self._source.open()
        if is_dataset(self._source):
            return io.BytesIO(data_sets.encode(self._source, self.transfer_syntax))
        if isinstance(self._source, bytes) and self._source[128:132] != b"DICM":
            return io.BytesIO(self._source)
        head, data = self._part10(_AT_ONCE if whole else 0)
        self._check(head, data)
        return _as_file(data)

    def _check(self, head: part10.Head, data: Data) -> None:
        """Refuse a file that was replaced after the index was queried."""
        told = head.transfer_syntax
        if told and told != (self._known("transfer_syntax") or told):
            _close(data)
            raise DataSetError("the file is in another transfer syntax by now")

    def data_as(self, transfer_syntax: str, *, wanted: Callable[[], bool] | None = None) -> Data:
        """Return the data set in a transfer syntax: its bytes if `opened` has them, else a file.

        Parameters, and errors, are those of `open_as`.
        """
        opened = self._opened
        if isinstance(opened, bytes) and transfer_syntax == self.transfer_syntax:
            self._opened = None
            return opened
        return self.open_as(transfer_syntax, wanted=wanted)

    def open_as(
        self, transfer_syntax: str, *, wanted: Callable[[], bool] | None = None
    ) -> BinaryIO:
        """Return a binary file with the data set in a transfer syntax, as `open`.

        Bytes that are in that syntax already are not parsed. Others are converted: between
        uncompressed syntaxes always, from a compressed one if pydicom has a decoder. Decoding, and
        the conversion of large or deflated data sets, is done in child processes: see the settings
        ``decoders``, ``decode_memory`` and ``decode_seconds``.

        Parameters
        ----------
        transfer_syntax : str
            Its UID.
        wanted : callable, optional
            Returns whether the result is still wanted, without waiting; called a few times a second
            while a child process works.

        Raises
        ------
        DataSetError
            If it cannot be parsed or converted; the message says why.
        OSError
            If it cannot be read, or the spool is full.
        """
        if is_dataset(self._source) and transfer_syntax in uids.NATIVE:
            native = self.transfer_syntax in uids.NATIVE
            if native or "PixelData" not in self._source:
                return io.BytesIO(data_sets.encode(self._source, transfer_syntax))
        own = self.transfer_syntax
        if transfer_syntax == own:
            return self.open()
        if why := obstacle(own, transfer_syntax):
            raise DataSetError(why)
        file = self.open()
        if isinstance(file, io.BytesIO) and own in uids.NATIVE and own not in uids.DEFLATED:
            dataset = data_sets.parse(file, own, limits=self.limits)
            return io.BytesIO(data_sets.encode(dataset, transfer_syntax))
        from pacsroute.instances.decoding.wall import decoders  # noqa: PLC0415 - when needed

        return decoders().convert(file, own, transfer_syntax, limits=self.limits, wanted=wanted)

    def frame(self, number: int, *, wanted: Callable[[], bool] | None = None) -> Frame:
        """Return one frame as raw pixels in little endian, and their description.

        The data set is not parsed. A compressed frame is decoded in a child process, as in
        `open_as`; the limits apply to this frame only.

        Parameters
        ----------
        number : int
            From 1.
        wanted : callable, optional
            As for `open_as`.

        Raises
        ------
        DataSetError
            If there is no such frame, or it cannot be decoded; the message says why.
        OSError
            If it cannot be read, or the spool is full.

        Examples
        --------
        >>> from pydicom.data import get_testdata_file
        >>> image, file = Instance(get_testdata_file("CT_small.dcm")).frame(1)
        >>> with file:
        ...     image.rows, image.columns, image.bits_allocated, len(file.read())
        (128, 128, 16, 32768)
        """
        late.load()
        from pacsroute.instances.decoding.wall import Frame, decoders  # noqa: PLC0415 - when needed
        from pacsroute.instances.frames import Frames  # noqa: PLC0415 - pydicom, late

        own = self.transfer_syntax
        if own in uids.NATIVE and own not in uids.DEFLATED:
            with self.open(whole=False) as file:
                frames = Frames(file, own)
                if frames.image.frame_length <= _AT_ONCE:
                    return Frame(frames.image, io.BytesIO(frames.read(number)))
        return decoders().frame(self.open(), own, number, limits=self.limits, wanted=wanted)

    @property
    def dataset(self) -> Dataset:
        """The data set, parsed on first use; large values are read when they are used.

        Raises
        ------
        DataSetError
            If the bytes cannot be parsed.
        Failure
            With 0xA900 if its UIDs differ from those of the command.
        """
        if self._dataset is None:
            dataset = self._parse()
            if isinstance(self._source, Spool):
                self._compare(dataset)
            self._dataset = dataset
        return self._dataset

    def _parse(self) -> Dataset:
        file = self.open()
        try:
            dataset = data_sets.parse(
                file, self.transfer_syntax, defer_size=DEFER_SIZE, limits=self.limits
            )
        except BaseException:
            file.close()
            raise
        data_sets.name_syntax(dataset, self.transfer_syntax)
        if getattr(dataset, "buffer", None) is file:
            # Deferred values are read from the file, so it stays open as long as the data set
            # lives.
            weakref.finalize(dataset, file.close)
        else:
            file.close()
        return dataset

    def _compare(self, dataset: Dataset) -> None:
        """Refuse an instance if its data set and its command have different UIDs."""
        named = {
            0x0008_0016: ("SOP Class UID", self.sop_class),
            0x0008_0018: ("SOP Instance UID", self.sop_instance),
        }
        for tag, (name, known) in named.items():
            value = getattr(dataset.get_item(tag), "value", None)
            if isinstance(value, bytes) and uids.trim(value.decode("latin-1")) not in ("", known):
                raise Failure(IDENTIFIER_MISMATCH, f"{name} differs from the command's")

    def _edited(self) -> bool:
        """Return whether the user has changed the data set."""
        if self._dataset is None or is_dataset(self._source):
            return False
        return data_sets.is_edited(self._dataset)

    def set_aside(self, folder: str, name: str) -> Instance:
        """Return an instance that takes no memory, and no open file, until it is read.

        A Dataset is written to a file; anything else is returned as it is.

        Parameters
        ----------
        folder, name : str
            The folder and name of the file.
        """
        if not is_dataset(self._source):
            return self
        return Instance(self.save(folder, name, durable=False), **self.hints)

    @overload
    def save(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        duplicate: Duplicate = "replace",
        durable: bool = True,
    ) -> Path: ...

    @overload
    def save(
        self,
        folder: Storage,
        name: str | None = None,
        duplicate: Duplicate = "replace",
        durable: bool = True,
    ) -> Instance: ...

    def save(
        self,
        folder: str | os.PathLike[str] | Storage,
        name: str | None = None,
        duplicate: Duplicate = "replace",
        durable: bool = True,
    ) -> Path | Instance:
        """Write a Part 10 file, with the bytes of the data set as they are.

        The file appears under its name only when it is complete. On return it is on the disk, and
        survives a crash of the machine (PS3.10 §7).

        Parameters
        ----------
        folder : path or Storage
            The folder, which is created if needed. In a storage each call gets a new key, which
            begins with the SOP Instance UID.
        name : str, optional
            The name of the file; by default the SOP Instance UID and ``.dcm``.
        duplicate : {"replace", "keep", "refuse"}
            The treatment of an existing file: replace it, keep it, or raise a `Failure` with
            0x0111.
        durable : bool
            False returns before the bytes are on the disk: it is faster, but a crash of the machine
            in the next seconds loses them.

        Returns
        -------
        pathlib.Path or Instance
            The path of the file, or the instance in the storage.

        Raises
        ------
        SetupError
            With a storage, for a `name` or a `duplicate` other than ``replace``, because keys are
            never reused.
        Failure
            With 0x0117 if the SOP Instance UID is not valid: it never becomes a file name.
        DataSetError
            If `dataset` was edited: the bytes do not have the changes.
        OSError
            If the file cannot be written; no part of it remains.
        """
        if duplicate not in ("replace", "keep", "refuse"):
            raise ValueError(f"duplicate must be 'replace', 'keep' or 'refuse', not {duplicate!r}")
        self.check_name()
        if not isinstance(folder, (str, os.PathLike)):
            return self._put(folder, name, duplicate)
        if name is None:
            name = f"{self.sop_instance}.dcm"
        elif name in ("", ".", "..") or os.path.basename(name) != name or "\0" in name:
            raise ValueError(f"{name!r} is not the name of a file")
        self._check_not_edited()
        place = os.fspath(folder)
        prefix, parent = _prefix(place)
        target = prefix + name
        replace = duplicate == "replace"
        if not replace and os.path.exists(target):
            return _occupied(place, target, duplicate, durable)
        try:
            source = self._source
            if not isinstance(source, Spool) or not source.move_to(
                target, replace=replace, durable=durable
            ):
                self._copy(place, target, replace=replace, durable=durable)
        except FileExistsError:
            return _occupied(place, target, duplicate, durable)
        if durable:
            sync(place)
        return parent / name

    def check_name(self) -> None:
        """Refuse an instance whose SOP Instance UID must not become part of a file name.

        Raises
        ------
        Failure
            With 0x0117.
        """
        if not uids.is_uid(self.sop_instance):
            raise Failure(INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID")

    def write_to(self, fd: int) -> None:
        """Write a Part 10 file to an open file, with the bytes of the data set as they are.

        Raises
        ------
        DataSetError
            If `dataset` was edited: the bytes do not have the changes.
        OSError
            If it cannot be written, or only in part.
        """
        self._check_not_edited()
        if isinstance(self._source, Spool):
            self._source.copy_to(fd)
            return
        write_all(fd, part10.head(self.sop_class, self.sop_instance, self.transfer_syntax))
        with self.open() as data:
            while piece := data.read(1 << 20):
                write_all(fd, piece)

    def _check_not_edited(self) -> None:
        if self._edited():
            raise DataSetError(
                "the data set was edited, and save() writes the bytes as received: "
                "Instance(dataset).save(folder) writes the edited one"
            )

    def _put(self, storage: Storage, name: str | None, duplicate: str) -> Instance:
        """Put it into a storage, under a new key."""
        if not isinstance(storage, Storage):
            raise TypeError(f"save() takes a folder or a storage, not {storage!r:.40}")
        if name is not None or duplicate != "replace":
            raise SetupError("save(storage) takes no name and no duplicate: each attempt has a key")
        self._check_not_edited()
        key = new_key(self.sop_instance)
        if isinstance(self._source, Spool):
            head, size = self._source.head, self._source.size
        else:
            head = part10.head(self.sop_class, self.sop_instance, self.transfer_syntax)
            with self.open() as data:
                size = -data.tell() + data.seek(0, os.SEEK_END)
        with io.BufferedReader(Joined(head, self.open())) as file:
            storage.put(key, file, len(head) + size)
        return Instance(Stored(storage, key), **self.hints)

    def _copy(self, folder: str, target: str, *, replace: bool, durable: bool) -> None:
        """Write the file, and give it its name when it is complete."""
        fd, path = draft(folder)
        try:
            self.write_to(fd)
            if durable:
                os.fsync(fd)
            publish(fd, path, target, replace=replace)
            if isinstance(self._source, Spool) and not path:
                self._source.saved(folder, durable=durable)
        except BaseException:
            if path:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        finally:
            os.close(fd)


@functools.lru_cache(maxsize=256)
def _prefix(folder: str) -> tuple[str, Path]:
    """Return the beginning of a path for a name, as text and as a Path.

    Making a Path of a long text takes half as long as writing a small file.
    """
    return os.path.join(folder, ""), Path(folder)


def _syntax_of(dataset: Dataset) -> str:
    """Return a Dataset's own transfer syntax, else the one that it was read in."""
    told = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if told is not None:
        return str(told)
    implicit, little = dataset.original_encoding
    if implicit:
        return uids.IMPLICIT_VR_LITTLE_ENDIAN
    is_big = implicit is not None and not little
    return uids.EXPLICIT_VR_BIG_ENDIAN if is_big else uids.EXPLICIT_VR_LITTLE_ENDIAN


def _read(path: str | os.PathLike[str], at_once: int) -> tuple[part10.Head, Data]:
    """Return the head of a Part 10 file and its data set; up to `at_once` bytes are read."""
    fd = os.open(path, _FLAGS)
    try:
        first, size = os.read(fd, _HEAD), os.fstat(fd).st_size
        if size > at_once + part10.LOOK:
            return _split(open(os.dup(fd), "rb", _BUFFER))
        head = part10.read_head(first)
        if not head.is_whole:
            return _split(io.BytesIO(_all(fd, 0, size)))
        # Read from where it begins: to cut it out of the whole file would copy it.
        return head, _all(fd, head.end, size - head.end)
    finally:
        os.close(fd)


def _all(fd: int, start: int, size: int) -> bytes:
    """Read this many bytes, or up to the end: one system call may return fewer."""
    os.lseek(fd, start, os.SEEK_SET)
    data = os.read(fd, size)
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


def _split(file: BinaryIO) -> tuple[part10.Head, BinaryIO]:
    """Return the head of a Part 10 file, and the file at its data set."""
    try:
        return part10.head_of(file), file
    except BaseException:
        file.close()
        raise


def _as_file(data: Data) -> BinaryIO:
    return io.BytesIO(data) if isinstance(data, bytes) else data


def _close(data: Data) -> None:
    if not isinstance(data, bytes):
        data.close()


def _add(hints: Hints, known: dict[str, str]) -> None:
    """Add the UIDs that are not known."""
    for name, value in hints.items():
        known[name] = known.get(name) or str(value)


def _told(head: part10.Head, data: Data) -> Hints:
    """Return the UIDs of a file's instance; those in the data set take precedence.

    Otherwise a peer would refuse the instance.
    """
    if isinstance(data, bytes):
        first = data[: peek.LOOK]
    else:
        first = data.read(peek.LOOK)
        data.seek(head.end)
    sop_class, sop_instance = peek.sop_uids(first, head.transfer_syntax)
    return {
        "sop_class": sop_class or head.sop_class,
        "sop_instance": sop_instance or head.sop_instance,
        "transfer_syntax": head.transfer_syntax,
    }


def _occupied(folder: str, target: str, duplicate: str, durable: bool) -> Path:
    if durable:  # its writer may not have flushed it
        sync(target)
        sync(folder)
    if duplicate == "refuse":
        raise Failure(DUPLICATE_SOP_INSTANCE, "the SOP instance exists already")
    return Path(target)
