"""Silence libraries while an app runs, because they log data of peers."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from pacsroute.framework.counted import Counted

_LIBRARIES = "pydicom", "openjpeg", "pylibjpeg", "libjpeg", "rle"
_USUAL = logging.NOTSET, logging.WARNING  # pydicom sets WARNING


@contextlib.contextmanager
def _quieted() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = {logger: logger.level for logger in loggers if logger.level in _USUAL}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    shown = list(warnings.filters)
    for logger in before:
        warnings.filterwarnings("ignore", module=rf"{logger.name}(\.|$)")
    ours = [one for one in warnings.filters if one not in shown]
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
        for one in ours:
            with contextlib.suppress(ValueError):  # the program has reset the filters
                warnings.filters.remove(one)  # type: ignore[attr-defined]


quiet_libraries = Counted(_quieted)
"""While held, as while an app runs, pydicom and the decoders issue no log messages or warnings.

Their messages quote values, which are patient data, and a peer decides how many are logged.
Problems that affect a response are logged once, by pacsroute. A library whose logger level you
have set, for example to ``INFO``, is left alone.
"""
