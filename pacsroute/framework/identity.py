"""The identity that a peer claims."""

from __future__ import annotations

from typing import Literal

from pacsroute.upper_layer.pdu import UserIdentity

Kind = Literal["username", "passcode", "kerberos", "saml", "jwt", "unknown"]
_KINDS: dict[int, Kind] = {
    1: "username",
    2: "passcode",
    3: "kerberos",
    4: "saml",
    5: "jwt",
}
NAMED = ("username", "passcode")


class Identity:
    """The identity that a peer claims, for `@app.authenticate` (PS3.7 §D.3.3.7).

    Attributes
    ----------
    kind : str
        ``username``, ``passcode`` (with a user name), ``kerberos``, ``saml``, ``jwt``, or
        ``unknown`` for a type that the standard does not define.
    name : str
        The user name; empty if there is a token.
    token : bytes
        The Kerberos service ticket, SAML assertion or JSON Web Token, or the bytes of an unknown
        type; else empty.
    response : bytes
        The response to a peer that requests one: a Kerberos server ticket or SAML response, set by
        the function that authenticates. The response to a user name is empty (PS3.7 §D.3.3.7.2).
    """

    def __init__(self, identity: UserIdentity) -> None:
        self.kind: Kind = _KINDS.get(identity.type, "unknown")
        has_name = self.kind in NAMED
        self.name = identity.primary.decode("utf-8", "replace") if has_name else ""
        self.token = b"" if has_name else identity.primary
        self.response = b""
        self._passcode = identity.secondary

    def __repr__(self) -> str:
        return f"Identity({self.kind!r})"  # neither names nor secrets in a log

    @property
    def passcode(self) -> str:
        """The passcode, for passing on; to compare it, use `proves`."""
        return self._passcode.decode("utf-8", "replace")

    def proves(self, name: str, passcode: str) -> bool:
        """Return whether this is a user name and its passcode, in constant time.

        Examples
        --------
        >>> Identity(UserIdentity(2, False, b"doe", b"secret")).proves("doe", "secret")
        True
        """
        import hmac  # noqa: PLC0415 - with OpenSSL behind it, only for comparisons

        same_name = hmac.compare_digest(self.name.encode(), name.encode())
        same_passcode = hmac.compare_digest(self._passcode, passcode.encode())
        return self.kind == "passcode" and same_name and same_passcode
