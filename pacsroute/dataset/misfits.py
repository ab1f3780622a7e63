"""Rows with values that cannot be written: the rest of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

from pacsroute.dataset import charsets
from pacsroute.dataset.keywords import tag_and_vr
from pacsroute.dataset.vr import Row, Syntax, several
from pacsroute.dataset.writer import Encoder
from pacsroute.errors import DataSetError


def what_fits(
    row: Row, how: Syntax, above: tuple[Row, ...] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a row that can be written, and the keywords of the others.

    Each value is tried separately, which is slow: use it only for rows that could not be written
    as a whole. Private attributes of a Dataset are left out.

    Parameters
    ----------
    row : mapping of str or Dataset
        The row. It is not changed.
    how : Syntax
        The transfer syntax and character set to write.
    above : tuple of rows
        The rows around it, the innermost first.

    Raises
    ------
    DataSetError
        An unknown keyword, or an object that is not a row.
    """
    if not isinstance(row, (Mapping, Dataset)):
        raise DataSetError(f"a row must be a mapping or a Dataset, not {type(row).__name__}")
    encoder, rows = Encoder(how), (row, *above)
    kept: dict[str, Any] = {}
    lost: list[str] = []
    for keyword in filter(None, row.dir()) if isinstance(row, Dataset) else row:
        _, vr = tag_and_vr(keyword)
        try:
            value = row[keyword].value if isinstance(row, Dataset) else row[keyword]
            items = several(value) if vr == "SQ" and value is not None else None
            if items is None:
                encoder.data_set({keyword: value}, charsets.UTF8, (), rows)
            else:
                found = [what_fits(item, how, rows) for item in items]
                value = [item for item, _ in found]
                lost += [name for _, names in found for name in names]
        except Exception:  # noqa: BLE001 - of a Dataset, pydicom raises whatever comes up
            lost.append(keyword)
        else:
            kept[keyword] = value
    return kept, lost
