"""TLS for servers and clients, from files that may change while they are in use."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pacsroute.config import Config
from pacsroute.errors import SetupError

logger = logging.getLogger("pacsroute")

File = str | os.PathLike[str]
ClientCertificate = Literal["none", "optional", "required"]
Profile = Literal["bcp195", "modified"]

HANDSHAKE = 0x16
"""The first byte of a peer that speaks TLS (RFC 8446 §5.1); no PDU has it as its type."""

_VERSION, _UTC_TIME = 0xA0, 0x17  # tags of a certificate's version, and of a time before 2050

# For TLS 1.2. OpenSSL chooses those of TLS 1.3; it omits the two with CCM that PS3.15 §B.13 also
# lists, unless its own configuration adds them.
_CIPHERS = {
    # Forward secrecy and authenticated encryption (RFC 9325 §4.2).
    "bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20",
    # Named in PS3.15. The optional ones with DHE and Camellia are left out: we cannot
    # set the length of a DHE key, and OpenSSL has no Camellia with GCM.
    "modified": ":".join(
        (
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES256-CCM",
            "ECDHE-ECDSA-AES256-CCM8",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "ECDHE-RSA-CHACHA20-POLY1305",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES128-CCM",
            "ECDHE-ECDSA-AES128-CCM8",
        )
    ),
}


@dataclass(eq=False)
class TLS:
    """The certificate, key and trusted CAs of one side of TLS (PS3.15 §B.12, §B.13).

    The files are PEM. Changed files are read again for the next association; if they cannot be
    used, the previous content stays in use. So create one object, and keep it.

    Parameters
    ----------
    certificate : path, optional
        This side's certificate, followed by intermediate ones; a server needs one.
    key : path, optional
        The file of its private key, if it is a separate file.
    passphrase : str, optional
        The passphrase of the key.
    ca : path, optional
        The trusted certificates: CAs, or the peers' own. Without it, a
        client trusts the CAs of the system.
    client_certificate : str, optional
        Whether a server requires certificates of clients: ``none``, ``optional`` or ``required``.
        The default is ``required`` with `ca`, else ``none``.
    profile : str
        ``bcp195`` (§B.12), or ``modified`` (§B.13), which lists other cipher suites for TLS 1.2.
        Both allow TLS 1.2 and 1.3 only.
    verify : bool
        Whether a client checks the server's certificate at all.
    check_hostname : bool, optional
        Whether a client checks that the certificate is for the host that it called. Certificates of
        DICOM devices often name an application entity or a device instead of a host. By default a
        client checks the host only if it trusts the system's CAs, which sign for anyone.

    Raises
    ------
    SetupError
        If the parameters do not fit together; from `server` and `client`, if a file cannot be used.

    Examples
    --------
    ::

        pacs = Peer("10.0.0.7", 2762, "PACS", TLS("ours.pem", "ours.key", ca="hospital.pem"))
    """

    certificate: File | None = None
    key: File | None = None
    _: KW_ONLY
    passphrase: str | None = field(default=None, repr=False)
    ca: File | None = None
    client_certificate: ClientCertificate | None = None
    profile: Profile = "bcp195"
    verify: bool = True
    check_hostname: bool | None = None

    def __post_init__(self) -> None:
        if self.key and not self.certificate:
            raise SetupError("a TLS key needs its certificate: name both")
        if self.client_certificate not in (None, *get_args(ClientCertificate)):
            raise SetupError(f"{self.client_certificate!r}: none, optional or required")
        if self.profile not in _CIPHERS:
            raise SetupError(f"{self.profile!r} is not a TLS profile: use bcp195 or modified")
        if self.client_certificate in ("optional", "required") and not self.ca:
            raise SetupError("client certificates need a CA file that verifies them")
        self._made: dict[str, tuple[object, ssl.SSLContext]] = {}
        self._lock = threading.Lock()

    def server(self) -> ssl.SSLContext:
        """Return the TLS context of a server, from the current files."""
        return self._context("server", self._server)

    def client(self) -> ssl.SSLContext:
        """Return the TLS context of a client, from the current files."""
        return self._context("client", self._client)

    def _context(self, side: str, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        with self._lock:
            files = [_state(name) for name in (self.certificate, self.key, self.ca) if name]
            before, context = self._made.get(side, (None, None))
            if context is None:
                context = make()
            elif before != files:
                try:
                    context = make()
                    logger.info(
                        "TLS: %s or a related file has changed: reloading", self.certificate
                    )
                except SetupError as error:
                    logger.error("%s: the files loaded before stay in use", error)
            self._made[side] = files, context
            return context

    def _server(self) -> ssl.SSLContext:
        if not self.certificate:
            raise SetupError("a TLS server needs a certificate")
        context = self._either(ssl.PROTOCOL_TLS_SERVER)
        asked = self.client_certificate or ("required" if self.ca else "none")
        context.verify_mode = getattr(ssl, f"CERT_{asked.upper()}")
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        # Associations are few and long, and a client that closes without having read its
        # tickets resets the connection.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        return context

    def _client(self) -> ssl.SSLContext:
        context = self._either(ssl.PROTOCOL_TLS_CLIENT)
        named = self.check_hostname if self.check_hostname is not None else not self.ca
        context.check_hostname = self.verify and named
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        if not self.ca:
            context.load_default_certs()
        return context

    def _either(self, protocol: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS[self.profile])
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        # Many peers close without a close_notify alert. A truncated message is detected without
        # it, and an A-ABORT can still be sent.
        context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.ca:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                raise SetupError(f"TLS: {self.ca} cannot be used: {explain(error)}") from None
        if self.certificate:
            both = f"{self.certificate} and {self.key}" if self.key else str(self.certificate)
            try:
                # Without a passphrase, OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.certificate, self.key, self.passphrase or "")
            except (OSError, ValueError) as error:
                raise SetupError(f"TLS: {both} cannot be used: {explain(error)}") from None
        return context


def _state(name: File) -> object:
    """Return a value that changes when the file changes."""
    try:
        found = os.stat(name)
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


def configured(config: Config) -> TLS | None:
    """Return the TLS settings of a server; its files have been checked."""
    names = ("certificate", "key", "ca", "client_certificate", "port")
    if all(getattr(config, f"tls_{name}") is None for name in names):
        return None
    tls = TLS(
        config.tls_certificate,
        config.tls_key,
        passphrase=config.tls_key_passphrase,
        ca=config.tls_ca,
        client_certificate=config.tls_client_certificate,  # type: ignore[arg-type]
        profile=config.tls_profile,  # type: ignore[arg-type]
    )
    tls.server()
    return tls


def subject(certificate: Mapping[str, Any]) -> str:
    """Return the subject of a certificate, for people.

    Examples
    --------
    >>> subject({"subject": ((("organizationName", "Hospital"),), (("commonName", "CT1"),))})
    'organizationName=Hospital, commonName=CT1'
    """
    names = (pair for relative in certificate.get("subject", ()) for pair in relative)
    return ", ".join(f"{name}={value}" for name, value in names)


def expires(certificate: File) -> float:
    """Return when a certificate ends, in seconds since 1970 (RFC 5280 §4.1.2.5).

    Parameters
    ----------
    certificate : path
        A PEM file; only its first certificate counts.

    Raises
    ------
    OSError
        If it cannot be read.
    SetupError
        If it contains no certificate.
    """
    text = Path(certificate).read_text("ascii", "replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, _, rest = text.partition(begin)
    try:
        whole = ssl.PEM_cert_to_DER_cert(f"{begin}{rest.partition(end)[0]}{end}")
        ((_, signed),) = _elements(whole)
        (_, fields), *_ = _elements(signed)
        at = [one for one in _elements(fields) if one[0] != _VERSION]
        _, (kind, ends) = _elements(at[3][1])  # after serial number, algorithm and issuer
        written = ends.decode("ascii")
        form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
        return datetime.strptime(written, form).replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError) as error:
        raise SetupError(f"TLS: {certificate} has no certificate: {error}") from None


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tags and contents of elements in DER (X.690 §8.1)."""
    while der:
        tag, length, at = der[0], der[1], 2
        if length & 0x80:
            at += length & 0x7F
            length = int.from_bytes(der[2:at], "big")
        yield tag, der[at : at + length]
        der = der[at + length :]


def explain(error: Exception) -> str:
    """Return a short reason why TLS failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused, {error.verify_message}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "the connection was closed in the middle of it"
    if isinstance(error, ssl.SSLError) and "PEM lib" in str(error):
        return "it is not PEM, the key is not there, or its passphrase is wrong"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "the other side does not use TLS"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
