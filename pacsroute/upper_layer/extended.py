"""SOP Class Extended Negotiation: its bytes by name (PS3.7 §D.3.3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pacsroute.errors import SetupError

# PS3.4 §C.5.1.1, §C.5.2.1, §C.5.3.1: one byte for each option, 0 or 1.
_FIND = (
    "relational",
    "date_time",
    "fuzzy",
    "time_zone",
    "enhanced_multi_frame",
    "empty_value",
    "multiple_value",
)
_RETRIEVE = ("relational", "enhanced_multi_frame")
# PS3.4 §B.3.1: one byte for each level; the empty names are reserved.
_STORE = ("level", "", "signature", "", "coercion", "")

_NAMES: dict[str, tuple[str, ...]] = {
    "find": _FIND,
    "get": _RETRIEVE,
    "move": _RETRIEVE,
    "store": _STORE,
}

Agreed = Mapping[str, int]


def supported(command: str, what: Iterable[str] | Mapping[str, int] | None) -> bytes:
    """Return the bytes for a route's options.

    Parameters
    ----------
    command : str
        ``find``, ``get``, ``move`` or ``store``.
    what : iterable of str, or mapping of str to int
        The supported options; for a store, with their levels.

    Raises
    ------
    SetupError
        If the command has no extended negotiation.

    Examples
    --------
    >>> supported("find", ["relational", "fuzzy"]).hex()
    '01000100000000'
    """
    if what is None:
        return b""
    if isinstance(what, str):
        raise SetupError(f"@app.{command}: extended must be a list of names, not one text")
    levels: dict[str, Any] = dict(what) if isinstance(what, Mapping) else dict.fromkeys(what, 1)
    names = _NAMES[command]
    for name in levels:
        if not name or name not in names:
            known = ", ".join(filter(None, names))
            raise SetupError(f"@app.{command}: extended has no {name!r}; it has {known}")
    return bytes(levels.get(name, 0) for name in names)


def answer(command: str, supported: bytes, offered: bytes, *, worklist: bool = False) -> bytes:
    """Return the answer to an offer: as many bytes as were offered, up to those known.

    For a query, the requestor proposes options, and the answer keeps the supported ones; a storage
    SCP answers with its own support. In a worklist the first two bytes are always 1 (PS3.4
    §K.5.1.2).

    Examples
    --------
    >>> answer("find", supported("find", ["fuzzy"]), bytes([1, 1, 1])).hex()
    '000001'
    >>> answer("find", supported("find", ["fuzzy"]), bytes([1, 1, 1]), worklist=True).hex()
    '010101'
    """
    if command == "store":
        return supported[: len(offered)]
    left = bytes(ours & theirs & 1 for ours, theirs in zip(supported, offered, strict=False))
    return b"\1\1"[: len(left)] + left[2:] if worklist else left


def agreed(command: str, information: bytes) -> Agreed:
    """Return the agreed options, by name.

    Examples
    --------
    >>> agreed("get", bytes([1, 0]))
    {'relational': 1, 'enhanced_multi_frame': 0}
    """
    names = _NAMES.get(command, ())
    return {name: value for name, value in zip(names, information, strict=False) if name}
