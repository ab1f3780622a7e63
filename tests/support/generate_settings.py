"""Generate `pacsroute/settings.py` from `Config`: python tests/support/generate_settings.py"""

from pathlib import Path
from typing import get_type_hints

from pacsroute.config import SETTINGS, Config

TARGET = Path(__file__).parents[2] / "pacsroute" / "settings.py"
HEAD = '''\
"""The settings that `App`, `serve` and `run` accept, for type checkers only.

At run time `Config` checks names and values. This file is generated from it:
python tests/support/generate_settings.py
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, TypedDict
'''
NAMED = {"App": {"ae_title"}, "Server": {"host", "port"}}  # what these have parameters for


def accepted(name):
    """Return the type of what may be given for a setting."""
    kind, metadata = get_type_hints(Config)[name], SETTINGS[name].metadata
    if kind == tuple[str, ...]:
        return "Iterable[str]"
    text = str(kind) if kind is not (plain := getattr(kind, "__name__", "")) else plain
    text = text.removeprefix("<class '").removesuffix("'>")
    if metadata["choices"]:
        choices = ", ".join(f'"{choice}"' for choice in metadata["choices"])
        return text.replace("str", f"Literal[{choices}]")
    return text.replace("str", "str | os.PathLike[str]") if metadata["path"] else text


def typed_dict(heading, purpose, names):
    lines = [f"class {heading}:", f'    """{purpose}"""', ""]
    return "\n".join(lines + [f"    {name}: {accepted(name)}" for name in names]) + "\n"


def generate():
    """Return the text of the module."""
    of_server = {name for name in SETTINGS if SETTINGS[name].metadata["scope"] == "server"}
    smaller = [name for name in SETTINGS if name in of_server - NAMED["Server"]]
    rest = [name for name in SETTINGS if name not in {*smaller, *NAMED["App"]}]
    classes = (
        typed_dict(
            "ServerSettings(TypedDict, total=False)",
            "The settings that may differ between servers of the same app.",
            smaller,
        ),
        typed_dict("Settings(ServerSettings, total=False)", "The settings of an app.", rest),
    )
    return "\n\n".join((HEAD, *classes))


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
