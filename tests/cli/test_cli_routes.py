"""The list of routes, as a process of its own prints it."""

import functools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from support.names import WAIT
from support.places import ROOT

from pacsroute import App, Blueprint, uids
from pacsroute.framework.route_table import described, in_order

APP = """
from pacsroute import App, Blueprint

research = Blueprint("research")
inner = Blueprint("inner")


@research.store("CTImageStorage", transfer_syntaxes=["ExplicitVRLittleEndian", "JPEG2000Lossless"])
def keep(request): ...


@inner.find("StudyRoot")
@inner.find("Worklist", calling_ae="CT1")
def find_there(request):
    return []


research.register_blueprint(inner)
app = App("ARCHIVE")


@app.store
def store(request): ...


@app.store("MRImageStorage")
@app.store("MRImageStorage", calling_ae="MR1")
def magnetic(request): ...


@app.get
class Sender:
    def __init__(self, request): ...

    def __iter__(self):
        return iter([])


@app.n_action("StorageCommitment", action_type=1)
def commit(request): ...


app.register_blueprint(research, called_ae="RESEARCH")
"""


def routes(folder, *arguments, **values):
    done = subprocess.run(
        [sys.executable, "-m", "pacsroute", "routes", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", **values},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    return done.stdout.splitlines()


def test_routes_fill_one_line_each_on_a_wide_terminal(folder):
    header, *lines = routes(folder, "app.py", COLUMNS="160")
    assert header.split() == [
        *("COMMAND", "SOP", "CLASS", "TRANSFER", "SYNTAX", "TO", "FROM", "BLUEPRINT", "HANDLER"),
        "WHERE",
    ]
    assert len(lines) == 9
    first = lines[0]
    assert first.startswith("C-STORE")
    for title, value in {
        "SOP CLASS": "CTImageStorage",
        "TRANSFER SYNTAX": "ExplicitVRLittleEndian, JPEG2000Lossless",
        "TO": "RESEARCH ",
        "FROM": "* ",
        "BLUEPRINT": "research ",
        "HANDLER": "keep ",
        "WHERE": "app.py:8",
    }.items():
        assert first[header.index(title) :].startswith(value)
    assert lines == routes(folder, "app.py")[1:]  # where nobody looks, nothing is wrapped


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_routes_wrap_on_a_narrow_terminal_and_lose_nothing(folder, width):
    lines = routes(folder, COLUMNS=str(width))
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).replace(",", " ").replace(";", " ").split())
    assert {"CTImageStorage", "JPEG2000Lossless", "RESEARCH", "MR1", "Sender", "app.py:8"} <= words
    assert {"unknown", "StudyRoot", "Worklist", "type", "built", "Verification"} <= words


def test_routes_as_json_have_every_property(folder):
    found = json.loads("\n".join(routes(folder, "--json")))
    by_handler = {route["handler"]: route for route in found}
    assert by_handler["keep"] == {
        "command": "C-STORE",
        "sop_class": "1.2.840.10008.5.1.4.1.1.2",
        "covers": "CTImageStorage",
        "type": None,
        "transfer_syntaxes": ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"],
        "called_ae": "RESEARCH",
        "calling_ae": None,
        "blueprint": "research",
        "default": False,
        "handler": "keep",
        "file": "app.py",
        "line": 8,
    }
    assert by_handler["commit"]["type"] == 1
    assert by_handler["find_there"]["blueprint"] == "research.inner"
    assert (by_handler["built in"]["command"], by_handler["built in"]["file"]) == ("C-ECHO", None)


def test_first_listed_route_that_covers_a_request_answers_it(folder):
    app = runpy.run_path(str(folder / "app.py"))["app"]
    listed = in_order(app)
    for called in ("ARCHIVE", "RESEARCH"):
        for calling in ("MR1", "CT1", "OTHER"):
            for command in ("store", "find", "get", "n_action"):
                for sop_class in [*uids.SOP_CLASSES, "1.2.3"]:
                    answering = app.route(command, sop_class, calling, called, 1)
                    reachable = app.routes_for(calling, called)
                    first = next(
                        (
                            route
                            for route in listed
                            if route in reachable
                            and route.command == command
                            and route.covers(sop_class)
                        ),
                        None,
                    )
                    assert first == answering


def test_routes_show_where_classes_and_partials_are_defined():
    class Keeper:
        def __call__(self, request): ...

        def method(self, request): ...

    def plain(request): ...

    @functools.wraps(plain)
    def wrapped(request): ...

    app = App()
    app.store("CTImageStorage")(Keeper())
    app.store("MRImageStorage")(Keeper().method)
    app.store("NuclearMedicineImageStorage")(wrapped)
    app.store(functools.partial(plain))
    found = [described(route) for route in in_order(app)]
    files = {route["file"] and Path(route["file"]).name for route in found}
    assert files == {Path(__file__).name, None}
    lines = {route["line"] for route in found if route["covers"] != "Verification"}
    keeper = Keeper.__call__.__code__.co_firstlineno
    assert lines == {keeper, keeper + 2, plain.__code__.co_firstlineno}


def test_routes_show_the_echo_of_a_blueprint():
    blueprint, app = Blueprint("echo"), App()
    blueprint.echo(lambda request: None)
    app.register_blueprint(blueprint, called_ae="OTHER")
    assert [(route.command, route.called_ae) for route in in_order(app)] == [
        ("echo", "OTHER"),
        ("echo", None),
    ]
