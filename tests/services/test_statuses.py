"""The table of the statuses that services answer: it has all that their code can say."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from pacsroute import status
from pacsroute.dimse.commands import NAMES
from pacsroute.services.statuses import ANSWERED

MODULES = {
    "echo": ["echo"],
    "store": ["store", "call"],
    "find": ["find", "call"],
    "get": ["get", "retrieve", "call"],
    "move": ["move", "retrieve", "call"],
}
N_SERVICES = [name for name in NAMES if name not in MODULES]


def codes_in(module):
    """Return the codes that a module of the services has from the status module, by name."""
    path = Path(import_module(f"pacsroute.services.{module}").__file__)
    names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "pacsroute.status"
        for alias in node.names
    }
    return {getattr(status, name): name for name in names if name.isupper()}


@pytest.mark.parametrize("command", MODULES)
def test_statuses_of_c_services_are_in_the_table(command):
    known = {code for code, _ in ANSWERED[command]}
    found = {code: name for module in MODULES[command] for code, name in codes_in(module).items()}
    assert {name for code, name in found.items() if code not in known} == set()


def test_statuses_of_n_services_are_in_the_table():
    known = {code for command in N_SERVICES for code, _ in ANSWERED[command]}
    assert {name for code, name in codes_in("normalized").items() if code not in known} == set()


def test_every_operation_has_its_table():
    assert ANSWERED.keys() == NAMES.keys()
