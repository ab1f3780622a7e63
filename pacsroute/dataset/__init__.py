"""Data sets and their values: bytes to pydicom and back (PS3.5).

Parsing and writing them needs pydicom, which takes longer to import than all of pacsroute.
Here it is imported when it is first used: ``from pacsroute import dataset``, then
``dataset.parse(…)``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pacsroute.dataset import late

if TYPE_CHECKING:
    from pacsroute.dataset.encoding import RowEncoder, encode
    from pacsroute.dataset.from_json import from_dicom_json
    from pacsroute.dataset.json_model import dicom_json, json_of
    from pacsroute.dataset.parsing import identifier, name_syntax, parse
    from pacsroute.dataset.received import is_edited

__all__ = [
    "RowEncoder",
    "dicom_json",
    "encode",
    "from_dicom_json",
    "identifier",
    "is_edited",
    "json_of",
    "name_syntax",
    "parse",
]

_HOMES = {
    "RowEncoder": "encoding",
    "dicom_json": "json_model",
    "encode": "encoding",
    "from_dicom_json": "from_json",
    "identifier": "parsing",
    "is_edited": "received",
    "json_of": "json_model",
    "name_syntax": "parsing",
    "parse": "parsing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    late.load()
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
