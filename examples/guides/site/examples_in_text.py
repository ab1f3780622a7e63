"""Shows the examples in the text of modules' docstrings as code; mkdocstrings loads this."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExamplesInText(griffe.Extension):
    """Puts each paragraph of a module's docstring that is an example into a fence."""

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Change the docstring of a module."""
        if mod.docstring is not None:
            text = re.sub(r"\n\n(?=>>> )", "\n\n```pycon\n", mod.docstring.value)
            mod.docstring.value = re.sub(
                r"(```pycon\n.*?)(?=\n\n(?!```)|\Z)", r"\1\n```", text, flags=re.DOTALL
            )
