"""The program of a decoder: it does one job after the other until its server has ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO

from pacsroute import uids
from pacsroute.child_processes import begin_child
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import parse
from pacsroute.errors import DataSetError
from pacsroute.instances.decoding.channel import hear, tell
from pacsroute.instances.decoding.conversion import Bounds, convert, inflated
from pacsroute.instances.decoding.decoders import (
    Packer,
    check_decoder,
    check_frame,
    decode_frame,
)
from pacsroute.instances.decoding.watch import Watch, limit_memory, memory
from pacsroute.instances.frames import Frames
from pacsroute.instances.pictures import Options
from pacsroute.instances.pixel_data import ImagePixel
from pacsroute.instances.reading import reader

_LARGEST = 8  # times a frame has to fit into the memory: decoders have several copies of it
_COPIES = 2  # times the picture has to fit
_LARGE = 1_048_576  # bytes of a value that stays in the file
_LEAK = 4  # the part of the memory that may be gone when a job is done


def _convert(
    job: dict[str, Any], source: BinaryIO, out: BinaryIO, bounds: Bounds
) -> dict[str, Any]:
    """Write the data set in another transfer syntax."""
    convert(source, job["source"], job["target"], out, bounds, bare=job["bare"])
    return {}


def _frame(job: dict[str, Any], source: BinaryIO, out: BinaryIO, bounds: Bounds) -> dict[str, Any]:
    """Write the pixels of one frame, in little endian; return what describes them."""
    image, pieces = _decoded(*_inflated(job, source, bounds), job["number"], bounds)
    bounds.announce(sum(map(len, pieces)))
    for piece in pieces:
        out.write(piece)
    return image._asdict()


def _picture(
    job: dict[str, Any], source: BinaryIO, out: BinaryIO, bounds: Bounds
) -> dict[str, Any]:
    """Write one frame as a picture."""
    from pacsroute.instances.decoding.rendering import draw, weight  # noqa: PLC0415 - with Pillow

    source, syntax = _inflated(job, source, bounds)
    start = source.tell()
    dataset = parse(source, syntax, defer_size=_LARGE, limits=bounds.limits)
    source.seek(start)
    image, pieces = _decoded(source, syntax, job["number"], bounds)
    options = Options(**{name: _frozen(value) for name, value in job["options"].items()})
    if (size := weight(image, options)) > job["memory"] // _COPIES:
        raise DataSetError(f"a picture of about {size} bytes is too much for decode_memory")
    bounds.time.allow(size)
    picture = draw(dataset, job["number"], image, b"".join(pieces), options)
    bounds.announce(len(picture))
    out.write(picture)
    return {}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _inflated(job: dict[str, Any], source: BinaryIO, bounds: Bounds) -> tuple[BinaryIO, str]:
    """Return a data set that is not deflated, and its transfer syntax."""
    if job["source"] in uids.DEFLATED:
        return inflated(source, bounds), uids.EXPLICIT_VR_LITTLE_ENDIAN
    return source, job["source"]


def _decoded(
    source: BinaryIO, syntax: str, number: int, bounds: Bounds
) -> tuple[ImagePixel, list[Any]]:
    """Return a decompressed frame, in pieces, and the description of its pixels."""
    bounds.time.allow(0, times=10)  # to find it
    frames = Frames(source, syntax)
    image, data = frames.image, frames.read(number)
    if not frames.is_encapsulated:
        return image, [data]
    check_frame(image, syntax, len(data), bounds.frame)
    check_decoder(syntax)
    bounds.time.allow(image.frame_length)
    packer = Packer(image.bits_allocated)
    pixels, image = decode_frame(data, image, syntax)
    return image, [packer.pack(pixels), packer.rest()]


_JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "convert": _convert,
    "frame": _frame,
    "picture": _picture,
}


def main() -> None:
    """Do the jobs of the server, until it has ended."""
    channel = begin_child()
    try:
        import numpy  # noqa: F401, PLC0415 - now: its libraries count as memory that is there
    except ImportError:
        pass  # without it there is still what has to be copied
    before = memory()
    while True:
        try:
            job, (source, out) = hear(channel)
        except (EOFError, OSError):
            return
        _announce(channel, 0)  # it has the job: what ends it from now on is the data
        limit_memory(before + job["memory"])
        watch = Watch(job["seconds"])
        answer = _done(job, source, out, watch, lambda size: _announce(channel, size))
        watch.rest()
        # A decoder that leaks is not held against the next instance.
        answer["last"] = memory() - before > job["memory"] // _LEAK
        tell(channel, answer)
        if answer["last"]:
            return


def _announce(channel: Any, size: int) -> None:
    """Ask for room in the spool; the server ends this process if there is none."""
    tell(channel, {"size": size})
    hear(channel)


def _done(
    job: dict[str, Any], source: int, out: int, watch: Watch, announce: Callable[[int], None]
) -> dict[str, Any]:
    try:
        limits = Limits(**job["limits"])._replace(memory=job["memory"])
        bounds = Bounds(limits, job["memory"] // _LARGEST, watch, announce, job["folder"])
        with reader(source, job["at"]) as file, open(out, "wb") as target:
            return {"done": _JOBS[job["do"]](job, file, target, bounds)}
    except DataSetError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it takes more memory than decode_memory"}
    except OSError as error:
        return {"error": f"the spool: {os.strerror(error.errno or 0)}"}
    except Exception as error:  # noqa: BLE001 - what the data makes pydicom raise quotes the data
        return {"error": f"it cannot be read: {type(error).__name__}"}


if __name__ == "__main__":
    main()
