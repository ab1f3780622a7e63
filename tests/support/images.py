"""Images of any size and any compression, and the code streams in them."""

import os
import signal
import struct
from pathlib import Path

import numpy as np
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from support.names import EXPLICIT
from support.unharmed import until

from pacsroute import Instance, uids
from pacsroute.dataset.encoding import encode

SECONDARY_CAPTURE = uids.sop_class("SecondaryCaptureImageStorage", "store")
RLE = uids.transfer_syntax("RLELossless")
JPEG_LS = uids.transfer_syntax("JPEGLSLossless")
JPEG_2000 = uids.transfer_syntax("JPEG2000Lossless")

# How many bits a run has for each step of its index (ITU-T T.87, A.2.1).
_RUNS = [i // 4 for i in range(16)] + [4, 4, 5, 5, 6, 6, 7, 7, *range(8, 16)]


def blank_jpeg_ls(rows, columns, bits=16, *, said=None):
    """Return a JPEG-LS code stream of zeros; `said` is another number of rows for its head."""
    ones, index = 0, 0
    for _ in range(rows):
        left = columns
        while left >= 1 << _RUNS[index]:
            left -= 1 << _RUNS[index]
            ones, index = ones + 1, min(31, index + 1)
        ones += left > 0
    # Nothing but ones, and after each byte of them a bit that is zero.
    pairs, rest = divmod(ones, 15)
    tail = bytes([0xFF << 8 - min(rest, 8) & 0xFF])
    if rest >= 8:
        tail += bytes([0x7F << 15 - rest & 0x7F])
    said = rows if said is None else said
    frame = struct.pack(">HHBHHBBBB", 0xFFF7, 11, bits, said, columns, 1, 1, 0x11, 0)
    scan = struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, 1, 0, 0, 0, 0)
    return b"\xff\xd8" + frame + scan + b"\xff\x7f" * pairs + tail + b"\xff\xd9"


FROZEN = blank_jpeg_ls(100, 100, 8, said=0)
"""A code stream that does not say how many rows it has; libjpeg looks for them without end."""


def blank_jpeg_2000(rows, columns):
    return encode_array(np.zeros((rows, columns), np.uint16), compression_ratios=[1])


def blank_rle(count):
    """Return a frame of RLE with so many zeros, in one segment."""
    data = b"\x81\0" * (count // 128) + (bytes([257 - count % 128, 0]) if count % 128 > 1 else b"")
    return struct.pack("<16I", 1, 64, *[0] * 14) + data


def image(syntax=EXPLICIT, frames=(), *, number=1, native=None, **values):
    """Return the row of an image, and its bytes; compressed frames, or pixels as they are."""
    row = {
        "SOPClassUID": SECONDARY_CAPTURE,
        "SOPInstanceUID": f"1.2.3.{number}",
        "StudyInstanceUID": "1.2.3",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 4,
        "Columns": 4,
        "BitsAllocated": 8,
        "BitsStored": values.get("BitsAllocated", 8),
        "HighBit": values.get("BitsAllocated", 8) - 1,
        "PixelRepresentation": 0,
    } | values
    if native is not None:
        row["PixelData"] = native
    elif frames:
        row["PixelData"] = encapsulate(list(frames), has_bot=False)
    return encode(row, syntax)


def instance(syntax=EXPLICIT, frames=(), **values):
    """Return such an image as an instance in memory."""
    return Instance(image(syntax, frames, **values), transfer_syntax=syntax)


def decoder_processes(parent=None):
    """Return the numbers of the processes that decode for a process, this one by default."""
    parent, found = parent or os.getpid(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            after = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        is_ours = command.split(b"\0")[-2:-1] == [b"%d" % parent]
        if is_ours and b"pacsroute.instances.decoding" in command and after[0] != "Z":
            found.append(int(folder.name))
    return found


def end_decoders():
    """End the decoders that earlier tests of this process have left idle, in any pool."""
    for number in decoder_processes():
        os.kill(number, signal.SIGKILL)
    assert until(lambda: not decoder_processes())


def resident(process=None):
    """Return how many bytes of memory a process has now, and how many it had at most."""
    text = Path(f"/proc/{process or os.getpid()}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
