"""Jobs with a process of their own: what crashes or hangs takes nothing with it."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from support.names import WAIT
from support.processes import Running

APP = """
import os, signal, sys, time
from pathlib import Path
from pacsroute import App

app = App("GATEWAY", jobs="jobs.db")
said = Path("said")

@app.lifespan
def resources(app):
    app.state.serving = app.serving
    yield

def say(*words):
    with said.open("a") as file:
        print(*words, file=file)

@app.job(process=True, retry=[0.1])
def works(value):
    assert os.getpid() != int(Path("pid").read_text())
    say("works", value, app.state.serving, app.config.grace)

@app.job(process=True, retry=[0.1])
def raises(name):
    say("raises")
    raise ValueError(name)

@app.job(process=True, retry=[], timeout=0.5)
def hangs():
    say("hangs", os.getpid())
    time.sleep(600)

@app.job(process=True, retry=[])
def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)

@app.job(process=True)
def waits():
    say("waits", os.getpid())
    time.sleep(600)

@app.gave_up
def gave_up(job, error):
    say("gave up", job.function, error)

@app.echo
def begin(request):
    Path("pid").write_text(str(os.getpid()))
    for job, arguments in TODO:
        job.later(*arguments)

RUNS
"""
GUARDED = """
if __name__ == "__main__":
    app.run(port=0, grace=7)
"""


def serving(folder, todo, *options, script=""):
    text = APP.replace("TODO", todo, 1).replace("RUNS", script)
    (folder / "app.py").write_text(text)
    if script:
        return Running(folder, script="app.py")
    return Running(folder, "run", "app.py", "--port", "0", "--grace", "7", *options)


def said(folder):
    path = folder / "said"
    return path.read_text().splitlines() if path.exists() else []


def until(condition, running):
    deadline = time.monotonic() + 2 * WAIT
    while not (found := condition()):
        assert time.monotonic() < deadline, running.lines
        time.sleep(0.02)
    return found


def echo(port):
    from pacsroute import connect

    with connect("127.0.0.1", port) as client:
        client.echo()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    ["", GUARDED, "app.run(port=0, grace=7)"],
    ids=["command", "script", "script without a main guard"],
)
def test_a_function_runs_in_a_process_with_the_settings_and_the_lifespan(tmp_path, script):
    with serving(tmp_path, "[(works, ['a'])]", script=script) as running:
        echo(running.port())
        # What a script gives to `run` is the server's; options of the command are the app's.
        grace = "10.0" if script else "7.0"
        until(lambda: said(tmp_path) == [f"works a False {grace}"], running)


@pytest.mark.slow
def test_what_fails_in_a_process_is_given_up_with_a_reason(tmp_path):
    todo = "[(raises, ['DOE^JANE']), (hangs, []), (crashes, []), (works, ['b'])]"
    with serving(tmp_path, todo) as running:
        echo(running.port())
        until(lambda: len([line for line in said(tmp_path) if "gave" in line]) == 3, running)
        until(lambda: "works b False 7.0" in said(tmp_path), running)
        lines = said(tmp_path)
    given_up = sorted(line for line in lines if "gave" in line)
    assert given_up == [
        "gave up crashes its process was killed by SIGSEGV",
        "gave up hangs it took more than 0.5 s",
        "gave up raises ValueError",
    ]
    assert lines.count("raises") == 2
    (hung,) = [line for line in lines if line.startswith("hangs")]
    assert not is_alive(int(hung.split()[1]))


@pytest.mark.slow
def test_no_process_outlives_a_server_that_is_killed(tmp_path):
    with serving(tmp_path, "[(waits, [])]") as running:
        echo(running.port())
        (line,) = until(lambda: said(tmp_path), running)
        running.signal(signal.SIGKILL)
        until(lambda: not is_alive(int(line.split()[1])), running)


@pytest.mark.slow
def test_no_process_outlives_a_worker_that_is_killed_and_the_port_stays(tmp_path):
    with serving(tmp_path, "[(waits, [])]", "--workers", "2") as running:
        port = running.port()
        echo(port)
        (line,) = until(lambda: said(tmp_path), running)
        child = int(line.split()[1])
        stat = Path(f"/proc/{child}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)  # its parent
        until(lambda: not is_alive(child), running)
        until(lambda: len(said(tmp_path)) == 2, running)  # another worker does it
        echo(port)
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
        children = [int(line.split()[1]) for line in said(tmp_path)]
        until(lambda: not any(map(is_alive, children)), running)
    with socket.create_server(("127.0.0.1", port)):
        pass  # it is free at once


@pytest.mark.slow
def test_a_call_that_the_end_of_the_server_interrupts_waits_again(tmp_path):
    with serving(tmp_path, "[(waits, [])]") as running:
        echo(running.port())
        (line,) = until(lambda: said(tmp_path), running)
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
        assert not is_alive(int(line.split()[1]))
    with serving(tmp_path, "[]") as running:
        running.port()
        until(lambda: len(said(tmp_path)) == 2, running)
