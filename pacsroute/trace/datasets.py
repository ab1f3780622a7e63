"""A data set as lines of text; values that may contain patient data are masked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from pacsroute import uids
from pacsroute.trace.layout import dim, printable, shortened
from pacsroute.trace.safe import is_safe

_STEP = 2  # characters of indentation per level
_MANY = 100  # longer lists of values are not shown
_PIXELS = 0x7FE0
_KEYWORD = 32  # longer keywords are not aligned


def lines(
    dataset: Dataset, width: int, indent: int, *, values: bool, masked: bool = True
) -> Iterator[str]:
    """Return the lines of a data set.

    Parameters
    ----------
    dataset : pydicom.Dataset
        A data set with all values converted: see `pacsroute.dataset.parsing.readable`.
    width, indent : int
        The width of the terminal and of the left margin, in characters.
    values : bool
        Whether to show values that may contain patient data, too.
    masked : bool
        Whether masked elements get a line each; otherwise they are only counted.
    """
    elements = [one for one in dataset if values or masked or _tells(one)]
    column = min(_KEYWORD, max((len(name(one)) for one in elements), default=0))
    for element in elements:
        head = f"{' ' * indent}({element.tag.group:04X},{element.tag.element:04X}) {element.VR} "
        label = f"{name(element):<{column}}  "
        text, is_value = _value(element, values=values)
        room = width - len(head) - len(label)
        if is_value and element.VR == "UI" and len(text) > room:  # half a UID is useless
            yield dim(head) + name(element)
            yield f"{' ' * (indent + 2 * _STEP)}{text}"
        else:
            yield f"{dim(head)}{label}{shortened(text, room) if is_value else dim(text)}".rstrip()
        if element.VR == "SQ":
            for number, item in enumerate(element.value, 1):
                yield dim(f"{' ' * (indent + _STEP)}item {number}")
                deeper = indent + 2 * _STEP
                yield from lines(item, width, deeper, values=values, masked=masked)
    if hidden := len(dataset) - len(elements):
        yield dim(f"{' ' * indent}and {hidden} more, masked")


def _tells(element: DataElement) -> bool:
    """Return whether a value of an element, or of one in its items, is shown."""
    if element.VR == "SQ":
        return any(_tells(one) for item in element.value for one in item)
    if element.tag.group == _PIXELS:
        return True  # only their presence and size are shown
    return is_safe(element.tag, texts(element) or [])


def name(element: DataElement) -> str:
    """Return an element's keyword, or a description if it has none."""
    private = "private element" if element.tag.is_private else "unknown element"
    return keyword_for_tag(element.tag) or private


def value(element: DataElement, width: int, *, values: bool) -> str:
    """Return an element's value as a text of at most this many characters, masked if necessary."""
    text, is_value = _value(element, values=values)
    return shortened(text, width) if is_value else text


def _value(element: DataElement, *, values: bool) -> tuple[str, bool]:
    """Return a value or the text that replaces it, and which of the two it is."""
    if element.VR == "SQ":
        count = len(element.value)
        return "1 item" if count == 1 else f"{count} items", False
    held = texts(element)
    if held is None:
        return f"{len(element.value):,} bytes", False
    if not any(held):
        return "no value", False
    if len(held) > _MANY:
        return f"{len(held):,} values", False
    if values or is_safe(element.tag, held):
        named = map(uids.name, held) if element.VR == "UI" else held
        return printable("\\".join(named)), True
    if len(held) > 1:
        return f"masked, {len(held)} values", False
    return f"masked, {len(held[0])} characters", False


def texts(element: DataElement) -> list[str] | None:
    """Return the values of an element as texts; None if they are bytes."""
    held: Any = element.value
    if isinstance(held, bytes):
        return None if held else []
    if held is None:
        return []
    return [str(one) for one in held] if isinstance(held, (MultiValue, list)) else [str(held)]
