"""The rules of the setting `allow`: which AE titles and networks may associate."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from pacsroute.errors import SetupError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rule(NamedTuple):
    """A calling AE title, a network, or both; None is any."""

    ae_title: str | None
    network: Network | None


@functools.lru_cache(maxsize=1024)
def rule(text: str) -> Rule:
    """Parse a rule: ``AE``, ``NETWORK`` or ``AE@NETWORK``.

    Raises
    ------
    SetupError
        If it is not a valid rule.

    Examples
    --------
    >>> rule("CT1@10.1.0.0/16")
    Rule(ae_title='CT1', network=IPv4Network('10.1.0.0/16'))
    >>> rule("CT1").network, rule("10.1.2.3").ae_title
    (None, None)
    """
    title, at, address = text.rpartition("@")
    if not at:
        network = _network(text)
        if network is not None:
            return Rule(None, network)
        title = text
        if "/" in text:
            raise SetupError(f"{text!r} is neither a network such as 10.1.0.0/16 nor an AE title")
    else:
        network = _network(address)
        if network is None:
            raise SetupError(f"{text!r}: {address!r} is not a network such as 10.1.0.0/16")
    try:
        title = ae_title(title)
    except SetupError as error:
        raise SetupError(f"{text!r} is not AE, NETWORK or AE@NETWORK: {error}") from None
    return Rule(None if title == "*" else title, network)


def ae_title(text: str) -> str:
    """Return an AE title without the spaces around it (PS3.5 §6.2).

    Raises
    ------
    SetupError
        If it is not a valid AE title.
    """
    title = text.strip(" ") if isinstance(text, str) else ""
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable():
        raise SetupError(
            f"{text!r} is not a valid AE title: use 1 to 16 printable ASCII characters"
        )
    if "\\" in title:
        raise SetupError(f"{text!r} is not a valid AE title: it must not contain a backslash")
    return title


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None


def allowed(rules: Iterable[str], ae_title: str, address: str) -> bool:
    """Return whether a rule admits a calling AE title from an address; without rules, all may.

    Examples
    --------
    >>> allowed(["CT1@10.1.0.0/16", "127.0.0.1"], "CT1", "10.2.0.1")
    False
    >>> allowed(["CT1@10.1.0.0/16", "127.0.0.1"], "CT2", "::ffff:127.0.0.1")
    True
    """
    found = [rule(text) for text in rules]
    return not found or any(
        one.ae_title in (None, ae_title) and _within(address, one.network) for one in found
    )


def within(address: str, network: str) -> bool:
    """Return whether an address is in a network.

    Examples
    --------
    >>> within("::ffff:10.1.2.3", "10.0.0.0/8"), within("192.168.0.1", "10.0.0.0/8")
    (True, False)
    """
    return _within(address, network_of(network))


@functools.lru_cache(maxsize=64)
def network_of(text: str) -> Network:
    """Parse a network.

    Raises
    ------
    SetupError
        If it is not valid.

    Examples
    --------
    >>> network_of("10.1.2.3")
    IPv4Network('10.1.2.3/32')
    """
    found = _network(text)
    if found is None:
        raise SetupError(f"{text!r} is not a network such as 10.1.0.0/16")
    return found


def _within(address: str, network: Network | None) -> bool:
    if network is None:
        return True
    try:
        host = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    # On a dual-stack socket, an IPv4 peer has an address that looks like IPv6.
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return (mapped or host) in network
