"""Collects the project's English: pages, docstrings, comments, messages and help texts."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.places import ROOT

PAGES = ("README.md", "CHANGELOG.md", ".github/*.md", "tests/README.md", "examples/**/*.md")
SOURCES = ("pacsroute/**/*.py", "examples/**/*.py")

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PARAGRAPH = re.compile(r"(?:^(?!\s*$).+\n?)+", re.MULTILINE)
_ITEM = re.compile(r"\n(?=\s*(?:[-*|#]|\d+\.)\s?)")
_CODE = re.compile(r"``[^`]*``|`[^`]*`")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ENTRY = re.compile(r"\s*(?:[\w*`., ]+ : .*|-+|[A-Z]\w+)")  # of numpydoc: its text comes below
_LOGS = {"debug", "info", "warning", "error", "exception", "echo", "secho"}


class Text(NamedTuple):
    """A piece of prose, with code replaced by X, and where it stands."""

    place: str
    prose: str


def texts() -> Iterator[Text]:
    """Yield all prose of the project, but for headings."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            yield from _placed(path, _of_page(path.read_text(encoding="utf-8")))
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            yield from _placed(path, _of_syntax(ast.parse(text)))
            yield from _placed(path, _comments(text))


def plain(text: str) -> str:
    """Return a text without code, links and line breaks."""
    text = _LINK.sub(r"\1", _CODE.sub("X", text))
    return re.sub(r"\s+", " ", text).strip(" -*|#")


def _placed(path: Path, found: Iterator[tuple[int, str]]) -> Iterator[Text]:
    for line, text in found:
        yield Text(f"{path.relative_to(ROOT)}:{line}", plain(text))


def _of_page(text: str) -> Iterator[tuple[int, str]]:
    text = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for paragraph in _PARAGRAPH.finditer(text):
        line = text.count("\n", 0, paragraph.start()) + 1
        for item in _ITEM.split(paragraph[0]):
            if not item.lstrip().startswith("#"):
                yield line, item
            line += item.count("\n") + 1


def _of_syntax(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                documentation = ast.get_docstring(node)
                for text in _of_docstring(documentation or ""):
                    yield node.body[0].lineno, text
            case ast.Raise(exc=ast.Call(args=arguments)):
                yield from _messages(arguments)
            case ast.Call(func=ast.Name(id="_setting"), args=[_, purpose, *_]):
                yield from _messages([purpose])
            case ast.Call(func=ast.Attribute(attr=name), args=[message, *_]) if name in _LOGS:
                yield from _messages([message])
            case ast.keyword(arg="help" | "short_help" | "epilog", value=value):
                yield from _messages([value])


def _messages(nodes: list[ast.expr]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)):
                yield node.lineno, text
            case ast.JoinedStr(values=parts):
                words = [part.value if isinstance(part, ast.Constant) else "X" for part in parts]
                yield node.lineno, "".join(map(str, words))


def _of_docstring(text: str) -> Iterator[str]:
    """Yield its paragraphs and descriptions; tables and examples are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        prose = re.split(r"^\s*>>>", paragraph, maxsplit=1, flags=re.MULTILINE)[0]
        if prose.lstrip().startswith("\b"):
            continue
        described: list[str] = []
        for line in prose.splitlines():
            if _ENTRY.fullmatch(line):
                yield " ".join(described)
                described = []
            else:
                described.append(line)
        yield from _ITEM.split("\n".join(described))


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments; those of lines of their own that follow each other are one."""
    joined, at, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        follows = line == last + 1 and not token.line[: token.start[1]].strip()
        words = token.string.lstrip("#: ")
        if follows:
            joined += f" {words}"
        else:
            yield at, joined
            joined, at = words, line
        last = line if not token.line[: token.start[1]].strip() else -1
    yield at, joined
