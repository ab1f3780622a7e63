"""`pacsroute run --workers`: several processes on one port, under gunicorn's arbiter."""

import contextlib
import os
import pwd
import signal
import tempfile
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from support.names import ALL_STUDIES, FIND, WAIT
from support.processes import Running, pacsroute, without
from support.raw_peer import RawPeer

from pacsroute import connect, uids
from pacsroute.tls import TLS
from pacsroute.upper_layer import pdu

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="gunicorn is for POSIX systems"),
    pytest.mark.slow,
]

CONTEXTS = [(FIND, uids.IMPLICIT_VR_LITTLE_ENDIAN)]

APP = """
import os
from pathlib import Path
from pacsroute import App

app = App("WORKERS")
VERSION = 1

@app.lifespan
def once(app):
    Path(f"began-{os.getpid()}").touch()
    yield
    Path(f"ended-{os.getpid()}").touch()

@app.find("StudyRoot")
def find(request):
    account = f"{os.getuid()} {os.getgid()} {len(os.getgroups())}"
    yield {"PatientID": f"{VERSION} {os.getpid()} {account}"}
"""


class Peer(RawPeer):
    """A peer that asks who serves it: the version of the app, the process, user and group."""

    def __init__(self, port):
        super().__init__(port, CONTEXTS)

    def who(self):
        self.find(ALL_STUDIES, FIND)
        data = self.receive()[1]
        assert self.receive()[0].status == 0
        return [int(number) for number in data[data.index(b"\x10\0\x20\0") + 8 :].split()]


@pytest.fixture
def two(folder):
    with Running(folder, "run", "--port", "0", "--workers", "2") as running:
        running.number = running.port()
        running.pids = {int(running.until(r"worker (\d+) serves")[1]) for _ in range(2)}
        yield running


def test_associations_are_spread_over_the_workers(two, folder):
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        # At once, while all wait: who begins to wait anew in between may be woken first.
        coming = [pool.submit(Peer, two.number) for _ in range(8)]
        peers = [stack.enter_context(peer.result()) for peer in coming]
        served = [peer.who()[1] for peer in peers]
        for peer in peers:
            peer.release()
    assert set(served) == two.pids
    assert min(map(served.count, two.pids)) >= 2
    two.signal(signal.SIGTERM)
    assert two.ended() == 0
    assert two.lines[-1] == "stopped"
    ends = {path.name for path in folder.glob("*-*")}
    assert ends == {f"{what}-{pid}" for what in ("began", "ended") for pid in two.pids}


def test_workers_answer_dcmtk(two, dcmtk):
    for _ in range(3):
        assert dcmtk("echoscu", "127.0.0.1", two.number).returncode == 0


def test_a_worker_that_dies_costs_its_own_associations_only(two):
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(two.number)) for _ in range(8)]
        served = [peer.who()[1] for peer in peers]
        victim = served[0]
        os.kill(victim, signal.SIGKILL)
        two.until(rf"{victim}.* SIGKILL")
        for peer, pid in zip(peers, served, strict=True):
            if pid != victim:
                assert peer.who()[1] == pid
            else:
                with pytest.raises((EOFError, ConnectionError)):
                    peer.who()
        fresh = int(two.until(r"worker (\d+) serves")[1])
        assert fresh not in two.pids
        latest = stack.enter_context(Peer(two.number))
        assert latest.who()[1] in {fresh, *two.pids} - {victim}


def test_a_graceful_stop_lets_associations_finish(two):
    with Peer(two.number) as peer:
        pid = peer.who()[1]
        two.signal(signal.SIGTERM)
        two.all("1 associations have 10 s to finish", 1)
        assert peer.who()[1] == pid
        peer.release()
    assert two.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_of_workers_does_not_wait(two, folder, number):
    with Peer(two.number) as peer:
        pid = peer.who()[1]
        two.signal(number)
        assert isinstance(peer.read_pdu(), pdu.Abort)
    assert two.ended() == 0
    assert (folder / f"ended-{pid}").exists()


