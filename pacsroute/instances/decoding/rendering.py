"""Frames as pictures that any browser shows (PS3.18 §8.3.5, §10.4.1.1.3).

It runs in child processes only, see `pacsroute.instances.decoding.wall`: a palette, a window or a
size that takes all memory or time takes it from nobody else.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
)
from pydicom.pixels.utils import expand_ybr422

from pacsroute.errors import DataSetError
from pacsroute.instances.pictures import FORMATS, Options
from pacsroute.instances.pixel_data import ImagePixel

_MOST = 8192  # pixels of a side that is asked for
_GREY_PIXEL = 16  # bytes that a grey value takes on its way through the window
_GROUPS = ("FrameVOILUTSequence", "PixelValueTransformationSequence")
_GREY = (
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
)
_KINDS = {8: "u1", 16: "<u2", 32: "<u4", 64: "<u8"}


def weight(image: ImagePixel, options: Options) -> int:
    """Return about how many bytes it takes to show a frame.

    Parameters
    ----------
    image : ImagePixel
        The description of its pixels.
    options : Options
        How it is shown.
    """
    samples = image.samples_per_pixel
    size = image.rows * image.columns
    found = size * (image.bits_allocated // 8 * samples + (_GREY_PIXEL if samples == 1 else 6))
    if options.size is not None:
        width, height = (min(side, _MOST) for side in options.size)
        found += 2 * samples * (width or height) * (height or width)
    return found


def draw(
    dataset: Dataset, number: int, image: ImagePixel, data: bytes, options: Options
) -> memoryview:
    """Return a frame as a picture.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The image.
    number : int
        Of the frame, from 1.
    image : ImagePixel
        The description of its pixels.
    data : bytes
        Those, out of their compression.
    options : Options
        How it is shown.

    Raises
    ------
    DataSetError
        If it cannot be shown.
    """
    pixels = _shown(_array(data, image), image, _grey(dataset, number), options)
    picture = _placed(Image.fromarray(pixels), options)
    out = io.BytesIO()
    picture.save(out, FORMATS[options.media_type], quality=options.quality)
    return out.getbuffer()


def _array(data: bytes, image: ImagePixel) -> Any:
    """Return the pixels with one axis for rows, columns and, of colours, samples."""
    size = image.rows * image.columns * image.samples_per_pixel
    if image.photometric_interpretation == "YBR_FULL_422" and len(data) < image.frame_length:
        data = expand_ybr422(data, image.bits_allocated)
    if image.keyword != "PixelData":
        kind = "<f4" if image.bits_allocated == 32 else "<f8"
        flat: Any = np.frombuffer(data, kind, size)
    elif image.bits_allocated == 1:
        flat = np.unpackbits(np.frombuffer(data, "u1"), count=size, bitorder="little")
    else:
        flat = np.frombuffer(data, _KINDS[image.bits_allocated], size)
        if image.bits_stored < image.bits_allocated:
            flat = flat & ((1 << image.bits_stored) - 1)
        if image.pixel_representation:
            sign = 1 << (image.bits_stored - 1)
            flat = (flat.astype(np.int64) ^ sign) - sign
    if image.samples_per_pixel == 1:
        return flat.reshape(image.rows, image.columns)
    if image.planar_configuration:
        planes = flat.reshape(image.samples_per_pixel, image.rows, image.columns)
        return planes.transpose(1, 2, 0)
    return flat.reshape(image.rows, image.columns, image.samples_per_pixel)


def _grey(dataset: Dataset, number: int) -> Dataset:
    """Return the attributes of a frame's grey values, wherever the data set has them."""
    found = Dataset()
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    own = [frames[number - 1]] if len(frames) >= number else []
    groups = (*shared, *own)
    items = [item for group in groups for name in _GROUPS for item in group.get(name) or ()]
    for source in (dataset, *items):
        for keyword in _GREY:
            if keyword in source:
                found[keyword] = source[keyword]
    for keyword in dataset.dir("PaletteColor"):
        found[keyword] = dataset[keyword]
    return found


def _shown(pixels: Any, image: ImagePixel, grey: Dataset, options: Options) -> Any:
    """Return pixels of eight bits: of one sample, or of three."""
    meant = image.photometric_interpretation
    if image.samples_per_pixel > 1:
        if meant.startswith("YBR"):
            pixels = convert_color_space(_in_eight_bits(pixels, image), meant, "RGB")
        return _in_eight_bits(pixels, image)
    if meant == "PALETTE COLOR":
        coloured = apply_color_lut(pixels, grey)
        depth = 8 * coloured.dtype.itemsize
        return (coloured >> (depth - 8)).astype(np.uint8)
    values = apply_modality_lut(pixels, grey)
    if options.window is not None:
        found = _windowed(values, *options.window)
    elif grey.get("VOILUTSequence"):
        found = _stretched(apply_voi_lut(values, grey, index=0))
    elif grey.get("WindowCenter") is not None and grey.get("WindowWidth") is not None:
        function = str(grey.get("VOILUTFunction") or "LINEAR")
        found = _windowed(values, _first(grey.WindowCenter), _first(grey.WindowWidth), function)
    else:
        found = _stretched(values)
    found = found.clip(0, 255).astype(np.uint8)
    return 255 - found if meant == "MONOCHROME1" else found


def _first(value: Any) -> float:
    """Return the first of the values that there may be."""
    return float(value[0]) if isinstance(value, (list, MultiValue)) else float(value)


def _windowed(values: Any, centre: float, width: float, function: str = "LINEAR") -> Any:
    """Return values through a window, from 0 to 255 (PS3.3 C.11.2.1.2)."""
    found = values.astype(np.float32)
    if function == "SIGMOID":
        found -= centre
        found *= -4 / width
        np.exp(found, out=found)
        found += 1
        return np.divide(255, found, out=found)
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    found -= centre
    found *= 255 / width
    found += 127.5
    return found


def _stretched(values: Any) -> Any:
    """Return values from 0 to 255, whatever they range over."""
    low, high = float(values.min()), float(values.max())
    found = values.astype(np.float32)
    found -= low
    found *= 255 / (high - low) if high > low else 0
    return found


def _in_eight_bits(pixels: Any, image: ImagePixel) -> Any:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray((pixels >> max(0, image.bits_stored - 8)).astype(np.uint8))


def _placed(picture: Image.Image, options: Options) -> Image.Image:
    """Return the region of a picture, as large as it may be."""
    if options.region is not None:
        left, top, width, height = options.region
        if options.is_relative:
            left, width = left * picture.width, width * picture.width
            top, height = top * picture.height, height * picture.height
        right = min(left + abs(width), picture.width)
        bottom = min(top + abs(height), picture.height)
        box = left, top, right, bottom
        if left >= right or top >= bottom:
            raise DataSetError("the region is outside the image")
        picture = picture.crop(tuple(round(one) for one in box))  # type: ignore[arg-type]
        if width < 0:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if height < 0:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if options.size is None:
        return picture
    width, height = (min(side, _MOST) for side in options.size)
    sides = (width, picture.width), (height, picture.height)
    scale = min(side / own for side, own in sides if side)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BILINEAR)
