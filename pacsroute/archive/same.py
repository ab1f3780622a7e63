"""Compare the contents of two instances in any transfer syntax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pacsroute import uids
from pacsroute.instances.convert import can_convert
from pacsroute.instances.instance import Instance

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

_PIECE = 1 << 20
# These affect how a data set is encoded, not its content: the character set, trailing padding.
_MANNER = frozenset({0x0008_0005, 0xFFFC_FFFC})


def is_same(one: Instance, other: Instance) -> bool:
    """Return whether two instances have equal values and pixels.

    The same image in another transfer syntax is equal. If the pixels of one cannot be decoded
    here, the two do not count as equal.

    Raises
    ------
    DataSetError, OSError
        If one of them cannot be read.
    """
    if one.transfer_syntax == other.transfer_syntax and _same_bytes(one, other):
        return True
    if one.transfer_syntax == other.transfer_syntax:
        return _same_item(one.dataset, other.dataset)
    return _same_item(*(_native(instance) for instance in (one, other)))


def _same_bytes(one: Instance, other: Instance) -> bool:
    with one.open() as first, other.open() as second:
        while True:
            piece = first.read(_PIECE)
            if piece != second.read(_PIECE):
                return False
            if not piece:
                return True


def _native(instance: Instance) -> Dataset:
    """Return a data set in Explicit VR Little Endian, if it can be converted."""
    target = uids.EXPLICIT_VR_LITTLE_ENDIAN
    syntax = instance.transfer_syntax
    if not can_convert(syntax, target):
        return instance.dataset
    with instance.open_as(target) as file:
        return Instance(file.read(), transfer_syntax=target).dataset


def _same_item(one: Dataset, other: Dataset) -> bool:
    tags = _tags(one)
    return tags == _tags(other) and all(_same(one[tag], other[tag]) for tag in tags)


def _tags(dataset: Dataset) -> list[int]:
    """Return the tags that carry content: no group lengths, and none of `_MANNER`."""
    return [tag for tag in sorted(dataset.keys()) if tag not in _MANNER and tag & 0xFFFF]


def _same(one: DataElement, other: DataElement) -> bool:
    first: Any = one.value
    second: Any = other.value
    if one.VR == "SQ" and other.VR == "SQ":
        return len(first) == len(second) and all(map(_same_item, first, second))
    if bool(first == second):
        return True
    if not first and not second:  # None, an empty text and an empty list
        return bool(first != 0 and second != 0)
    return not isinstance(first, bytes) and repr(first) == repr(second)  # NaN is not equal to NaN
