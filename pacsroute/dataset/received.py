"""A received data set: values are converted, and sequences read, when they are used.

pydicom's own conversion warns, and its warnings quote values, which are patient data. This
conversion is silent and lenient, and reads text in the standard's character sets.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from pydicom import config
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_deferred_data_element
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from pacsroute.dataset.dictionary import implicit_vr_of, meant_vr
from pacsroute.dataset.value_reader import encodings, read_value, size_of_value
from pacsroute.memory import Holding

_LONGEST_KNOWN = 0xFFFF  # bytes of a value whose UN pydicom takes for the VR of its dictionary


class Frame(NamedTuple):
    """The context of the elements of a data set or item.

    Parameters
    ----------
    implicit : bool
        Whether their VR is.
    names : tuple of str
        The Specific Character Set, as `charsets.terms` gives it.
    signed : bool or None
        Whether the pixels are signed; None if unknown.
    depth : int
        The number of sequences around them.
    undefined : bool
        Whether they belong to an item that ends with a delimiter.
    """

    implicit: bool
    names: tuple[str, ...] = ()
    signed: bool | None = None
    depth: int = 0
    undefined: bool = False


class Reading(Protocol):
    """The reader of the rest of a data set, called on use: see `pacsroute.dataset.reader`."""

    holding: Holding

    def hold(self, size: int) -> None:
        """Count memory that is taken; raise if the process has no room for it."""

    def expect(self, items: int) -> None:
        """Raise if the process could not hold so many items."""

    def starts(self, data: bytes, frame: Frame) -> array[int]:
        """Return where the items of a sequence begin."""

    def item(self, data: bytes, start: int, frame: Frame) -> Dataset:
        """Return the item that begins at a place in the bytes of a sequence."""


class Received(Dataset):
    r"""A pydicom Dataset that a peer has sent.

    It is made by `pacsroute.dataset.parse`.

    Examples
    --------
    >>> from pacsroute.dataset import parse
    >>> parse(b"\x20\0\x13\0IS\2\0x ", "1.2.840.10008.1.2.1").InstanceNumber
    'x'
    """

    _reading: Reading | None = None
    _frame: Frame = Frame(False)

    def take_over(self, other: Received) -> None:
        """Read the rest as the data set does that the elements are from."""
        for name in ("_reading", "_frame", "_count", "_looked_at"):
            if name in other.__dict__:
                self.__dict__[name] = other.__dict__[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The Specific Character Set that its text came in, as `charsets.terms` gives it."""
        return self._frame.names

    def __getitem__(self, key: Any) -> Any:
        """Return an element, its value converted; or a Dataset of a slice of the tags."""
        if self._reading is not None and not isinstance(key, slice):
            if key.__class__ is not BaseTag:
                try:
                    key = Tag(key)
                except Exception as error:
                    raise KeyError(f"{key!r}") from error
            raw = self._dict[key]
            if isinstance(raw, RawDataElement):
                self._as_read[key] = raw
                element = self._converted(raw)
                if element is not None:
                    self._dict[key] = element
                    return element
                with contextlib.suppress(AttributeError, ValueError, TypeError):
                    return super().__getitem__(key)  # other elements decide between several VRs
        return super().__getitem__(key)

    def __eq__(self, other: object) -> bool:
        """Return whether another Dataset, of any kind, has the same elements."""
        if not isinstance(other, Dataset):
            return NotImplemented
        tags = self.keys()  # a Dataset iterates over its elements
        return tags == other.keys() and all(self[tag] == other[tag] for tag in tags)

    __hash__ = None  # type: ignore[assignment]

    @property
    def _as_read(self) -> dict[BaseTag, RawDataElement]:
        """The elements that were accessed, as received."""
        return cast("dict[BaseTag, RawDataElement]", self.__dict__.setdefault("_looked_at", {}))

    def vr_of(self, raw: RawDataElement) -> str | None:
        """Return the VR of an element as received; the dictionary's for implicit VR and UN.

        The result may name several, such as ``US or SS``; None if the VR is not known.
        """
        vr = raw.VR
        if vr is None:
            return implicit_vr_of(raw.tag, self._dict, raw.length, self._frame.signed)
        if vr == "UN" and (raw.length == 0xFFFFFFFF or raw.length < _LONGEST_KNOWN):
            return meant_vr(raw.tag, self._dict) or vr
        return vr

    def _converted(self, raw: RawDataElement) -> DataElement | None:
        """Convert an element; return None if pydicom has to."""
        if raw.value is None and raw.length:
            raw = _from_file(self, raw)
        tag, data = raw.tag, raw.value or b""
        undefined = raw.length == 0xFFFFFFFF
        vr = self.vr_of(raw)
        if vr is None or len(vr) > 2 or _as_configured(vr) or self._reading is None:
            return None
        if vr == "SQ":
            implicit = raw.is_implicit_VR or raw.VR == "UN"
            value: Any = self._sequence(data, implicit, self._reading)
            value.is_undefined_length = undefined
        else:
            self._reading.hold(size_of_value(vr, data))
            value = read_value(vr, data, raw.is_little_endian, self._frame.names)
        element = DataElement(tag, vr, value, raw.value_tell, undefined, already_converted=True)
        creator = BaseTag(tag & 0xFFFF_0000 | tag >> 8 & 0xFF)
        if tag.is_private and creator != tag and creator in self._dict:
            element.private_creator = self[creator].value
        return element

    def _sequence(self, data: bytes, implicit: bool, reading: Reading) -> ReceivedSequence:
        signed = self._frame.signed
        told = self._dict.get(BaseTag(0x00280103))
        if told is not None and told.value not in (None, b""):
            signed = 1 in told.value if isinstance(told.value, bytes) else told.value == 1
        frame = Frame(implicit, self._frame.names, signed, self._frame.depth + 1)
        return ReceivedSequence(reading, data, frame)


