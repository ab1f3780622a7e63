"""The console of a server with several workers: a page of any of them shows all."""

import contextlib
import http.client
import re
import signal
import socket

import pytest
from support.names import WAIT
from support.processes import Running

from pacsroute import connect
from pacsroute.web.console import neighbours
from pacsroute.web.console.neighbours import Neighbours

APP = """
from pacsroute import App, Failure, Peer

app = App("ARCHIVE", max_associations=10, max_spool=10**9)
app.destinations["GONE"] = Peer("127.0.0.1", 1)


@app.find("StudyRoot")
def find(request):
    raise Failure(0xA700)
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a function that makes one of several processes that share a folder."""
    with contextlib.ExitStack() as stack:

        def make(number, snapshot):
            with monkeypatch.context() as patch:
                patch.setattr(neighbours.os, "getpid", lambda: number)
                one = Neighbours(tmp_path, snapshot)
            one.start()
            stack.callback(one.stop)
            return one

        yield make


def test_each_learns_what_the_others_have_seen(made, tmp_path):
    one, two, three = (made(number, lambda number=number: {"is": number}) for number in (1, 2, 3))
    assert one.others() == ([{"is": 2}, {"is": 3}], 0)
    assert two.others() == ([{"is": 1}, {"is": 3}], 0)
    three.stop()
    assert one.others() == ([{"is": 2}], 0)
    assert {path.name for path in tmp_path.iterdir()} == {"1.socket", "2.socket"}


def test_what_a_process_has_left_that_died_is_removed(made, tmp_path):
    one = made(1, dict)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "2.socket"))
    assert one.others() == ([], 0)
    assert not (tmp_path / "2.socket").exists()
    again = made(1, dict)  # it had the same number
    assert again.others() == ([], 0)


def test_one_that_begins_is_not_taken_for_one_that_died(made, tmp_path, monkeypatch):
    one, seen, listen = made(1, dict), [], socket.socket.listen

    def listening(self, *backlog):
        seen.append(one.others())  # somebody looks just now
        listen(self, *backlog)

    monkeypatch.setattr(socket.socket, "listen", listening)
    made(2, lambda: {"is": 2})
    assert seen == [([], 0)]
    assert one.others() == ([{"is": 2}], 0)


def test_one_that_does_not_answer_is_counted_and_not_waited_for(made, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "_PATIENCE", 0.05)
    one = made(1, dict)
    made(3, lambda: {"is": 3})
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "2.socket"))
        silent.listen()
        assert one.others() == ([{"is": 3}], 1)


def test_a_long_answer_comes_whole(made):
    one, long = made(1, dict), {"text": "x" * 3_000_000}
    made(2, lambda: long)
    assert one.others() == ([long], 0)


def test_a_folder_that_is_too_far_down_is_told_in_the_log(tmp_path, caplog):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    one = Neighbours(folder, dict)
    one.start()
    assert "the console shows one worker at a time" in caplog.text
    assert one.others() == ([], 0)
    one.stop()


def page(port, cookie="", method="GET", body=None, path="/console"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    headers = {"Cookie": cookie, "Origin": f"http://127.0.0.1:{port}"}
    if body:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response, text


@pytest.mark.slow
def test_a_page_of_any_worker_shows_all_of_them(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    options = ("--port", "0", "--web-port", "0", "--workers", "2")
    with Running(tmp_path, "run", "app.py", *options) as running, contextlib.ExitStack() as stack:
        web_port = int(running.until(r"console at http://127\.0\.0\.1:(\d+)/console")[1])
        port = int(running.until(r"listening on [\d.]+:(\d+)")[1])
        for _ in range(2):
            running.until(r"worker \d+ serves")
        for number in range(8):
            client = connect("127.0.0.1", port, called_ae="ARCHIVE", calling_ae=f"CT{number}")
            stack.enter_context(client).echo()
            with pytest.raises(Exception, match="0xA700"):
                list(client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}))
        for _ in range(6):
            response, text = page(web_port)
            assert all(f"<b>CT{number}</b>" in text for number in range(8))
            assert "2 workers" in text
            assert "12 of 20 places left" in text
            assert "free of 2.0 GB" in text  # of both spools
            assert len(set(re.findall(r"/console/troubles/[\d-]+", text))) == 8
        (link, *_) = re.findall(r"/console/troubles/[\d-]+", text)
        assert all("0xA700" in page(web_port, path=link)[1] for _ in range(6))
        cookie = response.headers["Set-Cookie"].partition(";")[0]
        body = f"title=GONE&token={cookie.partition('=')[2]}"
        for _ in range(6):
            pressed, text = page(web_port, cookie, "POST", body, "/console/echo")
            assert pressed.status == 303, text
            assert "cannot be reached" in page(web_port)[1]
        running.signal(signal.SIGTERM)
        stack.close()
        running.ended()
