"""The settings of an app: their defaults and their sources."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pacsroute import allow, memory
from pacsroute.errors import SetupError, nearest

MIB = 1_048_576
RESPONSE_TIMEOUT = 120.0
"""Seconds without a message after which a request of ours has timed out."""


def _setting(
    default: Any,
    purpose: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    *,
    scope: Literal["app", "server"] = "app",
    secret: bool = False,
    path: bool = False,
) -> Any:
    """Describe a setting.

    A setting of scope ``server`` may differ between servers of the same app. A path is given as
    text or path, and kept as text.
    """
    metadata = {"purpose": purpose, "low": low, "high": high, "choices": choices}
    metadata |= {"scope": scope, "path": path}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(kw_only=True)
class Config:
    """The settings of an app and of the server around it.

    Later values win: first the defaults and the arguments of `App`, then `from_mapping`,
    `from_file` and `from_environment` in the order of their calls. ``pacsroute run`` adds
    ``--config``, the environment and its own options, in this order.

    Every value is checked when it is set, and unknown names are errors.

    Raises
    ------
    SetupError
        If a value is not valid, or a setting is unknown.

    Examples
    --------
    >>> config = Config(ae_title="ARCHIVE")
    >>> config.from_mapping({"max_associations": "50"})
    >>> config.max_associations
    50
    >>> config.max_asociations = 10
    Traceback (most recent call last):
    pacsroute.errors.SetupError: there is no setting 'max_asociations'; did you mean 'max_associations'?
    """  # noqa: E501 - the message of the example

    # After a change: python tests/support/generate_settings.py
    # Identity, address, data sets.
    ae_title: str = _setting("PACSROUTE", "The app's AE title, 1 to 16 characters.")
    host: str = _setting(
        "127.0.0.1",
        "The address to listen on; 0.0.0.0 accepts other machines, too.",
        scope="server",
    )
    port: int = _setting(
        11112, "The port to listen on; 0 picks a free one.", 0, 65535, scope="server"
    )
    spool: str | None = _setting(
        None,
        "Folder for large data sets while they arrive; by default, where the last one was saved.",
        path=True,
    )
    jobs: str | None = _setting(
        None,
        "File or PostgreSQL URL of the job queue; by default jobs.db in the spool, else here.",
        secret=True,
    )
    charset: str | None = _setting(None, "Specific Character Set of responses.")
    default_charset: tuple[str, ...] = _setting(
        (),
        "Specific Character Set to assume for data sets without one: TERM, or AE=TERM for a peer.",
    )
    # A large maximum length means few PDUs. With 1 MiB instead of 128 KiB, eight concurrent
    # associations store 1.5 times as much per second, and 200 MB take 0.6 of the time. The buffer
    # is allocated only for peers that use it; DCMTK's tools do not.
    maximum_length: int = _setting(
        MIB,
        "Maximum length of the P-DATA-TF PDUs that peers may send, in bytes.",
        4096,
        0x0FFF_FFFF,
    )
    outstanding: int = _setting(
        1, "Operations that may overlap on one association (PS3.7 §D.3.3.3).", 1, 1000
    )
    get_without_role: bool = _setting(
        False, "Answer a C-GET even if the peer proposes no SCP role for storage."
    )
    debug: bool = _setting(False, "Send exceptions of handlers to peers, in the Error Comment.")

    # Access: which peers may associate.
    allow: tuple[str, ...] = _setting(
        (), "Peers that may associate: AE, NETWORK or AE@NETWORK; by default every peer."
    )
    require_called_ae: bool = _setting(False, "Reject called AE titles that are not the app's.")
    called_ae_titles: tuple[str, ...] = _setting(
        (), "More called AE titles to accept with --require-called-ae."
    )
    proxy_from: tuple[str, ...] = _setting(
        (),
        "Networks of load balancers; other connections, and those without PROXY, are closed.",
        scope="server",
    )

    # TLS (PS3.15 §B.12, §B.13). The files are PEM, and are read again after a change.
    tls_certificate: str | None = _setting(
        None,
        "The server's certificate, in PEM; it turns on TLS, on --tls-port or else on --port.",
        scope="server",
        path=True,
    )
    tls_key: str | None = _setting(
        None, "The certificate's key, if it is in another file.", scope="server", path=True
    )
    tls_key_passphrase: str | None = _setting(
        None,
        "The key's passphrase; PACSROUTE_TLS_KEY_PASSPHRASE keeps it out of process lists.",
        secret=True,
        scope="server",
    )
    tls_ca: str | None = _setting(
        None,
        "CA certificates; clients need a certificate from one of them.",
        scope="server",
        path=True,
    )
    tls_client_certificate: str | None = _setting(
        None,
        "Clients' certificates: none, optional or required; with --tls-ca, required by default.",
        choices=("none", "optional", "required"),
        scope="server",
    )
    tls_port: int | None = _setting(
        None,
        "A second port, for TLS, while --port stays without TLS; 2762 is registered.",
        0,
        65535,
        scope="server",
    )
    tls_profile: str = _setting(
        "bcp195",
        "TLS profile: bcp195 or modified (PS3.15 §B.12 or §B.13).",
        choices=("bcp195", "modified"),
        scope="server",
    )

    # Metrics and health, over HTTP.
    log_level: str = _setting(
        "info",
        "Level of the log: debug, info, warning or error.",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "plain",
        "Format of the log: plain, or json with one object a line.",
        choices=("plain", "json"),
    )
    metrics_port: int | None = _setting(
        None,
        "A port for /metrics, /health and /ready over HTTP; 0 picks a free one.",
        0,
        65535,
        scope="server",
    )
    metrics_host: str = _setting(
        "127.0.0.1", "The address that --metrics-port listens on.", scope="server"
    )

    # DICOMweb and pages of the app, over HTTP (PS3.18).
    web_port: int | None = _setting(
        None,
        "A port for DICOMweb and app.web over HTTP; 0 picks a free one.",
        0,
        65535,
        scope="server",
    )
    web_host: str = _setting("127.0.0.1", "The address that --web-port listens on.", scope="server")
    web_root: str = _setting("/dicom-web", "The path under which DICOMweb is served.")
    web_public_url: str | None = _setting(
        None, "The server's URL for clients, such as https://pacs.example; used in responses."
    )
    web_ae_title: str = _setting(
        "DICOMWEB", "The calling AE title that handlers see for HTTP requests."
    )
    web_cors: tuple[str, ...] = _setting(
        (), "Origins allowed by CORS, such as https://viewer.example; * allows any."
    )
    web_open: bool = _setting(
        False, "Answer HTTP clients on other machines without authentication."
    )
    web_hosts: tuple[str, ...] = _setting(
        (),
        "Names of this machine, besides localhost, that local clients may send in the Host header.",
    )
    web_trust_proxy: int = _setting(
        0, "Number of reverse proxies in front, whose X-Forwarded headers are trusted.", 0, 10
    )
    web_certificate: str | None = _setting(
        None, "The certificate for --web-port, in PEM; it turns on HTTPS.", path=True
    )
    web_key: str | None = _setting(
        None, "The certificate's key, if it is in another file.", path=True
    )
    web_ca: str | None = _setting(
        None, "CA certificates; HTTPS clients need a certificate from one of them.", path=True
    )
    web_console: tuple[str, ...] = _setting(
        (), "Users who may see /console from other machines; * is every authenticated user."
    )
    web_console_values: tuple[str, ...] = _setting(
        (), "Users who may see patient data at /console; * is everybody who may see the console."
    )
    web_threads: int = _setting(16, "HTTP requests handled at once.", 1, 1000)
    web_connections: int = _setting(200, "HTTP connections at once.", 1, 100_000)
    web_idle: float = _setting(60.0, "Time that an idle HTTP connection is kept open.", 0.01)
    web_viewer: str | None = _setting(
        None, "Folder of a built viewer, such as OHIF's dist, served at /viewer.", path=True
    )
    web_jobs: bool = _setting(
        False, "Run durable jobs also in the processes of another WSGI server."
    )
    max_results: int = _setting(1000, "Matches returned for a query over HTTP.", 1)
    max_web_header: int = _setting(65_536, "Length of the head of an HTTP request, in bytes.", 1024)
    max_web_body: int = _setting(
        65_536 * MIB, "Length of the body of an HTTP request, in bytes.", 0
    )
    max_web_parts: int = _setting(10_000, "Parts of a multipart body.", 1)
    max_web_parameters: int = _setting(200, "Parameters of an HTTP request.", 1)

    # Limits. Lengths are in bytes.
    max_associations: int = _setting(
        500,
        "Associations at once, in each process of each node; more are rejected.",
        0,
        scope="server",
    )
    max_associations_per_host: int = _setting(
        250, "Associations of one host at once, in each process of each node.", 1, scope="server"
    )
    max_associations_per_ae: int = _setting(
        250,
        "Associations of one calling AE at once, in each process of each node.",
        1,
        scope="server",
    )
    max_associate_length: int = _setting(
        MIB, "Length of an association request, in bytes.", 512, scope="server"
    )
    max_contexts: int = _setting(128, "Presentation contexts in an association request.", 1)
    max_command_length: int = _setting(
        65_536, "Length of a command set, in bytes.", 512, scope="server"
    )
    max_identifier_length: int = _setting(
        4 * MIB, "Length of an identifier or another data set without its own limit, in bytes.", 512
    )
    max_set_length: int = _setting(
        256 * MIB, "Length of an N-SET's data set, such as images to print, in bytes.", 512
    )
    max_dataset_length: int = _setting(
        16_384 * MIB, "Length of a data set to store, in bytes.", 512
    )
    max_spool: int = _setting(65_536 * MIB, "Length of all data sets in the spool, in bytes.", 0)
    max_memory: int = _setting(
        memory.DEFAULT,
        "Memory for the data of all peers, in each process, in bytes.",
        MIB,
    )
    max_depth: int = _setting(64, "Depth to which sequences may be nested.", 1, 200)
    max_elements: int = _setting(20_000_000, "Elements and items in a data set.", 1000)
    max_inflated: int = _setting(
        1024 * MIB, "Length of a deflated data set when inflated, in bytes.", 512
    )

    # Decoding of compressed pixels, in child processes.
    decoders: int = _setting(
        2, "Processes that decode pixels; they start when first needed.", 1, 64
    )
    decode_memory: int = _setting(
        1024 * MIB, "Memory of each decoder, in bytes; a frame may use an eighth of it.", 64 * MIB
    )
    decode_seconds: float = _setting(
        10.0, "CPU time for a frame, and for each 16 MiB of a larger one.", 0.1
    )

    # Times, in seconds.
    artim: float = _setting(
        30.0,
        "Time for the association request to arrive, and for a peer to close the connection.",
        0.01,
        scope="server",
    )
    idle_timeout: float = _setting(
        900.0,
        "Time without a message, after which an association is aborted.",
        0.01,
        scope="server",
    )
    network_timeout: float = _setting(
        60.0,
        "Time without a byte in the middle of a message, received or sent.",
        0.01,
        scope="server",
    )
    min_rate: int = _setting(
        1000,
        "Minimum rate of a message after --network-timeout, in bytes a second.",
        1,
        scope="server",
    )
    connect_timeout: float = _setting(10.0, "Time to connect to a peer.", 0.01)
    drain: float = _setting(
        0.0,
        "Time to keep serving after SIGTERM, while /ready answers 503 for load balancers.",
        0,
        scope="server",
    )
    grace: float = _setting(
        10.0, "Time that associations have to finish when the server stops.", 0, scope="server"
    )

    if not TYPE_CHECKING:  # otherwise type checkers would accept any name

        def __setattr__(self, name, value):
            object.__setattr__(self, name, _checked(name, value))

    def from_mapping(self, mapping: Mapping[str, object]) -> None:
        """Take settings from a mapping; strings are converted.

        Parameters
        ----------
        mapping : mapping of str to object
            Values by the settings' names.
        """
        for name, value in mapping.items():
            setattr(self, name, value)

    def from_file(self, path: str | os.PathLike[str]) -> None:
        """Take settings from a TOML file, whose keys are the names of settings.

        Parameters
        ----------
        path : path
            The file. A relative `spool` in it is relative to its folder.

        Raises
        ------
        SetupError
            If a setting is not valid, or the file does not exist or is not TOML.
        """
        import tomllib  # noqa: PLC0415 - only if there is such a file

        path = Path(path)
        try:
            found = tomllib.loads(path.read_text("utf-8"))
            if isinstance(found.get("spool"), str) and found["spool"]:
                found["spool"] = str(path.parent / found["spool"])
            self.from_mapping(found)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, SetupError) as error:
            why = getattr(error, "strerror", None) or error
            raise SetupError(f"{path}: {why}") from None

    def from_environment(
        self, prefix: str = "PACSROUTE_", environment: Mapping[str, str] = os.environ
    ) -> None:
        """Take settings from environment variables, such as ``PACSROUTE_MAX_ASSOCIATIONS``.

        List items are separated by commas. Other variables with the prefix are ignored, since the
        commands use some too, unless they look like a misspelt setting.

        Parameters
        ----------
        prefix : str
            The beginning of their names.
        environment : mapping of str to str
            The variables.
        """
        for variable, value in environment.items():
            name = variable.removeprefix(prefix).lower()
            if not variable.startswith(prefix):
                continue
            if name in SETTINGS or nearest(name, SETTINGS, 0.85):
                try:
                    setattr(self, name, value)
                except SetupError as error:
                    raise SetupError(f"{variable}: {error}") from None

    def replace(self, **settings: Any) -> Config:
        """Return a copy with some settings changed."""
        if not settings:
            return self
        copy = dataclasses.replace(self)
        copy.from_mapping(settings)
        return copy


def check_own(settings: Iterable[str]) -> None:
    """Raise a `SetupError` for settings that a server or association cannot override."""
    for name in settings:
        if name in SETTINGS and SETTINGS[name].metadata["scope"] == "app":
            raise SetupError(f"{name} is a setting of the app: use App({name}=…)")


SETTINGS = {setting.name: setting for setting in dataclasses.fields(Config)}
"""The settings by name; the metadata of each holds the arguments of `_setting`."""
SECTIONS = {
    "ae_title": "Address and data sets",
    "allow": "Access",
    "tls_certificate": "TLS",
    "log_level": "Log",
    "metrics_port": "Metrics and health",
    "web_port": "DICOMweb and HTTP",
    "max_associations": "Limits",
    "decoders": "Decoding of compressed pixels",
    "artim": "Times",
}
"""The headings of the settings, by the first setting under each."""

_KINDS = get_type_hints(Config)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def _checked(name: str, value: Any) -> Any:
    setting = SETTINGS.get(name)
    if setting is None:
        raise SetupError(f"there is no setting {name!r}{nearest(name, SETTINGS)}")
    said, value = value, _converted(name, value)
    if name == "allow" and not value and isinstance(said, str):
        raise SetupError(
            "allow is empty, which would admit every peer: if you want that, leave it out"
        )
    low, high = setting.metadata["low"], setting.metadata["high"]
    if value is None:
        return value
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
        raise SetupError(f"{name} must be {bounds}, not {value!r}")
    choices = setting.metadata["choices"]
    if choices:
        value = value.lower()
    if choices and value not in choices:
        raise SetupError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if name in ("ae_title", "web_ae_title"):
        return allow.ae_title(value)
    if name == "web_root":
        return "/" + value.strip("/")
    if name == "called_ae_titles":
        return tuple(map(allow.ae_title, value))
    if name == "allow":
        for text in value:
            allow.rule(text)
    if name == "proxy_from":
        for text in value:
            allow.network_of(text)
    return value


def _converted(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    if kind == int | None:
        if value in (None, ""):
            return None
        kind = int
    is_text = isinstance(value, (str, os.PathLike))
    try:
        if kind is bool:
            if isinstance(value, str):
                return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[value.lower()]
            if isinstance(value, bool):
                return value
        elif kind in (int, float):
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                number = kind(value)
                if math.isfinite(number) and (isinstance(value, str) or number == value):
                    return number
        elif kind is str:
            if is_text:
                return os.fspath(value)
        elif kind == str | None:
            if value is None or is_text:
                return os.fspath(value or "") or None
        elif isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        elif isinstance(value, Iterable) and all(isinstance(part, str) for part in value):
            return tuple(value)
    except (ValueError, KeyError, OverflowError):
        pass
    what = {bool: "true or false", int: "a whole number", float: "a number"}
    text = kind in (str, str | None)
    shown = f", not {value!r}" if SETTINGS[name].repr else ""  # some values are secret
    wanted = "a string" if text else what.get(kind, "a list of strings")
    raise SetupError(f"{name} must be {wanted}{shown}")