class ReceivedFile(Received, FileDataset):
    """A data set whose large values are read from its file when they are used."""


def _from_file(dataset: Any, raw: RawDataElement) -> RawDataElement:
    """Read a value that has stayed in the file of its data set."""
    is_open = dataset.buffer is not None and not dataset.buffer.closed
    source = dataset.buffer if is_open or not dataset.filename else dataset.filename
    return read_deferred_data_element(dataset.fileobj_type, source, None, raw)


def _as_configured(vr: str) -> bool:
    """Return whether the user has set pydicom to give values of a VR another type."""
    return (
        (config.datetime_conversion and vr in ("DA", "DT", "TM"))
        or (config.use_DS_numpy and vr == "DS")
        or (config.use_IS_numpy and vr == "IS")
    )


class ReceivedSequence(Sequence):
    """The items of a sequence, each read when it is first used."""

    def __init__(self, reading: Reading, data: bytes, frame: Frame) -> None:
        self._reading = reading
        self._data = data
        self._frame = frame
        self._starts = reading.starts(data, frame)
        self._opened: dict[int, Dataset] = {}
        self._changed: list[Dataset] | None = None

    @property
    def _list(self) -> list[Dataset]:
        """All items, for callers that change the sequence or need all of them."""
        if self._changed is None:
            self._changed = list(self)
        return self._changed

    @_list.setter
    def _list(self, items: list[Dataset]) -> None:
        self._changed = items

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._starts) if self._changed is None else len(self._changed)

    def __getitem__(self, index: Any) -> Any:
        """Return an item, or several."""
        if self._changed is not None or isinstance(index, slice):
            return self._list[index]
        number = range(len(self._starts))[index]
        item = self._opened.get(number)
        if item is None:
            item = self._opened[number] = self._read(number)
        return item

    def __iter__(self) -> Iterator[Dataset]:
        """Yield the items, which are kept."""
        if self._changed is not None:
            yield from self._changed
        else:
            self._reading.expect(len(self._starts))
            for number in range(len(self._starts)):
                yield self[number]

    def passing(self) -> Iterator[Dataset]:
        """Yield the items; an unused one takes no memory after the next is yielded."""
        if self._changed is not None:
            yield from self._changed
            return
        holding = self._reading.holding
        for number in range(len(self._starts)):
            held = holding.size
            yield self._opened.get(number) or self._read(number)
            holding.shrink(holding.size - held)

    def _read(self, number: int) -> Dataset:
        return self._reading.item(self._data, self._starts[number], self._frame)

    def is_edited(self) -> bool:
        """Return whether its items differ from those received."""
        if self._changed is not None:
            if len(self._changed) != len(self._starts):
                return True
            ours = (self._opened.get(number) for number in range(len(self._starts)))
            if any(a is not b for a, b in zip(ours, self._changed, strict=True)):
                return True
        return any(map(is_edited, self._opened.values()))


