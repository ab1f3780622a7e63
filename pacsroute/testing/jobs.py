"""The durable work of an app in a test: a queue in memory, whose delays pass immediately."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pacsroute.framework.base import BaseApp


@contextlib.contextmanager
def jobs_in_memory(app: BaseApp) -> Iterator[Callable[[], None]]:
    """Give an app an empty queue in memory; yield a function that runs all waiting jobs.

    The file or database of its setting `jobs` is never opened.
    """
    from pacsroute.jobs.opening import MadeTime, open_in_memory  # noqa: PLC0415 - only in tests
    from pacsroute.jobs.work import Work  # noqa: PLC0415

    folder = Path(tempfile.gettempdir()) / f"pacsroute-jobs-{uuid.uuid4().hex}"
    now = MadeTime()
    client: Any = app
    work = Work(app, client.connect, lambda: open_in_memory(folder, now), runs=False)
    before = app.__dict__.get("work")
    app.__dict__["work"] = work  # the cached value of `App.work`
    try:
        yield lambda: work.drain(now)
    finally:
        work.close()
        shutil.rmtree(folder, ignore_errors=True)
        del app.__dict__["work"]
        if before is not None:
            app.__dict__["work"] = before
