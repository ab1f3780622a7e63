"""The log: lines that a peer's data cannot forge, and their fields for associations."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from types import FunctionType
from typing import Any

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """Formats each record as one line of JSON, with the fields of its ``extra``.

    Examples
    --------
    >>> record = logging.makeLogRecord({"msg": "stored", "levelname": "INFO", "bytes": 512})
    >>> fields = json.loads(JSONFormatter().format(record))
    >>> fields["level"], fields["message"], fields["bytes"]
    ('info', 'stored', 512)
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _USUAL}
        fields = fields | extra.pop("dicom", {}) | extra | fields  # in this order; none replaced
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class LineFormatter(logging.Formatter):
    r"""Formats each record as one line, followed by its traceback, marked with a bar.

    Both may contain text from a peer that looks like another record.

    Examples
    --------
    >>> record = logging.makeLogRecord({"msg": "stored\n2026-01-01 INFO", "levelname": "INFO"})
    >>> LineFormatter("%(levelname)s %(message)s").format(record)
    'INFO stored\\n2026-01-01 INFO'
    """

    # Each is one tuple, since several threads write lines.
    _second = (-1, "")  # the last second and its text
    _start: tuple[tuple[int, int, int], str] = ((-1, 0, 0), "")  # of the lines in the last second

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time of a record; each second is formatted once for all its lines."""
        if datefmt is not None:
            return super().formatTime(record, datefmt)
        number, text = self._second
        if number != int(record.created):
            number = int(record.created)
            text = self._until_second(number)
            self._second = number, text
        return f"{text},{int(record.msecs):03}"

    def _until_second(self, number: int) -> str:
        return time.strftime(self.default_time_format, self.converter(number))

    def line(self, level: int, message: str) -> str:
        """Return the line of a message without a record, as `format` does for one made now.

        All but the milliseconds and the message is formatted once in a second.
        """
        now = time.time()
        second = int(now)
        of, start = self._start
        if of != (second, level, os.getpid()):
            of = second, level, os.getpid()
            start = str(self._fmt) % {
                "asctime": f"{self._until_second(second)},%03d",
                "process": os.getpid(),
                "levelname": logging.getLevelName(level),
                "message": "%s",
            }
            self._start = of, start
        return _printable(start % ((now - second) * 1000, message))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in logging
        """Return the record's line."""
        return _printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the lines of a traceback."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  | {_printable(line)}" for line in lines)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class LineHandler(logging.StreamHandler[Any]):
    """The log of a server process: lines on standard error, for which `write` makes no records."""

    def put(self, level: int, message: str) -> bool:
        """Write the line of a message; return False if it takes a record to make one."""
        if type(self.formatter) is not LineFormatter:
            return False
        try:
            line = self.formatter.line(level, message) + self.terminator
        except Exception:  # noqa: BLE001 - a format with more than `line` knows
            return False
        try:
            with self.lock or nullcontext():
                self.stream.write(line)
                self.stream.flush()
        except Exception:  # noqa: BLE001 - the stream may have kept the line, so not once more
            self.handleError(logging.makeLogRecord({"levelno": level, "msg": message}))
        return True


# Sentry and others replace it, perhaps before this module is imported.
_CALL_HANDLERS: object = logging.Logger.callHandlers
if type(_CALL_HANDLERS) is not FunctionType or _CALL_HANDLERS.__globals__ is not vars(logging):
    _CALL_HANDLERS = None


def _line_handler(logger: logging.Logger) -> LineHandler | None:
    """Return the handler of a logger's lines, if nothing else sees its records."""
    handler = logging.root.handlers[0] if len(logging.root.handlers) == 1 else None
    is_seen_by_others = (
        logger.handlers
        or logger.filters
        or logger.disabled
        or not logger.propagate
        or logger.parent is not logging.root
        or logging.getLogRecordFactory() is not logging.LogRecord
        or type(logger).callHandlers is not _CALL_HANDLERS
    )
    if type(handler) is not LineHandler or handler.filters or is_seen_by_others:
        return None
    return handler


def write(
    logger: logging.Logger,
    level: int,
    text: str,
    *args: object,
    extra: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Log a line for every association or request.

    A record costs twice as much as its line. So it is made only if something else than a
    `LineHandler` may see it, and it names no caller.

    Parameters
    ----------
    logger : logging.Logger
        The logger.
    level : int
        The level.
    text : str
        The message with its placeholders, and then the values.
    extra : callable, optional
        Returns the ``extra`` of the record.
    """
    if not logger.isEnabledFor(level):
        return
    handler = _line_handler(logger)
    if handler is not None and (level < handler.level or handler.put(level, text % args)):
        return
    values = None if extra is None else extra()
    record = logger.makeRecord(logger.name, level, "", 0, text, args, None, extra=values)
    logger.handle(record)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "answer"), counted(2, "answer")
    ('1 answer', '2 answers')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def about(who: Any, **fields: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log record that says whose association or request it is about.

    It is a single attribute, ``dicom``, because each one costs a third of a microsecond.
    """
    return {
        "dicom": {
            "association": getattr(who, "id", None),
            "peer": who.remote_address,
            "calling_ae": who.calling_ae,
            "called_ae": who.called_ae,
            **fields,
        }
    }
