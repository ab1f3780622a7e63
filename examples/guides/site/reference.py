"""The pages of the reference that are generated from the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import NamedTuple

import click

import pacsroute
from pacsroute import App, Archive, Status, errors, uids
from pacsroute.cli import main
from pacsroute.config import SETTINGS, Config
from pacsroute.jobs.delivery import Verdict, judge
from pacsroute.net.metrics import Metrics, _Lanes
from pacsroute.status import KNOWN

EXAMPLES = Path(__file__).parents[2]

_LANGUAGES = {
    **{".py": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "bash"},
    **{".conf": "nginx", ".cfg": "text", ".service": "ini", ".sql": "sql", ".json": "json"},
}

API = {
    "App and blueprints": ("App", "Blueprint", "Archive", "Config"),
    "Requests": (
        *("Request", "EchoRequest", "StoreRequest", "FindRequest", "GetRequest", "MoveRequest"),
        *("NCreateRequest", "NSetRequest", "NGetRequest", "NActionRequest", "NDeleteRequest"),
        *("NEventReportRequest", "Peer", "Progress", "Status"),
    ),
    "Instances and data sets": ("Instance", "dicom_json", "from_dicom_json", "storage"),
    "Client and TLS": ("connect", "Client", "Reply", "TLS"),
    "Server and associations": ("Server", "Dispatcher", "Association", "PeerView", "Identity"),
    "Modules": ("matching", "mpps", "ups", "uids", "testing"),
}
"""The pages of the API, and the public names on each; exceptions have a page of their own."""


class Page(NamedTuple):
    """A generated page: where it is, and what makes its text."""

    title: str
    path: str
    text: Callable[[], str]


def pages() -> list[Page]:
    """Return the pages of the reference."""
    return [
        Page("Settings", "reference/settings.md", settings),
        Page("Commands", "reference/commands.md", commands),
        Page("Status codes", "reference/statuses.md", statuses),
        Page("Exceptions", "reference/exceptions.md", exceptions),
        Page("Short names of SOP classes", "reference/short_names.md", short_names),
        Page("Metrics", "reference/metrics.md", metrics),
        *(Page(title, f"reference/{_slug(title)}.md", _api(title)) for title in API),
    ]


def settings() -> str:
    """Return the table of settings, in the groups of the code."""
    shown = [
        "# Settings\n\n"
        "Each is an argument of `App`, a key of a TOML file, an option of `pacsroute run` "
        "(`max_spool` is `--max-spool`), and an environment variable (`PACSROUTE_MAX_SPOOL`). "
        "[Blueprints, hooks and settings](../guides/structure.md#settings) says which one wins. "
        "Sizes are in bytes and times in seconds.\n"
    ]
    for title, names in _groups():
        shown.append(f"\n## {title}\n\n| setting | default | what it is |\n|---|---|---|\n")
        for name in names:
            default = SETTINGS[name].default
            if default in (None, ()):
                told = ""
            elif isinstance(default, int) and not isinstance(default, bool) and default > 65535:
                told = f"`{default:_}`"
            else:
                told = f"`{default}`"
            purpose = SETTINGS[name].metadata["purpose"]
            shown.append(f"| `{name}` | {told} | {_cell(purpose)} |\n")
    return "".join(shown)


def _groups() -> Iterator[tuple[str, list[str]]]:
    """Yield the groups of settings: a comment behind an empty line begins one."""
    title, names, blank = "", [], False
    for line in inspect.getsource(Config).splitlines():
        comment = re.fullmatch(r"    # (.+)", line)
        setting = re.match(r"    (\w+): .+ = _setting\(", line)
        if comment and (blank or not names):
            if names:
                yield title, names
            title, names = re.split(r"[.;:(]", comment[1])[0].strip(), []
        elif setting:
            names.append(setting[1])
        blank = not line.strip()
    yield title, names


def commands() -> str:
    """Return the help of every command, as the terminal shows it."""
    context = click.Context(main, info_name="pacsroute", max_content_width=88, terminal_width=88)
    shown = ["# Commands\n"]
    for name, command in _walk("pacsroute", main, context):
        with click.Context(command, info_name=name, max_content_width=88) as inner:
            inner.terminal_width = 88
            shown.append(f"\n## {name}\n\n```text\n{command.get_help(inner)}\n```\n")
    return "".join(shown)


def _walk(
    name: str, command: click.Command, ctx: click.Context
) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for word in command.list_commands(ctx):
            inner = command.get_command(ctx, word)
            if inner is not None:
                yield from _walk(f"{name} {word}", inner, ctx)


_VERDICTS = {
    Verdict.DELIVERED: "is done",
    Verdict.RESTS: "tries again, for as long as it takes",
    Verdict.PAUSED: "stops the lane until somebody resumes it",
    Verdict.REFUSED: "tries four times, then gives up",
}


def statuses() -> str:
    """Return the table of status codes."""
    rows = []
    for code in sorted(KNOWN):
        status = Status(code)
        is_final = status.category not in ("Pending", "Cancel")
        forward = _VERDICTS[judge(status).verdict] if is_final else ""
        rows.append(f"| `0x{code:04X}` | {status.category} | {_cell(status.name)} | {forward} |\n")
    return (
        "# Status codes\n\n"
        "The codes of PS3.7 Annex C and of the service classes of PS3.4. A handler returns a "
        "warning as a number and raises a failure as `Failure(code, comment)`. The last column "
        "says what `app.forward` does when a destination answers a C-STORE with the code.\n\n"
        "| code | category | meaning | `app.forward` |\n|---|---|---|---|\n" + "".join(rows)
    )


@cache
def exception_classes() -> dict[str, type[BaseException]]:
    """Return the exceptions by name, each behind its base."""
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PacsrouteError)
    }


def worth_a_retry(kind: type[BaseException]) -> str:
    """Return what the docstring of an exception says of trying again."""
    text = " ".join(inspect.getdoc(kind).split("\n\nParameters")[0].split())
    found = re.search(r"Worth a retry: (.+?\.)(?: |$)", text)
    if found is None:
        raise ValueError(f"the docstring of {kind.__name__} does not say 'Worth a retry: …'")
    return found[1]


def exceptions() -> str:
    """Return which exceptions there are, and which are worth a retry."""
    rows = []
    for name, kind in exception_classes().items():
        depth = len(kind.__mro__) - len(errors.PacsrouteError.__mro__)
        depth -= issubclass(kind, errors.DataSetError)  # a ValueError, too
        first = inspect.getdoc(kind).splitlines()[0]
        public = name in pacsroute.__all__
        shown = name if public else f"errors.{name}"
        retry = worth_a_retry(kind)
        rows.append(
            f"| {'&emsp;' * depth}[`{shown}`][pacsroute.{shown}] | {_cell(first)} | {retry} |\n"
        )
    table = "| exception | when | worth a retry? |\n|---|---|---|\n" + "".join(rows)
    described = "".join(
        f"\n::: pacsroute.{name if name in pacsroute.__all__ else f'errors.{name}'}\n"
        for name in exception_classes()
    )
    return (
        "# Exceptions\n\n"
        "All are subclasses of `PacsrouteError`. The client raises those of the association, also "
        "in handlers that send.\n\n" + table + described
    )


def short_names() -> str:
    """Return the short names of SOP classes, with the commands that take them."""
    commands_of: dict[tuple[str, str], list[str]] = {}
    for command in ("echo", "store", "find", "get", "move", *uids.N_COMMANDS):
        for name in uids.short_names(command):
            commands_of.setdefault((name, uids.sop_class(name, command)), []).append(command)
    rows = (
        f"| `{name}` | {_cell(uids.name(uid))} | `{uid}` | {_commands(found)} |\n"
        for (name, uid), found in sorted(commands_of.items())
    )
    return (
        "# Short names of SOP classes\n\n"
        "A decorator, a client method or `--sop-class` takes a short name, pydicom's keyword "
        "(`CTImageStorage`) or a UID.\n\n"
        "| short name | SOP class | UID | commands |\n|---|---|---|---|\n" + "".join(rows)
    )


def _commands(names: list[str]) -> str:
    if set(uids.N_COMMANDS) <= set(names):
        names = [*(name for name in names if name not in uids.N_COMMANDS), "n_…"]
    return ", ".join(f"`{name}`" for name in names)


def metrics() -> str:
    """Return the metrics of `/metrics`."""
    rows = [
        f"| `{name}` | {kind} | {', '.join(map('`{}`'.format, labels))} | {_cell(purpose)} |\n"
        for name, kind, labels, purpose in _families()
    ]
    return (
        "# Metrics\n\n"
        "`--metrics-port` serves them for Prometheus at `/metrics`, with the extra `metrics`. No "
        "label has more values than the standard has names, or the app has lanes: anything else "
        "is `other`. The metrics of prometheus-client for the Python process come with them.\n\n"
        "| metric | type | labels | meaning |\n|---|---|---|---|\n" + "".join(rows)
    )


def _families() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield name, type, labels and meaning of each metric."""
    registry = Metrics(App())._registry
    for collector in list(registry._collector_to_names):
        for family in collector.describe():
            suffix = "_total" if family.type == "counter" else ""
            labels = collector._labelnames
            yield f"{family.name}{suffix}", family.type, labels, family.documentation
    for family in _Lanes(SimpleNamespace(lanes=list)).collect():
        yield family.name, family.type, family._labelnames, family.documentation
    with TemporaryDirectory() as folder:
        app = App()
        app.register_blueprint(Archive(folder))
        with app.running():
            for gauge in app.measured():
                yield f"pacsroute_{gauge.name}", "gauge", (gauge.label,), gauge.purpose


