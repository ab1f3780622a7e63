"""Options for rendering a frame in a format for browsers (PS3.18 §8.3.5)."""

from __future__ import annotations

from typing import NamedTuple

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF"}
"""Pillow's names of the media types."""


class Options(NamedTuple):
    """Options for rendering a frame.

    Parameters
    ----------
    media_type : str
        ``image/jpeg``, ``image/png`` or ``image/gif``.
    quality : int
        The JPEG quality, from 1 to 100.
    size : (int, int) or None
        The size of the viewport: width and height in pixels; 0 keeps the aspect ratio.
    region : (float, float, float, float) or None
        The region to show: left, top, width and height in its own pixels; a negative width or
        height flips the picture.
    is_relative : bool
        Whether the region is in fractions of the whole.
    window : (float, float, str) or None
        The centre and width of the window, and its function as in VOI LUT Function.
    """

    media_type: str = "image/jpeg"
    quality: int = 90
    size: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    is_relative: bool = False
    window: tuple[float, float, str] | None = None
