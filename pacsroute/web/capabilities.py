"""The capabilities of the origin server, below the root (PS3.18 §8.9)."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import orjson
from werkzeug.wrappers import Response

from pacsroute.framework.resources import resources
from pacsroute.web.exchange import Exchange

_WADL = "application/vnd.sun.wadl+xml"


def answer(exchange: Exchange) -> Response:
    """Answer with the resources that have routes, as WADL or JSON."""
    kind, _ = exchange.negotiate(_WADL, "application/json", "application/dicom+json")
    resources = routed(exchange)
    if kind != _WADL:
        shown = {"resources": [{"path": path, "methods": found} for path, found in resources]}
        return Response(orjson.dumps(shown), content_type="application/json")
    lines = [
        f"<resource path={quoteattr(path)}>"
        + "".join(f"<method name={quoteattr(method)}/>" for method in methods)
        + "</resource>"
        for path, methods in resources
    ]
    base = quoteattr(exchange.url())
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<application xmlns="http://wadl.dev.java.net/2009/02">'
        f"<resources base={base}>{''.join(lines)}</resources></application>"
    )
    return Response(text.encode("utf-8"), content_type=_WADL)


def routed(exchange: Exchange) -> list[tuple[str, list[str]]]:
    """Return the paths below the root that have handlers, with their HTTP methods."""
    titles = exchange.caller.calling_ae, exchange.caller.called_ae
    return resources(exchange.app.routes_for(*titles))
