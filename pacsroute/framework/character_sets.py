"""The settings of character sets, and the default for peers that declare none."""

from __future__ import annotations

from pacsroute.allow import ae_title
from pacsroute.config import Config
from pacsroute.errors import SetupError, nearest


def check_charset(text: str) -> None:
    r"""Raise a `SetupError` if a text is not a Specific Character Set (PS3.3 §C.12.1.1.2)."""
    from pacsroute.dataset.charsets import SUPPORTED  # noqa: PLC0415 - over 1 ms, seldom asked

    for term in text.split("\\"):
        if term and term not in SUPPORTED:
            raise SetupError(f"{term!r} is not a Specific Character Set{nearest(term, SUPPORTED)}")


def check_charsets(config: Config) -> None:
    """Raise a `SetupError` if a setting is not a Specific Character Set."""
    if config.charset is not None:
        check_charset(config.charset)
    for text in config.default_charset:
        title, is_of_one, term = text.rpartition("=")
        try:
            if is_of_one:
                ae_title(title)
            check_charset(term)
        except SetupError as error:
            raise SetupError(f"default_charset: {error}") from None


def default_charset(config: Config, peer: str) -> str:
    """Return the Specific Character Set of undeclared data; empty for the default repertoire.

    Parameters
    ----------
    config : Config
        The settings; ``default_charset`` is used.
    peer : str
        The AE title that sent the data.

    Examples
    --------
    >>> config = Config(default_charset=("ISO_IR 192", "CT1=GB18030"))
    >>> default_charset(config, "CT1"), default_charset(config, "CT2")
    ('GB18030', 'ISO_IR 192')
    """
    of_all = ""
    for text in config.default_charset:
        title, is_of_one, term = text.rpartition("=")
        if not is_of_one:
            of_all = term
        elif title.strip() == peer:
            return term
    return of_all
