"""Observe HTTP requests and responses, for ``--trace``."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pacsroute.trace.http import HttpExchange

logger = logging.getLogger("pacsroute")

Tap = Callable[[HttpExchange], object]


class Tapped:
    """A WSGI application that shows each exchange to observers after its end.

    Parameters
    ----------
    answer : callable
        The application.
    taps : sequence of callable
        Called with each `HttpExchange`.
    root : str
        The path of DICOMweb.
    """

    def __init__(self, answer: Any, taps: Sequence[Tap], root: str) -> None:
        self._answer = answer
        self._taps = taps
        self._root = root

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a WSGI request."""
        began, at = time.time(), time.perf_counter()
        said: list[Any] = ["", []]

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            said[:] = [status, headers]
            return start_response(status, headers, *more)

        def ended(size: int) -> None:
            path = str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace")
            exchange = HttpExchange(
                began,
                str(environ.get("REMOTE_ADDR") or ""),
                str(environ.get("REQUEST_METHOD")),
                path,
                str(environ.get("QUERY_STRING") or ""),
                path == self._root or path.startswith(f"{self._root.rstrip('/')}/"),
                list(_headers(environ)),
                said[1],
                said[0],
                size,
                time.perf_counter() - at,
            )
            for tap in self._taps:
                try:
                    tap(exchange)
                except Exception:
                    logger.exception("a tap failed")

        return _Counted(self._answer(environ, start), ended)


class _Counted:
    """The body of a response, counted while it is sent."""

    def __init__(self, chunks: Iterable[bytes], ended: Callable[[int], None]) -> None:
        self._chunks, self._ended, self._size = chunks, ended, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._size += len(chunk)
            yield chunk

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._ended, self._size)
            close = getattr(self._chunks, "close", None)
            if close is not None:
                close()


def _headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(environ.items()):
        if name.startswith("HTTP_"):
            yield name[5:].replace("_", "-").title(), str(value)
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield name.replace("_", "-").title(), str(value)
