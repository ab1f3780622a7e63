"""``pacsroute new``: a small project to begin with."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def _name(context: click.Context, argument: click.Parameter, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise click.BadParameter(
            f"{text!r} is not a valid name: use lower-case letters, digits and single hyphens, "
            "as in my-archive"
        )
    if text in ("pacsroute", "pydicom", "click"):
        raise click.BadParameter(f"{text!r} is a package that the project needs itself")
    return text


@click.command()
@click.argument("name", callback=_name)
def new(name: str) -> None:
    """Write a new project into the folder NAME.

    It has an app with tests, a systemd unit and a Dockerfile.
    """
    folder = Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise click.ClickException(f"{name} exists already: nothing was written") from None
    except OSError as error:
        raise click.ClickException(f"{name} cannot be created: {error.strerror}") from None
    words = {"project-name": name, "PROJECT-TITLE": name.upper()[:16].rstrip("-")}
    for path in _write(files("pacsroute.cli") / "project", folder, words):
        click.echo(f"  {path}")
    click.echo(
        f"\nIts tests:  cd {name} && pytest\n"
        f"Serve it:   cd {name} && pacsroute run\n"
        "The rest is in its README."
    )


def _write(source: Traversable, folder: Path, words: dict[str, str]) -> list[Path]:
    """Copy a folder of templates, with the project's words; return the paths of the files."""
    written = []
    for entry in sorted(source.iterdir(), key=lambda entry: entry.name):
        if entry.name == "__pycache__":
            continue
        # A file named .gitignore would apply to pacsroute's own repository.
        name = ".gitignore" if entry.name == "gitignore" else _replaced(entry.name, words)
        path = folder / name
        if entry.is_dir():
            path.mkdir()
            written += _write(entry, path, words)
        else:
            path.write_text(_replaced(entry.read_text(encoding="utf-8"), words), encoding="utf-8")
            written.append(path)
    return written


def _replaced(text: str, words: dict[str, str]) -> str:
    for placeholder, word in words.items():
        text = text.replace(placeholder, word)
    return text
