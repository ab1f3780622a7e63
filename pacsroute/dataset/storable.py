"""Whether values can be stored and returned later (PS3.7 §10.1.3, §10.1.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.errors import Failure
from pacsroute.status import INVALID_ATTRIBUTE_VALUE

_BYTES = {"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"}


def check_storable(dataset: Dataset, status: int = INVALID_ATTRIBUTE_VALUE) -> None:
    """Raise a `Failure` for values that could not be returned later.

    A stored data set must survive JSON (PS3.18 Annex F) and any transfer syntax:
    a decimal string of ``nan``, for instance, can be read but not written.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The data set of a peer. Its elements are decoded.
    status : int
        The status of the failure: invalid attribute value, or 0x0115 for an N-ACTION.

    Raises
    ------
    Failure
        It lists the attributes at the top level, and does not quote the values.

    Examples
    --------
    >>> step = Dataset()
    >>> step.PatientSize = float("nan")
    >>> check_storable(step)
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0x0106 not a value that can be kept: PatientSize
    """
    if _can_be_kept(dataset):
        return
    wrong = list(_misfits(dataset)) or [int(tag) for tag in dataset.keys()]  # noqa: SIM118
    names = ", ".join(keyword_for_tag(tag) or f"{tag:08X}" for tag in wrong)
    comment = f"not a value that can be kept: {names}"
    raise Failure(status, comment, AttributeIdentifierList=tuple(wrong))


def _misfits(dataset: Dataset) -> Iterator[int]:
    """Yield the tags of the elements that cannot be kept."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset converts its elements
        part = Dataset()
        try:
            part.add(dataset[tag])
        except Exception:  # noqa: BLE001 - pydicom raises many kinds for invalid values
            yield int(tag)
        else:
            if not _can_be_kept(part):
                yield int(tag)


def _can_be_kept(dataset: Dataset) -> bool:
    try:
        kept = Dataset.from_json(json.dumps(_as_json(dataset)))
        for syntax in (uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN):
            encode(kept, syntax)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _as_json(dataset: Dataset) -> dict[str, Any]:
    """Return the result of `Dataset.to_json_dict` without its log of errors.

    Bytes are left out: they can always be returned, and may be long.
    """
    every = (dataset[tag] for tag in dataset.keys())  # noqa: SIM118 - as above
    elements = (e for e in every if not (isinstance(e.value, bytes) and e.VR in _BYTES))
    return {
        f"{int(element.tag):08X}": {"vr": "SQ", "Value": [_as_json(item) for item in element.value]}
        if element.VR == "SQ"
        else element.to_json_dict(None, 0)
        for element in elements
    }
