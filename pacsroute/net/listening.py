"""The listening sockets of a server, by the names of the port settings."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

from pacsroute.config import SETTINGS, Config

_PORTS = tuple(name for name in SETTINGS if name.endswith("port"))


class Listener(NamedTuple):
    """A listening socket and its address in the settings.

    Parameters
    ----------
    host, port : str and int
        The address in the settings; port 0 means any free port.
    socket : socket.socket
        The listening socket.
    """

    host: str
    port: int
    socket: socket.socket


def addresses(config: Config) -> dict[str, tuple[str, int]]:
    """Return the hosts and ports in the settings, by the name of the port setting.

    Examples
    --------
    >>> addresses(Config(port=104, metrics_port=9104))
    {'port': ('127.0.0.1', 104), 'metrics_port': ('127.0.0.1', 9104)}
    """
    found = {}
    for name in _PORTS:
        port = getattr(config, name)
        if port is not None:
            found[name] = getattr(config, name.removesuffix("port") + "host", config.host), port
    return found


def listen(config: Config, kept: Mapping[str, Listener] | None = None) -> dict[str, Listener]:
    """Listen on all ports in the settings, or raise and listen on none.

    Parameters
    ----------
    config : Config
        The settings.
    kept : mapping of str to Listener, optional
        The result of an earlier call; its socket is reused for each address that is unchanged.

    Returns
    -------
    dict of str to Listener
        The sockets, by the name of the port setting.

    Raises
    ------
    OSError
        If a port is not available.
    """
    kept = kept or {}
    found: dict[str, Listener] = {}
    try:
        for name, (host, port) in addresses(config).items():
            one = kept.get(name)
            if one is None or one[:2] != (host, port):
                one = Listener(host, port, _listen(host, port))
            found[name] = one
    except BaseException:
        for name, one in found.items():
            if one is not kept.get(name):
                one.socket.close()
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
