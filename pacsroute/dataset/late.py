"""pydicom, late: importing it takes most of what a server needs to start.

With NumPy behind it that is several times as long as all else together. What only has to
know a Dataset when it sees one asks here; what parses or writes one is imported when the
first comes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from pydicom import Dataset


def is_dataset(value: object) -> TypeGuard[Dataset]:
    """Tell whether something is a pydicom Dataset: nothing is before pydicom is imported.

    Examples
    --------
    >>> is_dataset(empty()), is_dataset({})
    (True, False)
    """
    # Another thread may be in the middle of importing it.
    kind = getattr(sys.modules.get("pydicom.dataset"), "Dataset", None)
    return kind is not None and isinstance(value, kind)


def empty() -> Dataset:
    """Return an empty Dataset."""
    from pydicom import Dataset  # noqa: PLC0415

    return Dataset()


class _Reading:
    """How many apps run, and how pydicom reads without them."""

    apps = 0
    before: int | None = None


def settle() -> None:
    """Have pydicom not complain about values that it reads while an app runs.

    Its warnings quote them; they are patient data, and Python remembers each warning for
    as long as it runs. This is called when that changes, and when pydicom is imported.
    """
    config: Any = sys.modules.get("pydicom.config")
    settings = getattr(config, "settings", None)
    if settings is None:  # or another thread is in the middle of importing it
        return
    if _Reading.apps:
        if _Reading.before is None and settings.reading_validation_mode == config.WARN:
            _Reading.before = settings.reading_validation_mode
            settings.reading_validation_mode = config.IGNORE
    elif _Reading.before is not None:
        settings.reading_validation_mode = _Reading.before
        _Reading.before = None


@contextlib.contextmanager
def quiet_reading() -> Iterator[None]:
    """Hold this while an app runs; see `settle`."""
    _Reading.apps += 1
    settle()
    try:
        yield
    finally:
        _Reading.apps -= 1
        settle()
