"""Instances without their bulk data (PS3.4 §Z.1.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom import Dataset

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import parse
from pacsroute.instances.decoding.wall import decoders
from pacsroute.instances.instance import DEFER_SIZE, Instance

_BULK = frozenset(
    {
        0x00282000,  # ICC Profile
        0x00420011,  # Encapsulated Document
        0x56000020,  # Spectroscopy Data
        0x7FE00001,  # Extended Offset Table
        0x7FE00002,
        0x7FE00003,  # Encapsulated Pixel Data Value Total Length
        0x7FE00008,  # Float Pixel Data
        0x7FE00009,  # Double Float Pixel Data
        0x7FE00010,  # Pixel Data
        0x00287FE0,  # Pixel Data Provider URL
    }
)
_OF_GROUPS = {0x5000: (0x200C, 0x3000), 0x6000: (0x3000,)}  # curves, audio and overlays


def without_bulk_data(instance: Instance, *, wanted: Callable[[], bool] | None = None) -> Instance:
    """Return an instance as Composite Instance Retrieve Without Bulk Data sends it.

    Parameters
    ----------
    instance : Instance
        It stays as it is.
    wanted : callable, optional
        As for `Instance.open_as`: compressed icons are decoded.
    """
    syntax = instance.transfer_syntax
    hints: dict[str, Any] = {"sop_class": instance.sop_class, "sop_instance": instance.sop_instance}
    if syntax in uids.NATIVE and syntax not in uids.DEFLATED:
        with instance.open() as file:
            dataset = parse(file, syntax, defer_size=DEFER_SIZE)
            strip(dataset)
            return Instance(encode(dataset, syntax), transfer_syntax=syntax, **hints)
    explicit = uids.EXPLICIT_VR_LITTLE_ENDIAN
    with decoders().convert(instance.open(), syntax, explicit, wanted=wanted, bare=True) as file:
        return Instance(file.read(), transfer_syntax=explicit, **hints)


def strip(dataset: Dataset) -> None:
    """Remove bulk data at the top level and in waveforms; icons keep their pixels."""
    for tag in list(dataset.keys()):
        if tag in _BULK or tag & 0xFFFF in _OF_GROUPS.get(tag >> 16 & 0xFF00, ()):
            del dataset[tag]
    for waveform in dataset.get("WaveformSequence") or ():
        waveform.pop("WaveformData", None)