_Kind = TypeVar("_Kind", bound=Dataset)
_NEW = vars(Dataset())
_OWN = [name for name, value in _NEW.items() if isinstance(value, dict)]


def made(
    kind: type[_Kind],
    elements: dict[BaseTag, Any],
    implicit: bool | None,
    little: bool | None,
    names: tuple[str, ...],
    around: tuple[str, ...],
) -> _Kind:
    """Return a Dataset of some elements, as it was read.

    pydicom looks up each attribute that is set in the keyword dictionary, which takes as long as
    the rest of the work for an identifier.

    Parameters
    ----------
    kind : type
        Dataset, or a kind of it.
    elements : dict of tags to elements
        Its new elements.
    implicit, little : bool
        The encoding that it was received in.
    names, around : tuple of str
        The Specific Character Sets of the data set, and of the one around it.
    """
    dataset = kind.__new__(kind)
    own = list(encodings(names))
    state = dataset.__dict__
    state.update(_NEW)
    for name in _OWN:
        state[name] = _NEW[name].copy()
    state["_dict"] = elements
    state["_parent_encoding"] = own if names == around else list(encodings(around))
    state["_read_implicit"], state["_read_little"], state["_read_charset"] = implicit, little, own
    return dataset


def open_all(dataset: Dataset) -> None:
    """Read all sequences of a data set, and those in their items."""
    for tag, element in list(dataset.items()):
        if element.VR == "SQ":
            for item in dataset[tag].value:
                open_all(item)


def is_edited(dataset: Dataset) -> bool:
    """Return whether a parsed data set was changed.

    Only the elements that were accessed are compared, with the bytes they were read from.

    Parameters
    ----------
    dataset : Dataset
        As `pacsroute.dataset.parse` has returned it.
    """
    if not isinstance(dataset, Received) or dataset._reading is None:
        return True  # the user added it
    looked_at = dataset._as_read
    if len(dataset) != dataset.__dict__["_count"]:
        return True
    for tag, element in dataset.items():
        if isinstance(element, RawDataElement):
            continue
        raw = looked_at.get(tag)
        if raw is None:
            return True
        sequence = element.value if element.VR == "SQ" else None
        if isinstance(sequence, ReceivedSequence) and sequence._data is raw.value:
            if sequence.is_edited():
                return True
            continue
        if not _same(element, _read_again(dataset, raw)):
            return True
    return False


def _read_again(dataset: Received, raw: RawDataElement) -> DataElement:
    again = type(dataset).__new__(type(dataset))
    again.__dict__.update(dataset.__dict__)
    again.__dict__.update(_dict={**dataset._dict, raw.tag: raw}, _looked_at={})
    return cast("DataElement", again[raw.tag])


def _same(one: DataElement, other: DataElement) -> bool:
    """Return whether two elements have the same value; NaN is the same as NaN."""
    if one.VR != other.VR:
        return False
    if one.VR == "SQ":
        return len(one.value) == len(other.value) and all(map(_same_item, one.value, other.value))
    if one.value == other.value:
        return True
    return not isinstance(one.value, bytes) and repr(one.value) == repr(other.value)


def _same_item(one: Dataset, other: Dataset) -> bool:
    tags = one.keys()  # a Dataset iterates over its elements
    return tags == other.keys() and all(_same(one[tag], other[tag]) for tag in tags)
