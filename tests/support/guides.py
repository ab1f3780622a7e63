"""Reads the guides' Markdown, and does what a reader of a page would do, block by block."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from support.names import WAIT
from support.processes import Running, environment
from support.programs import program, search_path

from pacsroute import Config

DCMTK = {"echoscu", "findscu", "getscu", "movescu", "storescu", "storescp"}
PROGRAMS = DCMTK | {"curl", "openssl"}

_FENCE = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.\w+)(, continued)?\n")
_LISTENING = r"listening on [\d.]+:(\d+)"


class Block(NamedTuple):
    """A fenced block: its language, the words behind that, and where it stands."""

    page: Path
    section: str
    line: int
    language: str
    options: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    headings = [(found.start(), found[1]) for found in _HEADING.finditer(text)]
    return [
        Block(
            page,
            ([""] + [title for start, title in headings if start < found.start()])[-1],
            text.count("\n", 0, found.start(3)),
            *found.groups(),
        )
        for found in _FENCE.finditer(text)
    ]


def sections(page: Path) -> dict[str, list[Block]]:
    """Return the blocks of each section of a page that has any."""
    found: dict[str, list[Block]] = {}
    for block in blocks(page):
        found.setdefault(block.section, []).append(block)
    return found


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


class Reader:
    """Does what the blocks say, in a folder, with servers on free ports.

    - Python whose first line is ``# name.py`` is saved under that name, and added to the file
      where it says ``# name.py, continued``; other Python is executed, in one namespace.
    - TOML is saved in the same way, and has to be settings unless its fence says ``other``.
    - ``sh`` is run. ``sh serves`` is started and waited for until it listens; it ends when the
      next one for the same port begins. ``sh exit N`` has to end so. ``sh not-run`` is looked
      at by bash only.
    - ``nginx`` is left to tests/interop/test_nginx.py.
    - ``text`` behind ``sh`` is what that has to have printed; … stands for anything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "guide"}
        self.ports: dict[str, str] = {}  # of the page, and what they are here
        self.printed: str | None = None
        self._servers: dict[str, Running] = {}
        self._commands = folder.parent / f"{folder.name}-bin"
        self._commands.mkdir()
        python = shlex.quote(sys.executable)
        for name, words in {
            "python": "",
            "pacsroute": "-m pacsroute",
            "pytest": "-m pytest",
        }.items():
            path = self._commands / name
            path.write_text(f'#!/bin/sh\nexec {python} {words} "$@"\n')
            path.chmod(0o755)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        for port in list(self._servers):
            self._end(port)

    def read(self, block: Block) -> None:
        """Do what a block says."""
        try:
            getattr(self, f"_{block.language}")(block)
        except Exception as error:
            error.add_note(f"in {block.page}, from line {block.line}")
            raise

    def _python(self, block: Block) -> None:
        if not self._save(block):
            code = compile("\n" * block.line + block.text, str(block.page), "exec")
            exec(code, self.namespace)  # noqa: S102 - that is what it is for

    def _nginx(self, block: Block) -> None:
        """Leave it to tests/interop/test_nginx.py, which has nginx run it."""

    def _toml(self, block: Block) -> None:
        assert self._save(block), "TOML begins with the name of its file"
        if block.options != "other":
            name = _FILE.match(block.text)
            assert name
            Config().from_file(self.folder / name[1])

    def _save(self, block: Block) -> bool:
        found = _FILE.match(block.text)
        if found is not None:
            path = self.folder / found[1]
            text = "\n\n" + block.text[found.end() :] if found[2] else block.text
            text = text.replace("0.0.0.0", "127.0.0.1")
            with path.open("a" if found[2] else "w", encoding="utf-8") as file:
                file.write(text)
        return found is not None

    def _sh(self, block: Block) -> None:
        self.printed = None
        subprocess.run(["bash", "-n", "-c", block.text], check=True)
        if block.options == "not-run":
            return
        for tool in set(re.findall(r"\w+", block.text)):
            if tool in PROGRAMS:
                program(tool)
        if block.options == "serves":
            self._serve(block.text)
            return
        expected = int(block.options.removeprefix("exit ") or 0)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(block.text)],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=WAIT,
            check=False,
            text=True,
            errors="replace",
        )
        self.printed = done.stdout
        assert done.returncode == expected, f"{block.text}\n{done.stdout}"

    def _serve(self, command: str) -> None:
        words = shlex.split(self._here(command), comments=True)
        start = words.index("pacsroute")
        port = _option(words, "--port") or "11112"
        self._end(port)
        variables = dict(word.split("=", 1) for word in words[:start])
        options = [*words[start + 1 :], "--port", "0"]  # the last one counts
        if _option(words, "--metrics-port"):
            options += ["--metrics-port", "0"]
        if _option(words, "--web-port"):
            options += ["--web-port", "0"]
        self._servers[port] = server = Running(self.folder, *options, **variables)
        self.ports[port] = server.until(_LISTENING)[1]
        self.printed = "\n".join(server.lines)
        if found := re.search(r"/ready at http://[\d.]+:(\d+)", self.printed):
            self.ports[_option(words, "--metrics-port")] = found[1]
        if found := re.search(r"DICOMweb at http://[\d.]+:(\d+)", self.printed):
            self.ports[_option(words, "--web-port")] = found[1]

    def _end(self, port: str) -> None:
        self.ports.pop(port, None)
        if server := self._servers.pop(port, None):
            with server:
                server.signal(signal.SIGTERM)
                server.ended()

    def _text(self, block: Block) -> None:
        assert self.printed is not None, "text stands behind what prints it"
        pattern = ".*?".join(map(re.escape, self._here(block.text).strip().split("…")))
        assert re.fullmatch(pattern, self.printed.strip(), re.DOTALL), self.printed

    def _here(self, text: str) -> str:
        """Return a text with the addresses that are used here."""
        text = text.replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"\d{4,5}", lambda found: self.ports.get(found[0], found[0]), text)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self._commands), search_path()])
        return environment(PATH=path, TCP_NODELAY="1", COLUMNS="100")


def _option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""
