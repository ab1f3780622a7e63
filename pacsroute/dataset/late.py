"""The late import of pydicom, which takes most of a server's start.

With NumPy it takes several times as long as everything else, so importing pacsroute does not import
it. A server listens before the import: peers that connect wait in its socket's queue for a fifth of
a second. But one thread must finish the import before others need it: pydicom's modules import each
other in a cycle, and two threads that enter it at different places break each other's import. So
`BaseApp.running` calls `load` before lifespans run and threads start, and so do other late imports.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from pydicom import Dataset


_importing = threading.Lock()
_loaded = False


def load() -> None:
    """Import pydicom and everything that it imports, on this thread only."""
    global _loaded  # noqa: PLW0603 - imported or not is a fact of the process
    if not _loaded:
        with _importing:
            import pydicom  # noqa: F401, PLC0415

            _loaded = True


def is_dataset(value: object) -> TypeGuard[Dataset]:
    """Return whether something is a pydicom Dataset; always False before pydicom is imported.

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
    load()
    from pydicom import Dataset  # noqa: PLC0415

    return Dataset()
