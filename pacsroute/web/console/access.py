"""Who may see the console, and who may see patient data on it; that buttons are not forged."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request, Response

from pacsroute.framework.base import BaseApp
from pacsroute.web.caller import Caller, is_local

EVERYBODY = "*"
COOKIE = "pacsroute-console"
FIELD = "token"

_TOKEN = 32  # bytes


@dataclass(frozen=True)
class Viewer:
    """Who sees the console.

    Attributes
    ----------
    name : str
        The user's, as `@app.authenticate` returns it; empty for somebody on this machine.
    values : bool
        Whether patient data may be shown.
    token : str
        What the forms of the page carry, and the browser's cookie.
    """

    name: str
    values: bool
    token: str


def viewer_of(app: BaseApp, http: Request, caller: Caller) -> Viewer:
    """Return who sees the console, of those who were admitted.

    Somebody on this machine may, and users that the setting ``web_console`` names.

    Raises
    ------
    werkzeug.exceptions.Forbidden
        If this one may not.
    """
    config, name = app.config, user_name(caller.user)
    if not is_local(app, http.environ) and not _is_named(config.web_console, name):
        raise Forbidden(
            f"the setting web_console does not name {name or 'you'}"
            if name
            else "from other machines, the console is for users that web_console names"
        )
    token = http.cookies.get(COOKIE, "")
    if len(token) != 2 * _TOKEN or not token.isalnum():
        token = secrets.token_hex(_TOKEN)
    return Viewer(name, _is_named(config.web_console_values, name, anonymous=True), token)


def user_name(user: Any) -> str:
    """Return the name of a user: a text, or the ``name`` of a mapping or an object.

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


def remember(response: Response, http: Request, viewer: Viewer) -> None:
    """Give the browser the token of its forms."""
    response.set_cookie(
        COOKIE,
        viewer.token,
        path=f"{http.environ.get('SCRIPT_NAME', '')}/console",
        secure=http.is_secure,
        httponly=True,
        samesite="Strict",
    )


def check_button(app: BaseApp, http: Request, viewer: Viewer) -> None:
    """Refuse a button that was not pressed on a page of the console.

    The browser says which page has sent the form, and the form repeats the token of the cookie:
    another site knows neither, and another program on the same host cannot do both.

    Raises
    ------
    werkzeug.exceptions.Forbidden
        If it was not.
    """
    origin = http.headers.get("Origin", "")
    own = {f"{http.scheme}://{http.host}"}
    if public := app.config.web_public_url:
        parts = urlsplit(public)
        own.add(f"{parts.scheme}://{parts.netloc}")
    said, kept = http.form.get(FIELD, ""), http.cookies.get(COOKIE, "")
    same = bool(kept) and hmac.compare_digest(said.encode(), viewer.token.encode())
    if origin not in own or kept != viewer.token or not same:
        raise Forbidden("this button was not pressed on a page of this console: load it again")
