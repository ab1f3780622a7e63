"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import pacsroute

# What is run when it is imported, what is a template, and what needs an extra.
APART = ("pacsroute.__main__", "pacsroute.cli.project", "pacsroute.cli.workers")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(pacsroute.__path__, "pacsroute.")
    if not module.name.startswith(APART)
]


@pytest.mark.parametrize("name", MODULES)
def test_doctests_of_a_module_pass(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
