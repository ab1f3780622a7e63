"""Progress on the terminal: nothing in the first second, then a count that is replaced."""

import itertools
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from support.archives import image

from pacsroute import Instance
from pacsroute.cli import main, progress


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last value is the time; progress takes this for a terminal."""
    times = [0.0]
    monkeypatch.setattr(progress, "on_a_terminal", lambda: True)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: times[-1]))
    return times


def shown(captured):
    # What clears the line is an escape sequence, which click drops where no terminal is.
    return [text for text in captured.err.split("\r") if text]


def test_count_appears_after_a_second_and_seldom_enough(clock, capsys):
    with progress.counting("{:,} files") as count:
        for clock[-1], number in [(0.9, 10), (1.0, 2_000), (1.05, 3_000), (1.2, 4_000)]:
            count(number)
    assert shown(capsys.readouterr()) == ["2,000 files", "4,000 files"]


def test_nothing_is_shown_without_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_a_terminal", lambda: False)
    with progress.counting("{} files") as count:
        clock[-1] = 5.0
        count(1)
    assert capsys.readouterr().err == ""


@pytest.fixture
def slow(clock, monkeypatch):
    """Make each look at the clock a second later than the last one."""
    seconds = itertools.count()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


@pytest.mark.usefixtures("slow")
def test_archive_commands_count_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(
        "from pacsroute import App, Archive\n"
        'app = App("ARCHIVE")\n'
        'app.register_blueprint(Archive("archive"))\n'
    )
    assert CliRunner().invoke(main, ["archive", "check"]).stdout == "files and index agree\n"
    for number in (1, 2):
        Instance(image(number)).save(tmp_path / "archive")
    checked = CliRunner().invoke(main, ["archive", "check"])
    assert "2 files checked" in checked.stderr
    assert checked.stdout == "unknown  1.3.1.dcm\nunknown  1.3.2.dcm\n"
    indexed = CliRunner().invoke(main, ["archive", "reindex"])
    assert "4 files checked" in indexed.stderr
    assert indexed.stdout == "archive: 2 instances added to the index\n"
