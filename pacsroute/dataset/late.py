"""The late import of pydicom, which takes most of a server's start.

With NumPy that takes several times as long as everything else, so importing pacsroute does not
import it. A server listens before that is done: peers that connect wait in the queue of its socket
for a fifth of a second. But it is done on one thread, before any other can ask for it: the modules
of pydicom import each other in a circle, and two threads that enter this at different places break
each other's import. So `BaseApp.running` calls `load` before lifespans run and threads begin, and
so do other late imports.
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
    """Import pydicom, whatever else it imports included, on this thread only."""
    global _loaded  # noqa: PLW0603 - imported or not is a fact of the process
    if not _loaded:
        with _importing:
            import pydicom  # noqa: F401, PLC0415

            _loaded = True


def is_dataset(value: object) -> TypeGuard[Dataset]:
    """Return whether something is a pydicom Dataset: nothing is before pydicom is imported.

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
