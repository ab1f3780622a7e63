"""The sockets that a server listens at."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from pacsroute.config import Config


def listen(
    config: Config, kept: Mapping[str, socket.socket] | None = None
) -> dict[str, socket.socket]:
    """Listen at all ports of the settings, or at none.

    Parameters
    ----------
    config : Config
        The settings. TLS is spoken at the last port for peers that they have.
    kept : mapping of str to socket, optional
        What an earlier call has returned: the socket of what is asked for again is used again.

    Returns
    -------
    dict of str to socket
        The sockets by what was asked for.

    Raises
    ------
    OSError
        If it cannot listen there.
    """
    kept = kept or {}
    found: dict[str, socket.socket] = {}
    try:
        for name in ("port", "tls_port", "metrics_port"):
            host = config.metrics_host if name == "metrics_port" else config.host
            port = getattr(config, name)
            if port is not None:
                asked = f"{name} {host}:{port}"
                found[asked] = kept.get(asked) or _listen(host, port)
    except BaseException:
        for asked in found.keys() - kept.keys():
            found[asked].close()
        raise
    return found


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        error.filename = f"{host}:{port}"  # for its text
        raise
    except BaseException:
        listener.close()
        raise
    return listener
