"""The site: generated pages lack nothing, and a strict build succeeds and asks no other host."""

import importlib
import re
import subprocess
import sys

import pytest
from click import Group, Option
from support.places import EXAMPLES, GUIDES, ROOT

import pacsroute
from pacsroute import App, Archive, errors, uids
from pacsroute.cli.homes import HOMES
from pacsroute.config import SETTINGS
from pacsroute.net.metrics import Metrics
from pacsroute.status import KNOWN

CONFIGURATION = (GUIDES / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(GUIDES / "site"))
    try:
        yield importlib.import_module("reference")
    finally:
        sys.path.remove(str(GUIDES / "site"))
        del sys.modules["reference"]


def first_cells(text):
    """Return the names in the first column of the tables of a page."""
    return [
        re.sub(r"^.*?`(.+?)`.*", r"\1", row)
        for row in re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.M)
    ]


def test_every_setting_is_on_its_page(reference):
    assert first_cells(reference.settings()) == list(SETTINGS)


def test_every_status_code_is_on_its_page(reference):
    assert first_cells(reference.statuses()) == [f"0x{code:04X}" for code in sorted(KNOWN)]


def test_every_exception_is_on_its_page_with_its_worth_of_a_retry(reference):
    def tree(kind):
        return {kind}.union(*map(tree, kind.__subclasses__()))

    named = {name.removeprefix("errors.") for name in first_cells(reference.exceptions())}
    ours = {kind for kind in tree(errors.PacsrouteError) if kind.__module__ == "pacsroute.errors"}
    assert named == {kind.__name__ for kind in ours}
    assert reference.worth_a_retry(errors.SetupError) == "no."


def test_every_short_name_is_on_its_page(reference):
    commands = ("echo", "find", "get", "move", *uids.N_COMMANDS)
    names = {name for command in commands for name in uids.short_names(command)}
    assert set(first_cells(reference.short_names())) == names


def test_every_metric_is_on_its_page(reference, tmp_path):
    app = App(jobs=str(tmp_path / "jobs.db"))
    app.register_blueprint(Archive(tmp_path / "archive"))

    @app.job
    def work(): ...

    with app.serve(port=0, grace=0):
        told = re.findall(r"^# TYPE (pacsroute_\w+) ", Metrics(app).render().decode(), re.M)
    told = {name for name in told if not name.endswith("_created")}
    assert "pacsroute_jobs_waiting" in told
    assert "pacsroute_archive_free_bytes" in told
    assert set(first_cells(reference.metrics())) == told


def test_every_command_is_on_its_page_with_its_options(reference):
    page = reference.commands()
    headings = re.findall(r"^## pacsroute (.+)$", page, re.M)
    assert {heading.split()[0] for heading in headings} == set(HOMES)
    for name, home in HOMES.items():
        command = getattr(importlib.import_module(f"pacsroute.cli.{home}"), name)
        for inner in command.commands.values() if isinstance(command, Group) else [command]:
            options = [one for one in inner.params if isinstance(one, Option)]
            assert [one for one in options if one.opts[0] not in page and not one.hidden] == []


def test_every_public_name_is_in_the_reference_once(reference):
    listed = [name for names in reference.API.values() for name in names]
    listed += [name for name in reference.exception_classes() if name in pacsroute.__all__]
    expected = {*pacsroute.__all__, "storage"} - {"__version__", "errors"}
    assert sorted(listed) == sorted(expected)


def test_every_page_is_in_the_navigation(reference):
    named = re.findall(r": ([\w/]+\.md)$", CONFIGURATION, re.M)
    made = [page.path for page in reference.pages()]
    made += [f"guides/{path.name}" for path in GUIDES.glob("*.md")]
    assert [page for page in made if named.count(page) != 1] == []


def test_the_index_of_examples_says_what_each_is(reference):
    index = reference.index_of_examples()
    for path in EXAMPLES.glob("*.py"):
        assert re.search(rf"^\| \[`{path.name}`\].*\| \w.+ \|$", index, re.M), path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_site_is_built_strictly_and_asks_no_other_host():
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, GUIDES / "site/build.py"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((ROOT / "build/site").rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(\w+:[^\"]+)", text)
        assert [url for url in fetched if not url.startswith("data:")] == [], page
        assert "<blockquote>" not in text, page  # an example outside of code
    for sheet in (ROOT / "build/site").rglob("*.css"):
        assert not re.search(r"url\(\"?https?:|@import", sheet.read_text(encoding="utf-8")), sheet
