"""WADO-RS: metadata, and the bulk data that it names (PS3.18 §10.4.1.1.2, §10.4.1.1.5)."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from pydicom.encaps import generate_fragments
from werkzeug.exceptions import BadRequest, HTTPException, NotFound
from werkzeug.wrappers import Response

from pacsroute import dataset as data_sets
from pacsroute import uids
from pacsroute.dataset.json_model import dicom_json
from pacsroute.dataset.value_writer import swapped
from pacsroute.dataset.vr import WORD_SIZES
from pacsroute.errors import DataSetError
from pacsroute.framework.results import DONE
from pacsroute.instances.instance import DEFER_SIZE, Instance
from pacsroute.web.exchange import Delivery, Exchange, tag_of
from pacsroute.web.multipart import Multipart, Part

logger = logging.getLogger("pacsroute")

_OCTETS = "application/octet-stream"
_UIDS = ("0020000D", "0020000E", "00080018")


def answer(exchange: Exchange, **unique: str) -> Response:
    """Answer a retrieval of metadata: JSON, or XML, in which large values are URLs."""
    _ = exchange.model_type  # refused before the handler is asked
    found = exchange.instances("WADO-RS metadata", **unique)
    try:
        shown, lost = [], 0
        for instance in found:
            exchange.pause()
            try:
                shown.append(exchange.written(_described(exchange, instance, unique)))
            except (DataSetError, OSError) as error:
                uid = instance.sop_instance_if_known
                logger.error("metadata: %s is left out: %s", uid or "an instance", error)
                lost += 1
        if not shown:
            raise NotFound("nothing of that can be read")
        found.answering.outcome = (found.answering.outcome or DONE)._replace(
            note=f"{len(shown)} instances"
        )
        response = exchange.models(shown, found, is_one="SOPInstanceUID" in unique)
        if lost:
            response.status_code = 206
            title = exchange.app.ae_title.replace(" ", "_")
            why = f"left out, since they cannot be read: {lost} of {lost + len(shown)} instances"
            response.headers.add("Warning", f'299 {title} "{why}"')
        return response
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


def _described(exchange: Exchange, instance: Instance, unique: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of an instance; of large values only the heads are read."""
    syntax = instance.transfer_syntax
    study, series = unique["StudyInstanceUID"], unique.get("SeriesInstanceUID")

    def uri(path: tuple[str, ...], vr: str, length: int) -> str:
        return "/".join(path)

    with instance.open() as file:
        found = dicom_json(file, syntax, bulk_data=uri, limits=exchange.limits)
    if series is None:
        series = str(_first(found, "0020000E"))
    # The path that was asked for holds, whatever a file says.
    base = exchange.url(
        "studies", study, "series", series, "instances", instance.sop_instance, "bulkdata"
    )
    _name_bulk_data(found, base)
    found.setdefault("00083002", {"vr": "UI", "Value": [syntax]})  # Available Transfer Syntax UID
    return dict(sorted(found.items()))


def _first(model: dict[str, Any], key: str) -> Any:
    return (model.get(key, {}).get("Value") or [""])[0]


def _name_bulk_data(model: dict[str, Any], base: str) -> None:
    for element in model.values():
        if "BulkDataURI" in element:
            element["BulkDataURI"] = f"{base}/{element['BulkDataURI']}"
        elif element["vr"] == "SQ":
            for item in element["Value"]:
                _name_bulk_data(item, base)


def bulk_data(exchange: Exchange, path: str, **unique: str) -> Response:
    """Answer a retrieval of one value that the metadata names.

    Parameters
    ----------
    exchange : Exchange
        The request.
    path : str
        Tags, with the number of an item behind each sequence's.
    **unique : str
        The unique keys of the instance.
    """
    _, wanted = exchange.negotiate(_OCTETS)
    found = exchange.instances("WADO-RS bulk data", **unique)
    try:
        data = _value(found.only(), path, exchange)
        if wanted.multipart is True:
            body = Multipart(_OCTETS)
            parts = [Part(_OCTETS, [data], exchange.http.url)]
            return Response(Delivery(body.body(parts), found), content_type=body.content_type)
        delivery = Delivery([data], found)
        response = Response(delivery, content_type=_OCTETS)
        response.headers["Content-Length"] = str(len(data))
        return exchange.conditional(response, delivery, tag_of(found.only(), path), len(data))
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


def _value(instance: Instance, path: str, exchange: Exchange) -> bytes:
    syntax = instance.transfer_syntax
    with instance.open() as file:
        try:
            dataset = data_sets.parse(file, syntax, defer_size=DEFER_SIZE, limits=exchange.limits)
            parts = path.split("/")
            for tag, number in zip(parts[:-1:2], parts[1::2], strict=False):
                dataset = dataset[int(tag, 16)].value[int(number) - 1]
            element = dataset[int(parts[-1], 16)]
        except (KeyError, IndexError, TypeError):
            raise NotFound("there is no such value") from None
        except ValueError:
            raise BadRequest("bulk data is named by its tag") from None
        value = element.value
        if not isinstance(value, bytes):
            raise NotFound("there is no such value")
        if element.is_undefined_length:
            return b"".join(itertools.islice(generate_fragments(value), 1, None))
    if syntax == uids.EXPLICIT_VR_BIG_ENDIAN:
        return swapped(value, WORD_SIZES.get(element.VR, 1))
    return value
