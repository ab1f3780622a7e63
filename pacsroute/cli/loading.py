"""Finds the app that a command line names, as Flask does."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import click

from pacsroute.app import App
from pacsroute.cli.homes import HOMES
from pacsroute.config import Config
from pacsroute.errors import SetupError
from pacsroute.foreground import is_ours, loading, show_from_users_file
from pacsroute.framework.character_sets import check_charsets


def load(spec: str | None) -> App:
    """Return the app that a text names.

    Parameters
    ----------
    spec : str or None
        ``module:app``, ``path/to/file.py``, with or without ``:name``, dotted names, and
        factories as ``module:create_app()``. None is ``app.py`` in the current folder.

    Raises
    ------
    click.ClickException
        If no app is found; the message says where it was looked for. A mistake inside the
        user's own file shows the user's traceback.
    """
    if spec is None:
        if not Path("app.py").is_file():
            raise click.UsageError(
                "no app: name module:app or path/to/file.py, set PACSROUTE_APP, "
                "or put an app.py into this folder"
            )
        spec = "app.py"
    source, separator, name = spec.partition(":")
    if len(source) == 1 and separator and name[:1] in "\\/":  # C:\folder\file.py
        rest, separator, name = name.partition(":")
        source = f"{source}:{rest}"
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with loading():
        module = _import(source)
    app = _resolve(module, name, spec) if name else _only_app(module, source)
    _check_commands(app)
    return app


def _check_commands(app: App) -> None:
    """Refuse commands of the app that could not be reached."""
    if "cli" not in app.__dict__:  # it is made when the first command is registered
        return
    taken = sorted(set(app.cli.commands) & HOMES.keys())
    if taken:
        raise click.UsageError(
            f"@app.cli.command: {', '.join(taken)} is a command of pacsroute itself; "
            "give yours another name"
        )


def configure(
    config: Config, file: str | None, options: Mapping[str, object] | None = None
) -> None:
    """Take settings from a file, then the environment, then options; None means not given.

    Raises
    ------
    click.UsageError
        If a setting is not valid.
    """
    try:
        if file is not None:
            config.from_file(file)
        config.from_environment()
        for name, value in (options or {}).items():
            if value not in (None, ()):
                _set(config, name, value)
        check_charsets(config)
    except SetupError as error:
        raise click.UsageError(str(error)) from None


def _set(config: Config, name: str, value: object) -> None:
    try:
        setattr(config, name, value)
    except SetupError as error:
        option = f"--{name.replace('_', '-')}"
        raise click.BadParameter(str(error), param_hint=option) from None


def _import(source: str) -> ModuleType:
    path = Path(source)
    is_path = source.endswith(".py") or "/" in source or "\\" in source or source in (".", "..")
    if is_path and not path.is_file():
        raise click.ClickException(_no_file(source, path))
    try:
        if not is_path:
            return importlib.import_module(source)
        sys.path.insert(0, str(path.parent.resolve()))
        found = importlib.util.spec_from_file_location(path.stem, path)
        if found is None or found.loader is None:
            raise click.ClickException(f"{source!r} is not a Python file")
        module = importlib.util.module_from_spec(found)
        sys.modules[path.stem] = module
        found.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not is_path and (source == missing or source.startswith(missing + ".")):
            raise click.ClickException(
                f"there is no module {missing!r} in this folder, and none is installed"
            ) from None
        _show(error, source)
        if missing and importlib.util.find_spec(missing.partition(".")[0]) is None:
            raise click.ClickException(
                f"{source!r} needs the module {missing!r}, which is not installed"
            ) from None
    except click.ClickException:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's file does
        _show(error, source)
    raise click.ClickException(f"{source!r} could not be loaded: see its traceback above")


def _no_file(source: str, path: Path) -> str:
    if path.is_dir():
        return f"{source!r} is a folder: name a file in it, such as {path / 'app.py'}"
    hint = f"; did you mean {source}.py?" if path.with_suffix(".py").is_file() else ""
    return f"there is no file {source!r}{hint}"


def _show(error: BaseException, source: str) -> None:
    """Print a mistake in the user's own file, from that file on."""
    if isinstance(error, SetupError):
        raise click.ClickException(f"{source}: {error}{_where(error.__traceback__)}")
    if isinstance(error, ValueError) and str(error) == "Empty module name":
        raise click.ClickException(f"{source!r} is not the name of a module")
    show_from_users_file(error)


def _where(frames: TracebackType | None) -> str:
    """Return the last line of the user's own in a traceback, if there is any."""
    place = ""
    while frames is not None:
        if not is_ours(frames):
            place = f" ({frames.tb_frame.f_code.co_filename}:{frames.tb_lineno})"
        frames = frames.tb_next
    return place


def _resolve(module: ModuleType, name: str, spec: str) -> App:
    factory = name.endswith("()")
    target: Any = module
    for part in name.removesuffix("()").split("."):
        if not hasattr(target, part):
            hint = f"; its apps: {', '.join(_apps(module))}" if _apps(module) else ""
            raise click.ClickException(f"{spec!r}: {module.__name__} has no {part!r}{hint}")
        target = getattr(target, part)
    if factory:
        if not callable(target):
            raise click.ClickException(f"{spec!r}: {name[:-2]} cannot be called")
        try:
            target = target()
        except (Exception, SystemExit) as error:  # noqa: BLE001
            _show(error, spec)
            raise click.ClickException(f"{spec!r} raised: see its traceback above") from None
    if not isinstance(target, App):
        hint = f"; if it is a factory, use {spec}()" if callable(target) and not factory else ""
        raise click.ClickException(f"{spec!r} is {type(target).__name__}, not an App{hint}")
    return target


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _only_app(module: ModuleType, source: str) -> App:
    for name in ("app", "application"):
        if isinstance(getattr(module, name, None), App):
            return getattr(module, name)  # type: ignore[no-any-return]
    apps = _apps(module)
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if apps:
        raise click.ClickException(
            f"{source!r} has several apps: choose one, as in {source}:{next(iter(apps))}"
        )
    if callable(getattr(module, "create_app", None)):
        return _resolve(module, "create_app()", f"{source}:create_app()")
    where = getattr(module, "__file__", None)
    if where is None and Path(source).is_dir():  # a folder can be imported, as an empty package
        raise click.ClickException(_no_file(source, Path(source)))
    raise click.ClickException(f"there is no App in {source!r}" + (f" ({where})" if where else ""))
