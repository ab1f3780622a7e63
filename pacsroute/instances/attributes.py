"""Read a few attributes of an instance, without parsing all of it if possible."""

from __future__ import annotations

import io
from collections.abc import Container
from typing import TYPE_CHECKING

from pacsroute.dataset import parse
from pacsroute.dataset.reduced import reduced
from pacsroute.instances.instance import Instance

if TYPE_CHECKING:
    from pydicom import Dataset


def attributes_of(instance: Instance, tags: Container[int]) -> Dataset:
    """Return a data set with at least the wanted attributes of an instance.

    Of an instance in memory, only these are read.
    """
    with instance.open() as file:
        if isinstance(file, io.BytesIO):
            few = reduced(file.read(), instance.transfer_syntax, tags)
            if few is not None:
                return parse(few, instance.transfer_syntax, limits=instance.limits)
    return instance.dataset