def test_sighup_takes_in_a_new_app_while_the_old_one_finishes(two, folder):
    with Peer(two.number) as before:
        assert before.who()[0] == 1
        (folder / "app.py").write_text(APP.replace("VERSION = 1", "VERSION = 22"))
        two.signal(signal.SIGHUP)
        fresh = {int(two.until(r"worker (\d+) serves")[1]) for _ in range(2)}
        assert not fresh & two.pids
        two.all("1 associations have 10 s to finish", 1)
        assert before.who()[0] == 1
        before.release()
    assert {int(found[1]) for found in two.all(r"worker (\d+) has ended", 2)} == two.pids
    with Peer(two.number) as after:
        assert after.who()[0] == 22
        after.release()


def test_no_association_is_lost_over_a_reload(two):
    served, over = [], threading.Event()

    def associate():
        while not over.is_set():
            with Peer(two.number) as peer:
                served.append(peer.who()[1])
                peer.release()

    with ThreadPoolExecutor() as pool:
        both = [pool.submit(associate) for _ in range(2)]
        two.signal(signal.SIGHUP)
        try:
            two.all("has ended", 2)
        finally:
            over.set()
        for future in both:
            future.result()
    assert two.pids & set(served)
    assert set(served) - two.pids


def test_sighup_with_a_broken_app_changes_nothing(two, folder):
    (folder / "app.py").write_text("x = = 1\n")
    two.signal(signal.SIGHUP)
    two.until("SyntaxError")
    two.until("the old workers keep serving")
    with Peer(two.number) as peer:
        assert peer.who()[1] in two.pids
        peer.release()


def test_sighup_with_a_lifespan_that_fails_changes_nothing(two, folder):
    (folder / "app.py").write_text(APP.replace("    yield\n", "    1 / 0\n    yield\n", 1))
    two.signal(signal.SIGHUP)
    two.until("the old ones keep serving")
    with Peer(two.number) as peer:
        assert peer.who()[1] in two.pids
        peer.release()
    (folder / "app.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"))
    two.signal(signal.SIGHUP)
    for _ in two.pids:
        two.until(r"worker \d+ serves")
    for _ in two.pids:
        two.until(r"worker \d+ has ended")
    with Peer(two.number) as peer:
        assert peer.who()[0] == 2
        peer.release()


@pytest.mark.parametrize("setting", ["port=1104", "tls_port=2762"])
def test_sighup_with_another_port_changes_nothing(folder, setting):
    (folder / "app.py").write_text(APP.replace('"WORKERS"', '"WORKERS", port=0'))
    with Running(folder, "run", "--workers", "2") as two:
        port = two.port()
        old = {int(found[1]) for found in two.all(r"worker (\d+) serves", 2)}
        (folder / "app.py").write_text(APP.replace('"WORKERS"', f'"WORKERS", {setting}'))
        two.signal(signal.SIGHUP)
        two.until("the old workers keep serving")
        with Peer(port) as peer:
            assert peer.who()[1] in old
            peer.release()


def test_workers_speak_tls_at_a_port_of_its_own(folder):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    ca.issue_cert("pacs.example").private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    arguments = ["--port", "0", "--tls-port", "0", "--tls-certificate", "own.pem"]
    with Running(folder, "run", "--workers", "2", *arguments) as running:
        plain, secure = running.until(r"listening on 127\.0\.0\.1:(\d+) and (\d+) \(TLS\)").groups()
        for port, tls in ((plain, None), (secure, TLS(ca=folder / "ca.pem"))):
            with connect("127.0.0.1", int(port), tls=tls) as client:
                assert client.echo().code == 0


@contextlib.contextmanager
def draining(folder, *arguments):
    options = ["--port", "0", "--drain", "600", "--metrics-port", "0", *arguments]
    with Running(folder, "run", *options) as running:
        running.monitor = running.until(r"at (http://127\.0\.0\.1:\d+)")[1]
        running.number = running.port()
        yield running