def _api(title: str) -> Callable[[], str]:
    def text() -> str:
        return f"# {title}\n" + "".join(f"\n::: pacsroute.{name}\n" for name in API[title])

    return text


@cache
def examples() -> tuple[str, ...]:
    """Return the files of `examples/` besides the guides, as paths in there."""
    found = (path.relative_to(EXAMPLES) for path in sorted(EXAMPLES.rglob("*")) if path.is_file())
    kinds = {*_LANGUAGES, ".md"}
    return tuple(
        str(path)
        for path in found
        if path.parts[0] != "guides" and (path.suffix in kinds or path.name == "Dockerfile")
    )


def index_of_examples() -> str:
    """Return the list of examples with the first sentence of each."""
    rows = [f"| [`{path}`]({path}.md) | {_cell(_about(path))} |\n" for path in examples()]
    return (
        "# Examples\n\nEach is whole, and tested. Run one with `pacsroute run FILE`.\n\n"
        "| file | what it is |\n|---|---|\n" + "".join(rows)
    )


def _about(path: str) -> str:
    """Return what a file says it is: the first line of its docstring or first comment."""
    text = (EXAMPLES / path).read_text("utf-8")
    if path.endswith(".py"):
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    found = re.search(r"(?:^#+ .+\n)+", text, re.MULTILINE)
    comment = re.sub(r"^#+ ", "", found[0], flags=re.MULTILINE) if found else ""
    return re.split(r"(?<=\.)\s", " ".join(comment.split()), maxsplit=1)[0]


def example(path: str) -> str:
    """Return the page that shows an example."""
    language = _LANGUAGES.get(Path(path).suffix, "dockerfile")
    text = (EXAMPLES / path).read_text("utf-8")
    return f"# {path}\n\n{_about(path)}\n\n`````{language}\n{text}`````\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _slug(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower())
