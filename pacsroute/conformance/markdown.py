"""The Markdown of the statement: tables, sub-sections, and sections for the vendor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BLANK = "To be completed"
"""The mark for places that only the vendor can fill in."""

YES, NO = "Y", "N"


def blank(what: str) -> str:
    """Return the mark for a fact that only the vendor knows.

    Examples
    --------
    >>> blank("name of the product")
    '**To be completed:** name of the product'
    """
    return f"**{BLANK}:** {what}"


def heading(number: str, title: str, *, applies: bool = True) -> str:
    """Return the heading of a section, marked as in PS3.2 Annex N if it does not apply.

    Examples
    --------
    >>> heading("1.4", "Media Services", applies=False)
    '### 1.4 Media Services - N/A'
    """
    level = min(number.removeprefix("A.").count(".") + 2, 6)
    return f"{'#' * level} {number} {title}{'' if applies else ' - N/A'}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; vertical bars in cells are escaped.

    Examples
    --------
    >>> print(table(["Name", "Value"], [["PDU", 4096]]))
    | Name | Value |
    | --- | --- |
    | PDU | 4096 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def text(*blocks: str) -> str:
    """Join paragraphs, tables and headings, leaving out empty ones."""
    return "\n\n".join(block for block in blocks if block)