def readiness(running):
    try:
        with urllib.request.urlopen(f"{running.monitor}/ready", timeout=WAIT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_sigterm_drains_and_a_second_signal_ends_that(folder, arguments):
    with draining(folder, *arguments) as running:
        for _ in range(2 if arguments else 0):
            running.until("serves$")
        assert readiness(running) == (200, "ready\n")
        running.signal(signal.SIGTERM)
        running.until("draining: the server keeps serving for 600 s")
        assert readiness(running) == (503, "it is draining\n")
        with Peer(running.number) as peer:
            assert peer.who()[0] == 1
            peer.release()
        running.signal(signal.SIGQUIT if arguments else signal.SIGTERM)
        assert running.ended() == 0


def test_sighup_does_not_drain(folder):
    with draining(folder, "--workers", "2") as running:
        old = {int(running.until(r"worker (\d+) serves")[1]) for _ in range(2)}
        running.signal(signal.SIGHUP)
        gone = {int(found[1]) for found in running.all(r"worker (\d+) has ended", 2)}
        assert gone == old
        assert not any("draining" in line for line in running.lines)


def test_number_of_workers_changes_at_signals(two):
    two.signal(signal.SIGTTIN)
    third = int(two.until(r"worker (\d+) serves")[1])
    ended = set()
    for _ in range(2):  # the oldest first
        two.signal(signal.SIGTTOU)
        ended.add(int(two.until(r"worker (\d+) has ended")[1]))
    assert ended == two.pids
    with Peer(two.number) as peer:
        assert peer.who()[1] == third
        peer.release()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = = 1\n", "SyntaxError"),
        ("from pacsroute import App\n\napp = App('A' * 17)\n", "is not a valid AE title"),
    ],
)
def test_workers_report_a_broken_app_once(folder, text, words):
    (folder / "app.py").write_text(text)
    code, out, said = pacsroute(folder, "run", "--port", "0", "--workers", "2")
    assert (code, out) == (1, "")
    assert said.count(words) == 1
    assert "gunicorn" not in said


def test_workers_end_when_a_lifespan_fails(folder):
    (folder / "app.py").write_text(APP.replace("    yield\n", "    1 / 0\n    yield\n", 1))
    code, _, said = pacsroute(folder, "run", "--port", "0", "--workers", "2")
    assert code != 0
    assert "ZeroDivisionError" in said
    assert 'app.py", line' in said
    assert "gunicorn" not in said
    assert "pacsroute/" not in said  # whose lines tell nobody what to mend


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2", "--reload"], "exclude each other"),
        (["--user", "nobody"], "--user needs --workers"),
        (["--workers", "2", "--group", "nobody"], "--group needs --user"),
        (["--workers", "2", "--max-spool", "many"], "max_spool must be a whole number"),
        (["--workers", "2", "--tls-port", "0"], "certificate"),
        (["--workers", "0"], "0 is not in the range"),
        (["--workers", "2", "--user", "no-such-user"], "there is no user 'no-such-user'"),
        (["--workers", "2", "--host", "192.0.2.1"], "192.0.2.1 is not an address of this machine"),
    ],
)
def test_mistakes_in_the_options_of_workers(folder, arguments, words):
    code, _, said = pacsroute(folder, "run", "--port", "0", *arguments)
    assert code != 0
    assert words in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root becomes another")
@pytest.mark.parametrize("more", [(), ("--metrics-port", "0")])
def test_workers_run_as_another_user(more):
    nobody = pwd.getpwnam("nobody")
    arguments = ["run", "--port", "0", "--workers", "1", "--user", "nobody", *more]
    # Not in pytest's folders: each pytest that starts makes them root's own again.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APP)
        Path(folder).chmod(0o777)
        with Running(folder, *arguments) as running:
            with Peer(running.port()) as peer:
                assert peer.who()[2:] == [nobody.pw_uid, nobody.pw_gid, 1]
                peer.release()
            running.signal(signal.SIGTERM)
            assert running.ended() == 0


def test_workers_without_gunicorn_name_the_extra(folder):
    code, said = without("gunicorn", folder, "run", "--workers", "2")
    assert code == 1
    assert said == "Error: --workers needs gunicorn: pip install 'pacsroute[workers]'\n"
