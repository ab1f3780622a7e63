"""Builds the documentation as a site: pip install -e '.[docs]', then run this file.

It collects the guides, README and other pages, the examples and the generated reference in
build/docs, with links that hold there, and has MkDocs build build/site from them. Any warning,
such as a broken link, ends it with 1.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

import reference

ROOT = Path(__file__).parents[3]
SOURCE = "https://github.com/pacsroute/pacsroute/blob/main/"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    ".github/CONTRIBUTING.md": "project/contributing.md",
    ".github/SECURITY.md": "project/security_policy.md",
    "LICENSE": "project/licence.md",
    "examples": "examples/index.md",
}
"""Where the site has what the repository keeps elsewhere."""

_LINK = re.compile(r"(\]\()([^)#:\s]+)(#[\w-]+)?\)")
_FENCE = re.compile(r"^(```\w+) .+$", re.MULTILINE)  # what tests are to do with the block
_PICTURES = (".png", ".jpg", ".svg", ".webp")


def pages() -> dict[str, str]:
    """Return the text of each page of the site, by its path there."""
    made = {page.path: page.text() for page in reference.pages()}
    made["examples/index.md"] = reference.index_of_examples()
    made |= {f"examples/{path}.md": reference.example(path) for path in reference.examples()}
    moved = {path: uri for path, uri in PAGES.items() if (ROOT / path).is_file()}
    guides = sorted((ROOT / "examples/guides").glob("*.md"))
    moved |= {f"examples/guides/{page.name}": f"guides/{page.name}" for page in guides}
    for path, uri in moved.items():
        made[uri] = _linked((ROOT / path).read_text("utf-8"), path, uri)
    return made


def _linked(text: str, path: str, uri: str) -> str:
    """Return a page whose links lead to pages of the site, or from it to the repository."""

    def there(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[2]))
        if not (ROOT / target).exists():
            return found[0]  # MkDocs complains
        place = _place(target)
        if place is None:
            link = SOURCE + target
        else:
            link = posixpath.relpath(place, posixpath.dirname(uri) or ".")
        return f"{found[1]}{link}{found[3] or ''})"

    return _FENCE.sub(r"\1", _LINK.sub(there, text))


def _place(path: str) -> str | None:
    """Return where the site has a path of the repository, if anywhere."""
    if path in PAGES:
        return PAGES[path]
    if path.endswith(_PICTURES):
        return f"pictures/{posixpath.basename(path)}"
    if path.startswith("examples/guides/"):
        return path.removeprefix("examples/")
    if path.removeprefix("examples/") in reference.examples():
        return f"{path}.md"
    return None


def collect(folder: Path) -> None:
    """Write the pages, and the pictures that they show, into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for uri, text in pages().items():
        (folder / uri).parent.mkdir(parents=True, exist_ok=True)
        (folder / uri).write_text(text, "utf-8")
    shutil.copy(Path(__file__).with_name("style.css"), folder)
    (folder / "pictures").mkdir()
    for page in [ROOT / "README.md", *(ROOT / "examples/guides").glob("*.md")]:
        for link in re.findall(r"!\[[^\]]*\]\(([^):]+)\)", page.read_text("utf-8")):
            shutil.copy(page.parent / link, folder / "pictures")


def main() -> int:
    """Build the site; return the exit code."""
    collect(ROOT / "build/docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"]
    done = subprocess.run(
        [*command, "--config-file", ROOT / "examples/guides/mkdocs.yml"],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
