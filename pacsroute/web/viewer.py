"""A built viewer below ``/viewer``: static files, configured to use this server.

OHIF's build expects to be at the root of a site. Its page, its configuration and the public path of
its bundle are rewritten when served; the folder is not changed.
"""

from __future__ import annotations

import json
import mimetypes
import os
from pathlib import Path

from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

from pacsroute.config import Config
from pacsroute.errors import SetupError

ROOT = "/viewer"
_PUBLIC_PATH = b'__webpack_require__.p = "/"'
_ISOLATED = {  # required for memory shared with the decoders' workers
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript"}


def check(config: Config) -> None:
    """Raise a `SetupError` if the setting ``web_viewer`` is not the folder of a built viewer."""
    folder = config.web_viewer
    if folder is not None and not (Path(folder) / "index.html").is_file():
        raise SetupError(f"web_viewer: there is no index.html in {folder}")


def answer(config: Config, http: Request, path: str) -> Response:
    """Return a file of the viewer.

    Parameters
    ----------
    config : Config
        The settings: ``web_viewer`` is the folder, ``web_root`` the DICOMweb root to query.
    http : werkzeug.Request
        The request.
    path : str
        The path after ``/viewer``. The viewer's own routes, which are not files, get its page.

    Raises
    ------
    werkzeug.exceptions.NotFound
        If there is no such file.
    """
    folder = config.web_viewer
    found = safe_join(folder, path.strip("/") or "index.html") if folder else None
    if folder is None or found is None:
        raise NotFound("there is no such file")
    if not os.path.isfile(found):
        if os.path.splitext(path)[1]:
            raise NotFound("there is no such file")
        found = os.path.join(folder, "index.html")
    name = os.path.basename(found)
    kind = _TYPES.get(os.path.splitext(name)[1]) or mimetypes.guess_type(name)[0]
    rewritten = _rewritten(config, found, name)
    if rewritten is None:
        response = send_file(found, http.environ, mimetype=kind or "application/octet-stream")
    else:
        response = Response(rewritten, content_type=kind)
        response.add_etag()
        response.make_conditional(http.environ)
    response.headers.update(_ISOLATED)
    return response


def _rewritten(config: Config, path: str, name: str) -> bytes | None:
    """Return a file with adapted paths; None if it needs no change."""
    if name == "index.html":
        page = Path(path).read_bytes()
        for attribute in (b"href", b"src", b"content"):
            page = page.replace(attribute + b'="/', attribute + b'="' + ROOT.encode() + b"/")
        return page.replace(b"PUBLIC_URL = '/'", f"PUBLIC_URL = '{ROOT}/'".encode())
    if name == "app-config.js":
        return Path(path).read_bytes() + _configuration(config).encode()
    if name.endswith(".css"):
        return Path(path).read_bytes().replace(b"url(/", f"url({ROOT}/".encode())
    if name.endswith(".js"):  # its workers have their own bundles
        script = Path(path).read_bytes()
        ours = _PUBLIC_PATH.replace(b'"/"', f'"{ROOT}/"'.encode())
        return script.replace(_PUBLIC_PATH, ours) if _PUBLIC_PATH in script else None
    return None


def _configuration(config: Config) -> str:
    """Return OHIF's configuration, with this server as its only data source."""
    root = config.web_root
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "pacsroute",
        "configuration": {
            "friendlyName": config.ae_title,
            "name": "pacsroute",
            "wadoUriRoot": f"{root}/wado",
            "qidoRoot": root,
            "wadoRoot": root,
            "qidoSupportsIncludeField": True,
            "supportsReject": False,
            "dicomUploadEnabled": True,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "supportsFuzzyMatching": False,
            "supportsWildcard": True,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
        },
    }
    values = {
        "routerBasename": ROOT,
        "defaultDataSourceName": "pacsroute",
        "dataSources": [source],
        "showWarningMessageForCrossOrigin": False,
    }
    return f"\n;Object.assign(window.config, {json.dumps(values)});\n"
