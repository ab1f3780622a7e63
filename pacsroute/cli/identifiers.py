"""The matching keys of a command line, and the display of matches."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import click
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import Tag

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.vr import NUMBER_FORMATS, SINGLE_VRS
from pacsroute.errors import DataSetError, SetupError
from pacsroute.framework.requests import LEVELS

Path = tuple[str, ...]
"""The keywords of a key: those of its sequences, then its own."""

_STEP = re.compile(r"(\([0-9A-F]{4},\s?[0-9A-F]{4}\)|\w+)(?:\[(\d+)\])?", re.IGNORECASE)
_TAG = re.compile(r"\(?([0-9A-F]{4}),?\s?([0-9A-F]{4})\)?", re.IGNORECASE)
_CONTROLS = re.compile("[\x7f-\x9f]")  # terminals treat some of them like ESC
_NARROWEST = 6  # minimum width of a column in cells


def read_keys(texts: Iterable[str]) -> tuple[dict[str, Any], list[Path]]:
    r"""Return the identifier for the keys of a command line, and its columns.

    Parameters
    ----------
    texts : iterable of str
        ``Keyword=value``, ``(gggg,eeee)=value`` or ``Sequence[0].Keyword=value``. A key without a
        value is only returned; a backslash separates several values.

    Raises
    ------
    DataSetError
        If a key is not valid; the message names it.

    Examples
    --------
    >>> read_keys(["PatientID=1", "RequestAttributesSequence.RequestedProcedureID"])[0]
    {'PatientID': '1', 'RequestAttributesSequence': [{'RequestedProcedureID': None}]}
    """
    keys: dict[str, Any] = {}
    columns: dict[Path, None] = {}
    for text in texts:
        columns[_add(keys, text)] = None
    encode(keys, uids.EXPLICIT_VR_LITTLE_ENDIAN)  # a value that does not fit is reported here
    return keys, list(columns)


def _add(keys: dict[str, Any], text: str) -> Path:
    where, _, value = text.partition("=")
    *sequences, (keyword, number) = [_step(part, text) for part in where.split(".")]
    for name, index in sequences:
        if dictionary_VR(name) != "SQ":
            raise DataSetError(f"{text!r}: {name} is not a sequence")
        items = keys.setdefault(name, [])
        if (index or 0) > len(items):
            raise DataSetError(f"{text!r}: the items before [{index}] are missing")
        if (index or 0) == len(items):
            items.append({})
        keys = items[index or 0]
    if number is not None:
        raise DataSetError(f"{text!r}: a number is for an item, as in {keyword}[0].Keyword")
    if keyword in keys:
        raise DataSetError(
            f"{keyword} is given twice: separate several values, as in {keyword}=A\\B"
        )
    keys[keyword] = _value(keyword, value)
    return (*(name for name, _ in sequences), keyword)


def _step(part: str, text: str) -> tuple[str, int | None]:
    """Return the keyword of one step of a path, and the number of its item."""
    found = _STEP.fullmatch(part.strip())
    if found is None:
        raise DataSetError(f"{text!r} is not Keyword=value, as in PatientID=4711")
    name, number = found.groups()
    if tag := _TAG.fullmatch(name):
        name = keyword_for_tag(Tag("".join(tag.groups())))
        if not name:
            raise DataSetError(f"{text!r}: no attribute of the dictionary has that tag")
    encode({name: None}, uids.EXPLICIT_VR_LITTLE_ENDIAN)  # which suggests another, if need be
    return name, None if number is None else int(number)


def _value(keyword: str, text: str) -> Any:
    vr = dictionary_VR(keyword)
    if vr == "SQ":
        if text:
            raise DataSetError(f"{keyword} is a sequence: use {keyword}.Keyword=value")
        return []
    if not text:
        return None
    convert: Any = str
    if vr in NUMBER_FORMATS or vr == "US or SS":
        convert = float if vr in ("FD", "FL") else int
    try:
        values = [convert(one) for one in ([text] if vr in SINGLE_VRS else text.split("\\"))]
    except ValueError:
        raise DataSetError(f"{keyword}={text}: its values are numbers") from None
    return values[0] if len(values) == 1 else values


def _read(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[dict[str, Any], list[Path]]:
    try:
        return read_keys(texts)
    except DataSetError as error:
        raise click.BadParameter(str(error)) from None


def named(text: str, command: str) -> str:
    """Return the UID of a SOP class that an option names."""
    try:
        return uids.sop_class(text, command)
    except SetupError as error:
        raise click.BadParameter(str(error)) from None


def asks_for(service: str, models: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of an identifier; it is called with that and the SOP class."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(
            *arguments: Any,
            keys: tuple[dict[str, Any], list[Path]],
            sop_class: str,
            level: str | None,
            **others: Any,
        ) -> None:
            identifier, columns = keys
            has_levels = sop_class in uids.QUERY_RETRIEVE[service].values()
            if level and not has_levels:
                raise click.UsageError("--level is for StudyRoot and PatientRoot only")
            if has_levels:
                identifier = {"QueryRetrieveLevel": level or "STUDY", **identifier}
            if service == "find":
                others["columns"] = columns
            function(*arguments, identifier=identifier, sop_class=sop_class, **others)

        for option in (
            click.option(
                "--level",
                type=click.Choice(LEVELS, case_sensitive=False),
                help="Query/Retrieve Level; the default is STUDY.",
            ),
            click.option(
                "--sop-class",
                "--model",
                "sop_class",
                metavar=f"{models}|UID",
                default="StudyRoot",
                show_default=True,
                callback=lambda context, option, text: named(text, service),
                help="The information model, or the UID of another SOP class.",
            ),
            click.option(
                "-k",
                "--key",
                "keys",
                metavar="KEYWORD[=VALUE]",
                multiple=True,
                required=True,
                callback=_read,
                help="An attribute to match or, without a value, to return; may be given several "
                "times.",
            ),
        ):
            command = option(command)
        return command

    return decorate
