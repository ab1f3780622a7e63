"""Decompress one frame: the only place where a decoder is called.

It runs in child processes only, see `pacsroute.instances.decoding.wall`.
"""

from __future__ import annotations

from typing import Any

from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from pacsroute import uids
from pacsroute.errors import DataSetError
from pacsroute.instances.pixel_data import ImagePixel

RLE = uids.transfer_syntax("RLELossless")
_WRAPPED = uids.transfer_syntax("EncapsulatedUncompressedExplicitVRLittleEndian")
_RLE_RATIO = 64  # two bytes become 128 at most (PS3.5 §G.3.1)
_MOST = 0xFFFF_FFFE  # bytes of a value (PS3.5 §7.1.1)


def check_frame(image: ImagePixel, transfer_syntax: str, stored: int, most: int) -> None:
    """Raise a `DataSetError` for a frame that says that it is larger than it can or may be.

    Parameters
    ----------
    image : ImagePixel
        The description of its pixels in the data set.
    transfer_syntax : str
        How it is compressed. Of an empty image JPEG 2000 leaves a 55,000th and JPEG-LS a
        26,000th, so that only RLE has a ratio that nothing exceeds.
    stored, most : int
        How many bytes it has when it is compressed, and may have when it is not.
    """
    if transfer_syntax == RLE and image.frame_length > _RLE_RATIO * stored:
        raise DataSetError(f"{stored} bytes of RLE cannot be a frame of {image.frame_length}")
    if image.frame_length > most:
        raise DataSetError(
            f"a frame of {image.frame_length} bytes is more than an eighth of decode_memory"
        )


def check_all(image: ImagePixel, transfer_syntax: str, stored: int, most: int) -> None:
    """Raise a `DataSetError` as `check_frame` does, for all frames of an image together."""
    if image.length > _MOST:
        raise DataSetError("the pixels decode to more than 4 GiB")
    check_frame(image, transfer_syntax, stored, most)
    if transfer_syntax == RLE and image.length > _RLE_RATIO * stored:
        raise DataSetError(f"{stored} bytes of RLE cannot be {image.length} bytes of pixels")


def check_decoder(transfer_syntax: str) -> None:
    """Raise a `DataSetError` if nothing installed decodes a transfer syntax."""
    if transfer_syntax == _WRAPPED:
        return
    name = uids.name(transfer_syntax)
    try:
        is_available = get_decoder(UID(transfer_syntax)).is_available
    except NotImplementedError:
        raise DataSetError(f"nothing decodes {name}") from None
    if not is_available:
        raise DataSetError(
            f"{name} needs NumPy and a decoder: pip install 'pacsroute[pixels]'"
        ) from None


def decode_frame(data: bytes, image: ImagePixel, transfer_syntax: str) -> tuple[Any, ImagePixel]:
    """Return the pixels of a compressed frame, and what describes them.

    Colours that are decoded as YCbCr become RGB; samples are those of one pixel after the
    other. Single bits have a byte each: see `pack`.

    Parameters
    ----------
    data : bytes
        The frame, from which `check_frame` has found nothing to keep it.
    image : ImagePixel
        The description of its pixels in the data set.
    transfer_syntax : str
        The UID of how it is compressed.

    Raises
    ------
    DataSetError
        If it cannot be decoded; the message does not quote the data.
    """
    if transfer_syntax == _WRAPPED:
        if len(data) < image.frame_length:
            raise DataSetError("a frame is cut off")
        return memoryview(data)[: image.frame_length], image
    array, found = _decoded(data, image, transfer_syntax)
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    if array.size != image.rows * image.columns * image.samples_per_pixel or (
        image.bits_allocated > 1 and array.nbytes != image.frame_length
    ):
        raise DataSetError("a frame is not as large as its data set says")
    decoded: dict[str, Any] = {name: found[name] for name in found.keys() & set(ImagePixel._fields)}
    decoded["number_of_frames"] = image.number_of_frames
    return memoryview(array).cast("B"), image._replace(**decoded)


def _decoded(data: bytes, image: ImagePixel, transfer_syntax: str) -> tuple[Any, dict[str, Any]]:
    """Return the array of a frame and what pydicom says of it."""
    options: dict[str, Any] = image._asdict() | {
        "number_of_frames": 1,
        "pixel_keyword": image.keyword,
    }
    del options["keyword"], options["high_bit"]
    decoder: Any = get_decoder(UID(transfer_syntax))
    plugins = [""]  # the available ones, in order
    if transfer_syntax == RLE and "pylibjpeg" in decoder.available_plugins:
        plugins = ["pylibjpeg", ""]  # pydicom's own comes first else, and takes 12 times as long
    kind = ""
    for plugin in plugins:
        try:
            array, found = decoder.as_array(
                encapsulate([data], has_bot=False), index=0, decoding_plugin=plugin, **options
            )
        except MemoryError:
            raise
        except BaseException as error:  # noqa: BLE001 - what it likes; one in Rust panics
            kind = type(error).__name__
        else:
            return array, found
    raise DataSetError(f"{uids.name(transfer_syntax)} cannot be decoded: {kind}")


class Packer:
    """Writes frames one after the other; single bits follow each other without a gap.

    Parameters
    ----------
    bits_allocated : int
        Of a pixel; only for 1 is there something to do (PS3.5 §8.1.1).
    """

    def __init__(self, bits_allocated: int) -> None:
        self._single = bits_allocated == 1
        self._left: Any = b""

    def pack(self, pixels: Any) -> Any:
        """Return the bytes of a frame that are whole by now."""
        if not self._single:
            return pixels
        import numpy as np  # noqa: PLC0415 - only for such images

        bits = np.concatenate(
            (np.frombuffer(self._left, np.uint8), np.frombuffer(pixels, np.uint8) != 0)
        )
        whole = len(bits) // 8 * 8
        self._left = bits[whole:].astype(np.uint8).tobytes()
        return np.packbits(bits[:whole].astype(bool), bitorder="little").tobytes()

    def rest(self) -> bytes:
        """Return the last bits, filled up to a byte."""
        return bytes([sum(bit << at for at, bit in enumerate(self._left))]) if self._left else b""
