"""Access to the console and to its patient data; protection against forged forms."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request, Response

from pacsroute.audit.event import SERIOUS, SUCCESS
from pacsroute.framework.auditing import accessed
from pacsroute.framework.base import BaseApp
from pacsroute.web.caller import Caller, is_local

ROOT = "/console"
EVERYBODY = "*"
COOKIE = "pacsroute-console"
FIELD = "token"

Action = Literal["R", "C", "U", "D", "E"]

_TOKEN = 32  # bytes


@dataclass(frozen=True)
class Visit:
    """A request for a page of the console, from an admitted user.

    Attributes
    ----------
    app : App
        The app of the console.
    http : werkzeug.Request
        The request.
    caller : Caller
        The client.
    name : str
        The user's name; empty for a local user.
    values : bool
        Whether patient data may be shown.
    token : str
        The token in the page's forms and in the browser's cookie.
    """

    app: BaseApp
    http: Request
    caller: Caller
    name: str
    values: bool
    token: str

    @property
    def root(self) -> str:
        """The path of the console."""
        return f"{self.http.environ.get('SCRIPT_NAME', '')}{ROOT}"

    def tell(self, what: str, *, action: Action = "R", failed: bool = False) -> None:
        """Report this visit to `@app.audit`."""
        if self.app.auditors:
            outcome = SERIOUS if failed else SUCCESS
            accessed(self.app, self.caller, what, action=action, outcome=outcome)


def visit_of(app: BaseApp, http: Request, caller: Caller) -> Visit:
    """Return the visit of an admitted user who may see the console.

    Local users may see it, and users named in the setting ``web_console``.

    Raises
    ------
    werkzeug.exceptions.Forbidden
        If the sender may not see it.
    """
    config, name = app.config, user_name(caller.user)
    if not is_local(app, http.environ) and not _is_named(config.web_console, name):
        raise Forbidden(
            f"the setting web_console does not name {name}"
            if name
            else "from other machines, the console is for users whom web_console names"
        )
    token = http.cookies.get(COOKIE, "")
    if len(token) != 2 * _TOKEN or not token.isalnum() or not token.isascii():
        token = secrets.token_hex(_TOKEN)
    values = _is_named(config.web_console_values, name, anonymous=True)
    return Visit(app, http, caller, name, values, token)


def user_name(user: Any) -> str:
    """Return the name of a user: the text itself, or the ``name`` of a mapping or object.

    Examples
    --------
    >>> user_name("doe"), user_name({"name": "doe"}), user_name(None)
    ('doe', 'doe', '')
    """
    if isinstance(user, Mapping):
        user = user.get("name")
    elif not isinstance(user, str):
        user = getattr(user, "name", None)
    return user if isinstance(user, str) else ""


def _is_named(names: tuple[str, ...], name: str, *, anonymous: bool = False) -> bool:
    if EVERYBODY in names:
        return bool(name) or anonymous
    return bool(name) and name in names


def remember(response: Response, visit: Visit) -> None:
    """Set the form token as a cookie."""
    response.set_cookie(
        COOKIE,
        visit.token,
        path=visit.root,
        secure=visit.http.is_secure,
        httponly=True,
        samesite="Strict",
    )


def check_button(visit: Visit) -> None:
    """Refuse a form that was not sent by a page of the console.

    The browser states which page sent the form, and the form repeats the cookie's token. Another
    site can provide neither, and another program on the same host cannot provide both.

    Raises
    ------
    werkzeug.exceptions.Forbidden
        If it comes from elsewhere.
    """
    http = visit.http
    own = {f"{http.scheme}://{http.host}"}
    if public := visit.app.config.web_public_url:
        parts = urlsplit(public)
        own.add(f"{parts.scheme}://{parts.netloc}")
    said, kept = http.form.get(FIELD, ""), http.cookies.get(COOKIE, "")
    same = hmac.compare_digest(said.encode(), visit.token.encode())
    if http.headers.get("Origin", "") not in own or kept != visit.token or not same:
        visit.tell("a button that was not pressed on a page of the console", failed=True)
        raise Forbidden("this button was not pressed on a page of this console: load it again")
