"""Data sets and their values: bytes to pydicom and back (PS3.5).

What parses and writes them needs pydicom, which takes longer to import than all of pacsroute.
Here it is imported when it is first used: ``from pacsroute import dataset``, then
``dataset.parse(…)``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pacsroute.dataset import late

if TYPE_CHECKING:
    from pacsroute.dataset.encoding import RowEncoder, encode
    from pacsroute.dataset.parsing import identifier, parse
    from pacsroute.dataset.received import is_edited

__all__ = ["RowEncoder", "encode", "identifier", "is_edited", "parse"]

_HOMES = {
    "RowEncoder": "encoding",
    "encode": "encoding",
    "identifier": "parsing",
    "is_edited": "received",
    "parse": "parsing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    late.load()
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
