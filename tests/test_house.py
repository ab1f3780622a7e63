"""The plan of the package: no circle of files, and nothing imports upward."""

import ast
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter

import pytest
from support.places import ROOT

PACKAGE = ROOT / "pacsroute"
FACES = ("pacsroute", "pacsroute.__main__")


def modules():
    """Return the files of the package by module name, but for the project that `new` copies."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "project" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path, known):
    """Return the modules that a file imports, wherever it does so, for types only included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found |= {inner if inner in known else node.module} & known.keys()
    return found


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def test_the_reader_of_imports_sees_them_all(tmp_path):
    file = tmp_path / "one.py"
    file.write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nimport a.b\n"
        "if TYPE_CHECKING:\n    from a import c\ndef late():\n    from a.d import name\n"
    )
    assert imports(file, dict.fromkeys(["a.b", "a.c", "a.d"])) == {"a.b", "a.c", "a.d"}


def test_no_files_import_each_other_in_a_circle(graph):
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_nothing_imports_upward_and_no_room_its_neighbour(graph):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    assert "ignore_imports" not in contract
    assert "exclude_type_checking_imports" not in project["tool"]["importlinter"]
    floors = [line.split(" | ") for line in reversed(contract["layers"])]
    assert len(floors) <= 14
    floor_of = {room: number for number, rooms in enumerate(floors) for room in rooms}

    def room(name):
        return ".".join(name.split(".")[:2])

    inside = [name for name in graph if name not in FACES]
    assert {room(name) for name in inside} == floor_of.keys()
    wrong = [
        f"{name} -> {used}"
        for name in inside
        for used in graph[name]
        if room(used) != room(name)
        and (
            room(name) != "pacsroute.cli"
            if used in FACES
            else floor_of[room(used)] >= floor_of[room(name)]
        )
    ]
    assert wrong == []


def test_one_class_each_has_the_name_of_a_concept():
    names = Counter(
        node.name
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    concepts = "Association", "DaemonPool", "Observer", "Policy", "Request", "Sender"
    assert {name: names[name] for name in concepts if names[name] > 1} == {}
    assert names["Association"] == 1


LONGEST = 80


def test_no_function_is_too_long():
    long = {
        (module, node.name)
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST
    }
    assert long == set()


def test_no_test_file_imports_from_another():
    files = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(files) == len(list((ROOT / "tests").rglob("test_*.py"))), "basenames are not unique"
    known = dict.fromkeys([*files, "conftest"])
    assert {name for name, path in files.items() if imports(path, known)} == set()
