"""Send answers without the values that cannot be encoded."""

from __future__ import annotations

import logging
from typing import Any

from pacsroute.dataset.encoding import RowEncoder
from pacsroute.errors import DataSetError
from pacsroute.framework.requests import Request
from pacsroute.framework.routes import name_of

logger = logging.getLogger("pacsroute")


def without_misfits(encoder: RowEncoder, row: Any, request: Request, told: set[str]) -> bytes:
    """Return the data set of a row without the values that cannot be encoded; log each key once.

    Parameters
    ----------
    encoder : RowEncoder
        The encoder, which has refused the row.
    row : mapping of str or pydicom.Dataset
        The row of the handler.
    request : Request
        The request that the row answers.
    told : set of str
        The keywords already logged for the request; new ones are added.

    Raises
    ------
    DataSetError
        If a keyword is unknown, or the object is not a row.
    """
    try:
        data, lost = encoder.encode_what_fits(row)
    except DataSetError as error:
        raise error from None
    news = [keyword for keyword in dict.fromkeys(lost) if keyword not in told]
    if news:
        told.update(news)
        logger.warning(
            "%s from %s: answered without %s: invalid for the VR",
            name_of(request.command),
            ascii(request.calling_ae)[1:-1],
            ", ".join(news),
        )
    return data
