"""Data sets from one transfer syntax to another (PS3.5 §8, §10, Annex A)."""

from __future__ import annotations

from pacsroute import uids

_VIDEO = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")  # MPEG and HEVC; SMPTE ST 2110


def is_video(transfer_syntax: str) -> bool:
    """Return whether a transfer syntax is a video stream, which is never decoded.

    Examples
    --------
    >>> is_video("1.2.840.10008.1.2.4.102"), is_video("1.2.840.10008.1.2.4.50")
    (True, False)
    """
    return transfer_syntax.startswith(_VIDEO)


def obstacle(source: str, target: str) -> str:
    """Return why no instance can be converted; an empty text if a conversion may be possible.

    Parameters
    ----------
    source, target : str
        Transfer Syntax UIDs.

    Examples
    --------
    >>> obstacle("1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.1")
    'MPEG-4 AVC/H.264 High Profile / Level 4.1 is video, which is never decoded'
    """
    if source == target:
        return ""
    name = uids.name(source)
    if source not in uids.TRANSFER_SYNTAXES or target not in uids.NATIVE:
        return f"no conversion from {name} to {uids.name(target)}"
    if source in uids.REFERENCED:
        return f"{name}: its pixels are elsewhere"
    return f"{name} is video, which is never decoded" if is_video(source) else ""


def can_convert(source: str, target: str) -> bool:
    """Return whether to try a conversion: from most standard syntaxes, to uncompressed ones.

    Parameters
    ----------
    source, target : str
        Transfer Syntax UIDs. Instances in a private syntax, whose encoding is unknown, can only be
        passed on unchanged; so can video, and instances whose pixels are elsewhere.

    Examples
    --------
    >>> can_convert("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1")
    True
    """
    return not obstacle(source, target)
