"""The settings that `App`, `serve` and `run` accept, for type checkers only.

At run time `Config` checks names and values. This file is generated from it:
python tests/support/generate_settings.py
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, TypedDict


class ServerSettings(TypedDict, total=False):
    """The settings that may differ between servers of the same app."""

    proxy_from: Iterable[str]
    tls_certificate: str | os.PathLike[str] | None
    tls_key: str | os.PathLike[str] | None
    tls_key_passphrase: str | None
    tls_ca: str | os.PathLike[str] | None
    tls_client_certificate: Literal["none", "optional", "required"] | None
    tls_port: int | None
    tls_profile: Literal["bcp195", "modified"]
    metrics_port: int | None
    metrics_host: str
    web_port: int | None
    web_host: str
    max_associations: int
    max_associations_per_host: int
    max_associations_per_ae: int
    max_associate_length: int
    max_command_length: int
    artim: float
    idle_timeout: float
    network_timeout: float
    min_rate: int
    drain: float
    grace: float


class Settings(ServerSettings, total=False):
    """The settings of an app."""

    host: str
    port: int
    spool: str | os.PathLike[str] | None
    jobs: str | None
    charset: str | None
    default_charset: Iterable[str]
    maximum_length: int
    outstanding: int
    get_without_role: bool
    debug: bool
    allow: Iterable[str]
    require_called_ae: bool
    called_ae_titles: Iterable[str]
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["plain", "json"]
    web_root: str
    web_public_url: str | None
    web_ae_title: str
    web_cors: Iterable[str]
    web_open: bool
    web_hosts: Iterable[str]
    web_trust_proxy: int
    web_certificate: str | os.PathLike[str] | None
    web_key: str | os.PathLike[str] | None
    web_ca: str | os.PathLike[str] | None
    web_console: Iterable[str]
    web_console_values: Iterable[str]
    web_threads: int
    web_connections: int
    web_idle: float
    web_viewer: str | os.PathLike[str] | None
    web_jobs: bool
    max_results: int
    max_web_header: int
    max_web_body: int
    max_web_parts: int
    max_web_parameters: int
    max_contexts: int
    max_identifier_length: int
    max_set_length: int
    max_dataset_length: int
    max_spool: int
    max_memory: int
    max_depth: int
    max_elements: int
    max_inflated: int
    decoders: int
    decode_memory: int
    decode_seconds: float
    connect_timeout: float
