"""The client of a DICOMweb server: find, get and store over HTTP (PS3.18 §10.4 to §10.6)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from pydicom import Dataset

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.from_json import from_dicom_json
from pacsroute.dataset.parsing import identifier, parse
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    ConnectionRefused,
    DataSetError,
    NotAccepted,
    RequestFailed,
)
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Peer, Progress
from pacsroute.instances import part10
from pacsroute.instances.incoming import Incoming
from pacsroute.instances.instance import Instance
from pacsroute.instances.spool import Spool, spool_for
from pacsroute.net.client import Client, Keys, Source
from pacsroute.net.multipart import Parts
from pacsroute.status import (
    IDENTIFIER_MISMATCH,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    UNABLE_TO_PROCESS,
    Status,
)
from pacsroute.tls import TLS
from pacsroute.upper_layer.pdu import UserIdentity

_UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_PARTS = {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}
_STATUSES = {400: IDENTIFIER_MISMATCH, 401: NOT_AUTHORIZED, 403: NOT_AUTHORIZED}
_LONGEST = 1 << 26  # maximum bytes of a JSON response
_PIECE = 1 << 18
_JWT = 5


class WebClient(Client):
    """A `Client` for a DICOMweb server; made by `connect` with a URL.

    `find`, `get` and `store` use DICOMweb; other services raise an error.

    Parameters
    ----------
    url : str
        The base URL of the server, such as ``https://pacs.example/dicom-web``.
    user : str, (str, str) or UserIdentity, optional
        A user name with its passcode (Basic); a JSON Web Token as a `UserIdentity` of type 5
        (Bearer).
    tls : TLS or ssl.SSLContext, optional
        The TLS settings; without them, the CAs of the system are trusted.
    timeout : float
        Seconds without a byte.
    app : BaseApp, optional
        The app whose spool takes the fetched instances.
    """

    def __init__(
        self,
        url: str,
        *,
        called_ae: str,
        calling_ae: str,
        user: str | tuple[str, str] | UserIdentity | None = None,
        tls: TLS | ssl.SSLContext | None = None,
        timeout: float,
        app: BaseApp | None = None,
    ) -> None:
        self.called_ae, self.calling_ae = called_ae, calling_ae
        self._app = app or BaseApp(calling_ae)
        self._url = urlsplit(url.rstrip("/"))
        self._tls = tls
        self._timeout = timeout
        self._headers = _credentials(user)
        if not self._url.hostname:
            raise AssociationError(f"{url!r} is not a URL such as https://pacs.example/dicom-web")

    def close(self, *, abort: bool = False) -> None:
        """Do nothing: each request has its own connection."""

    # ------------------------------------------------------------- requests

    def echo(self) -> NoReturn:
        """Refuse: DICOMweb has no C-ECHO."""
        raise NotAccepted("DICOMweb has no C-ECHO: use find")

    def store(self, source: Source, *, priority: int = 0) -> Status:
        """Send an instance, as it is stored (PS3.18 §10.5); the priority is not sent."""
        instance = source if isinstance(source, Instance) else Instance(source)
        what = f"STOW-RS of {instance.sop_instance}"
        head = part10.head(instance.sop_class, instance.sop_instance, instance.transfer_syntax)
        boundary = secrets.token_hex(16)
        before = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + head
        after = f"\r\n--{boundary}--\r\n".encode()
        with instance.open() as file:
            at = file.tell()
            size = file.seek(0, os.SEEK_END) - at
            file.seek(at)
            headers = {
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(len(before) + size + len(after)),
                "Accept": "application/dicom+json",
            }
            body = _pieces(before, file, after)
            with self._asked(what, "POST", "/studies", headers, body) as response:
                return _stored(what, response)

    def find(
        self, keys: Keys, sop_class: str = "StudyRoot", *, priority: int = 0
    ) -> Generator[Dataset, None, Status]:
        """Query at study, series or instance level (PS3.18 §10.6); the priority is not sent.

        Yields
        ------
        pydicom.Dataset
            A match; matches are fetched page by page.
        """
        if uids.sop_class(sop_class, "find") not in uids.QUERY_RETRIEVE["find"].values():
            raise NotAccepted("DICOMweb finds studies, series and instances only")
        asked = _asked_for(keys)
        level, path = _path(asked, searching=True)
        parameters = list(_parameters(asked, path))
        headers = {"Accept": "application/dicom+json"}
        seen, offset = set[str](), 0
        while True:
            page = [*parameters, ("offset", str(offset))] if offset else parameters
            query = urlencode(page)
            target = path + (f"?{query}" if query else "")
            with self._asked("QIDO-RS", "GET", target, headers) as response:
                rows = [] if response.status == 204 else _json(response)
                is_part = "299" in response.headers.get("Warning", "")
            for row in rows:
                dataset = parse(from_dicom_json(row), uids.EXPLICIT_VR_LITTLE_ENDIAN)
                uid = str(dataset.get(_UNIQUE[level]) or "")
                if uid and uid in seen:  # the server does not support paging
                    return Status(0)
                seen.add(uid)
                yield dataset
            offset += len(rows)
            if not rows or not is_part:
                return Status(0)

    def get(
        self,
        keys: Keys,
        sop_class: str = "StudyRoot",
        *,
        storage: Iterable[str] | None = None,
        transfer_syntaxes: Sequence[str] = ("*",),
        priority: int = 0,
        progress: Callable[[Progress], object] | None = None,
    ) -> Generator[Instance, None, Status]:
        """Fetch instances, as they are stored (PS3.18 §10.4).

        Parameters
        ----------
        keys, sop_class, progress
            As for `Client.get`.
        storage, priority
            Not sent.
        transfer_syntaxes : sequence of str
            The accepted transfer syntax; several, or ``*``, mean any.
        """
        asked = _asked_for(keys)
        _, path = _path(asked, searching=False)
        asks_for_one = len(transfer_syntaxes) == 1 and transfer_syntaxes[0] != "*"
        syntax = uids.transfer_syntax(transfer_syntaxes[0]) if asks_for_one else "*"
        headers = {
            "Accept": f'multipart/related; type="application/dicom"; transfer-syntax={syntax}'
        }
        count = 0
        with self._asked("WADO-RS", "GET", path, headers, missing=True) as response:
            if response.status == 404:
                return Status(0)
            for part in Parts(response, response.headers.get("Content-Type", "")):
                yield self._received(part)
                count += 1
                if progress is not None:
                    progress(Progress(completed=count))
        return Status(0)

    def _received(self, part: Iterator[bytes]) -> Instance:
        config = self._app.config

        def open_spool(head: bytes) -> Spool:
            return spool_for(head, config, place=self._app.fetched_place)

        incoming = Incoming(open_spool, writer=self.calling_ae, sender=self.called_ae)
        for piece in part:
            incoming.data(memoryview(piece))
        incoming.end()
        spool = incoming.spool
        if spool is None:
            raise DataSetError("a part of the answer is not a Part 10 file")
        if spool.error is not None:
            raise spool.error
        return Instance(
            spool,
            sop_class=incoming.sop_class,
            sop_instance=incoming.sop_instance,
            transfer_syntax=incoming.transfer_syntax,
        )

    def move(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: DICOMweb has no C-MOVE."""
        raise NotAccepted("DICOMweb has no C-MOVE: use get")

    def _managed(self, *_: Any, **__: Any) -> NoReturn:
        raise NotAccepted("DICOMweb has no N-services")

    # ------------------------------------------------------------- HTTP

    @contextlib.contextmanager
    def _asked(
        self,
        what: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Iterable[bytes] | None = None,
        *,
        missing: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request; yield the response, unless it is a failure."""
        connection = self._connection()
        try:
            try:
                target = f"{self._url.path}{path}"
                connection.request(method, target, body, headers | self._headers)
                response = connection.getresponse()
            except ConnectionRefusedError as error:
                message = (
                    f"{self._where} cannot be reached ({error.strerror}): "
                    "is it running on that port?"
                )
                raise ConnectionRefused(None, message=message) from None
            told = (
                response.status == 409 if method == "POST" else missing and response.status == 404
            )
            if response.status >= 400 and not told:
                raise _failure(what, response)
            yield response
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, FileNotFoundError):
                raise
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AssociationAborted(None, message=f"{self._where}: {text}") from None
        finally:
            connection.close()

    @property
    def _where(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc.rpartition('@')[2]}"

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout)
        tls = self._tls or TLS()
        context = tls.client() if isinstance(tls, TLS) else tls
        return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)


def web_client_of(
    peer: Peer,
    calling_ae: str,
    *,
    user: str | tuple[str, str] | UserIdentity | None = None,
    timeout: float,
    app: BaseApp | None = None,
) -> WebClient:
    """Return a client of a peer whose URL is known."""
    return WebClient(
        peer.url,
        called_ae=peer.ae_title,
        calling_ae=calling_ae,
        user=user,
        tls=peer.tls,
        timeout=timeout,
        app=app,
    )


def _credentials(user: str | tuple[str, str] | UserIdentity | None) -> dict[str, str]:
    if user is None:
        return {}
    if isinstance(user, UserIdentity):
        if user.type == _JWT:
            return {"Authorization": f"Bearer {user.primary.decode('latin-1')}"}
        name, passcode = user.primary, user.secondary
    else:
        pair = (user, "") if isinstance(user, str) else user
        name, passcode = (text.encode() for text in pair)
    return {"Authorization": f"Basic {base64.b64encode(name + b':' + passcode).decode()}"}


def _pieces(before: bytes, file: BinaryIO, after: bytes) -> Iterator[bytes]:
    yield before
    while piece := file.read(_PIECE):
        yield piece
    yield after


def _asked_for(keys: Keys) -> Dataset:
    """Return keys as the data set that a peer would read."""
    syntax = uids.EXPLICIT_VR_LITTLE_ENDIAN
    return identifier(encode(keys, syntax), syntax)


def _path(keys: Dataset, *, searching: bool) -> tuple[str, str]:
    """Return the level of the keys, and its path."""
    level = str(keys.get("QueryRetrieveLevel") or "").strip().upper()
    if level not in _UNIQUE:
        raise NotAccepted("DICOMweb has the levels STUDY, SERIES and IMAGE")
    path = ""
    for one, keyword in _UNIQUE.items():
        uid = keys.get(keyword)
        is_one = isinstance(uid, str) and uids.is_uid(uid)
        if one == level and searching:
            return level, f"{path}/{_PARTS[one]}"
        if is_one:
            path += f"/{_PARTS[one]}/{quote(str(uid))}"
        elif not searching:
            raise DataSetError(f"{keyword} is missing")
        if one == level:
            break
    return level, path


def _parameters(keys: Dataset, path: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a search: keys to match, and keys only to return."""
    for element in keys:
        name = element.keyword or f"{element.tag:08X}"
        if name in ("QueryRetrieveLevel", "SpecificCharacterSet"):
            continue
        if element.VR == "SQ":
            for item in element.value[:1]:
                yield from ((f"{name}.{key}", value) for key, value in _parameters(item, ""))
            continue
        value = element.value
        if value is None or value == "" or element.is_empty:
            yield "includefield", name
            continue
        several = value if element.VM > 1 else [value]
        text = ("," if element.VR == "UI" else "\\").join(map(str, several))
        if not (name in _UNIQUE.values() and f"/{text}" in path):
            yield name, text


def _json(response: http.client.HTTPResponse) -> Any:
    data = response.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise DataSetError(f"an answer of more than {_LONGEST} bytes")
    try:
        return json.loads(data or b"[]")
    except ValueError:
        raise DataSetError("the answer is not JSON") from None


def _failure(what: str, response: http.client.HTTPResponse) -> RequestFailed:
    code = response.status
    found = _STATUSES.get(code, OUT_OF_RESOURCES if code == 503 else UNABLE_TO_PROCESS)
    text = response.read(200).decode("utf-8", "replace").strip().partition("\n")[0]
    if not text or "<" in text:  # an HTML page
        text = "is the path of the URL right?" if code == 404 else ""
    comment = f"HTTP {code} {response.reason}" + (f": {text}" if text else "")
    return RequestFailed(what, Status(found, comment))


def _stored(what: str, response: http.client.HTTPResponse) -> Status:
    """Return the status of a store from its response (PS3.18 Annex I)."""
    try:
        answer = _json(response)
        answer = answer[0] if isinstance(answer, list) else answer
        dataset = parse(from_dicom_json(answer), uids.EXPLICIT_VR_LITTLE_ENDIAN)
    except (DataSetError, IndexError):
        if response.status == 200:
            return Status(0)
        raise _failure(what, response) from None
    for keyword in ("FailedSOPSequence", "OtherFailuresSequence"):
        for item in dataset.get(keyword) or ():
            raise RequestFailed(what, Status(int(item.get("FailureReason") or UNABLE_TO_PROCESS)))
    for item in dataset.get("ReferencedSOPSequence") or ():
        if item.get("WarningReason"):
            return Status(int(item.WarningReason))
    if response.status >= 400:
        raise _failure(what, response)
    return Status(0)
