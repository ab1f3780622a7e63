"""Faults, each of them in every state: nothing hangs, nothing is lost, nothing is left behind."""

import contextlib
import gc
import socket
import struct
import sys
import threading

import pytest
from support.faults import CT_ID, INSTANCE, SENT, associated, data_set, final
from support.names import CT, EXPLICIT, IMPLICIT, ONE_STUDY, WAIT
from support.raw_peer import RawPeer
from support.unharmed import SHORT, objects, unharmed, until

from pacsroute import App, Failure, Instance, Peer, uids
from pacsroute.dimse import command_set, commands
from pacsroute.upper_layer import pdu

pytestmark = pytest.mark.slow


def _plain(handler):
    """Hide that a handler is a generator function, which not every service takes."""
    return lambda request: handler(request)  # noqa: PLW0108


def an_app(spool, handler):
    """Return an app of which every handler is this one."""
    app = App("FAULTS", spool=spool)
    app.destinations["WS"] = Peer("127.0.0.1", 1)  # where nobody listens
    for register in (app.store, app.find, app.get, app.move, app.n_create("MPPS")):
        register(_plain(handler))

    @app.echo
    def echo(request):
        return handler(request) if request.message_id == 1 and request.calling_ae == "RAW" else None

    return app


# ------------------------------------------------------------------- peers that vanish

REQUEST = pdu.encode(
    pdu.AssociateRQ("ANY", "RAW", (pdu.PresentationContext(1, uids.VERIFICATION, (IMPLICIT,)),))
)


def connected(port, data=b""):
    sock = socket.create_connection(("127.0.0.1", port), WAIT)
    sock.sendall(data)
    return sock


def talking(*parts):
    """Return a function that associates and then sends these bytes."""

    def reach(port):
        peer = associated(port)
        for part in parts:
            peer.socket.sendall(part if isinstance(part, bytes) else pdu.encode(part))
        return peer.socket

    return reach


def asking(service, answers):
    """Return a function that asks something, and takes so many answers of it."""

    def reach(port):
        peer = associated(port)
        peer.send(*SENT[service]())
        for _ in range(answers):
            peer.receive()
        return peer.socket

    return reach


def rejected(port):
    wrong = bytearray(REQUEST)
    wrong[6:8] = b"\0\2"  # no protocol version that is known
    sock = connected(port, bytes(wrong))
    assert sock.recv(100)[0] == 3
    return sock


STORE = command_set.encode(
    commands.CStoreRQ(
        message_id=1, affected_sop_class=CT, affected_sop_instance="1.2.3", has_data_set=True
    )
)
WHOLE_COMMAND = pdu.PDataTF((pdu.PDV(CT_ID, True, True, STORE),))
A_PIECE = pdu.PDataTF((pdu.PDV(CT_ID, False, False, bytes(60_000)),))

# State of the server's side, and how a peer gets it there.
STATES = {
    "Sta2, nothing sent": connected,
    "Sta2, half a request": lambda port: connected(port, REQUEST[:50]),
    "Sta13, rejected": rejected,
    "Sta6, idle": talking(),
    "Sta6, half a header": talking(b"\4\0\0"),
    "Sta6, half a PDV": talking(pdu.encode(A_PIECE)[:200]),
    "Sta6, half a command": talking(pdu.PDataTF((pdu.PDV(CT_ID, True, False, STORE[:40]),))),
    "Sta6, no data set": talking(WHOLE_COMMAND),
    "Sta6, half a data set": talking(WHOLE_COMMAND, A_PIECE, A_PIECE, A_PIECE),
    "Sta6, echo": asking("echo", 0),
    "Sta6, store": asking("store", 0),
    "Sta6, find": asking("find", 0),
    "Sta6, find with answers": asking("find", 3),
    "Sta6, get": asking("get", 0),
    "Sta6, move": asking("move", 0),
    "Sta6, N-CREATE": asking("n_create", 0),
    "Sta13, released": talking(pdu.ReleaseRQ()),
    "Sta13, aborted": talking(pdu.ReleaseRP()),
    "Sta1, aborted by the peer": talking(pdu.Abort(0)),
}


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def silent(sock):
    """Say nothing more, and take what comes until the server has had enough."""
    sock.settimeout(WAIT)
    with sock, contextlib.suppress(ConnectionError):
        while sock.recv(1 << 16):
            pass


WAYS = {"RST": reset, "FIN": socket.socket.close, "silence": silent}


@pytest.fixture
def slow(tmp_path):
    """An app whose handlers wait until the test opens the gate."""
    gate = threading.Event()

    def handler(request):
        if request.command == "find":
            return rows(request)
        if request.command in ("get", "move"):
            return instances(request)
        assert gate.wait(WAIT)
        return None

    def rows(request):
        for number in range(2000):
            yield {"PatientID": f"{number}"}
            assert number < 10 or gate.wait(WAIT)

    def instances(request):
        request.count = 1000
        for number in range(1000):
            assert number < 2 or gate.wait(WAIT)
            yield INSTANCE

    app = an_app(tmp_path, handler)
    app.state.gate = gate
    return app


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
def test_vanished_peer_leaves_nothing_behind(slow, state, way):
    with unharmed(slow) as server:
        sock = STATES[state](server.port)
        if way == "silence":  # the handler goes on, and so meets it
            slow.state.gate.set()
        WAYS[way](sock)
        slow.state.gate.set()


@pytest.fixture
def _no_collector():
    gc.disable()
    yield
    gc.enable()


def released(port):
    peer = associated(port)
    peer.release()
    return peer.socket


def refused(port):
    peer = associated(port)
    context_id, command, _ = SENT["store"]()
    peer.send(context_id, command, data_set(300_000))
    assert final(peer) == 0xA700
    peer.release()
    return peer.socket


ENDS = {"released": released, "refused an instance": refused} | {
    name: STATES[name]
    for name in (
        *("Sta2, half a request", "Sta13, rejected", "Sta6, idle", "Sta6, half a data set"),
        *("Sta13, aborted", "Sta1, aborted by the peer"),
    )
}


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ENDS)
def test_no_association_waits_for_the_collector(tmp_path, end, way):
    """Each has a buffer and may have a file: they are gone as soon as it is over."""

    def refuse(request):
        raise Failure(0xA700, "no")

    with unharmed(an_app(tmp_path, refuse)) as server:
        for _ in range(3):
            WAYS[way](ENDS[end](server.port))
        assert until(lambda: not objects(collect=False).total()), objects(collect=False)


@pytest.mark.parametrize("service", ["find", "get"])
def test_a_peer_that_takes_no_answers_is_given_up(tmp_path, service):
    huge = Instance(
        data_set(20_000_000), sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT
    )

    def handler(request):
        request.count = 1
        row = {"PatientComments": "x" * 10_000} | {"PatientID": "1"}
        return iter([huge]) if request.command == "get" else (row for _ in range(100_000))

    keys = ONE_STUDY + bytes.fromhex("10000040") + bytes(4)
    with unharmed(an_app(tmp_path, handler)) as server:
        peer = associated(server.port)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        context_id, command, _ = SENT[service]()
        peer.send(context_id, command, keys if service == "find" else ONE_STUDY)
        assert until(lambda: not objects()["Association"])
        peer.socket.close()


# ------------------------------------------------------------------- handlers that misbehave


def deep(request):
    return deep(request) + 1


def raising(kind, *arguments):
    def handler(request):
        raise kind(*arguments)

    return handler


def rows_of(*rows):
    def handler(request):
        yield from rows

    return handler


def broken_close(request):
    class Rows:
        def __iter__(self):
            return self

        def __next__(self):
            raise StopIteration

        def close(self):
            raise ValueError("not even that")

    return Rows()


class Odd:
    """Something that raises whatever is asked of it."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


FORGED = "two\nlines\x1b[2J'é"
MISDEEDS = {
    "raises": raising(ValueError, FORGED),
    "sys.exit": lambda request: sys.exit(3),
    "StopIteration": raising(StopIteration),
    "MemoryError": raising(MemoryError),
    "RecursionError": deep,
    "OSError": raising(OSError, 28, FORGED),
    "a bool": lambda request: True,
    "text": lambda request: FORGED,
    "bytes": lambda request: b"\0\1",
    "a float": lambda request: 1.5,
    "an unknown status": lambda request: 0x1234,
    "Pending": lambda request: 0xFF00,
    "an odd object": lambda request: Odd(),
}
ONLY_ROWS = {
    "yields None": rows_of(None),
    "yields numbers": rows_of(1, 2),
    "yields text": rows_of(FORGED),
    "yields an odd object": rows_of(Odd()),
    "a mapping": lambda request: {"PatientID": "1"},
    "None": lambda request: None,
}


@pytest.mark.parametrize("misdeed", [*MISDEEDS, *ONLY_ROWS])
def test_misbehaving_handler_gets_a_failure_status(tmp_path, misdeed):
    app = an_app(tmp_path, MISDEEDS.get(misdeed) or ONLY_ROWS[misdeed])
    services = ["find", "get", "move"] if misdeed in ONLY_ROWS else [*SENT]
    with unharmed(app) as server, associated(server.port) as peer:
        for service in services:
            peer.send(*SENT[service]())
            status = final(peer)
            assert 0xA700 <= status < 0xD000 or 0x0100 <= status < 0x0220, (service, hex(status))
            assert peer.echo(message_id=2) == 0
        peer.release()


def test_closing_the_answers_fails(tmp_path):
    with unharmed(an_app(tmp_path, broken_close)) as server, associated(server.port) as peer:
        for service in ("find", "get"):
            peer.send(*SENT[service]())
            assert final(peer) == 0
        peer.release()


def test_a_handler_yields_forever_until_it_is_cancelled(tmp_path):
    ended = threading.Event()

    def forever(request):
        request.count = 5
        try:
            while True:
                yield {"PatientID": "1"} if request.command == "find" else INSTANCE
        finally:
            ended.set()

    with unharmed(an_app(tmp_path, forever)) as server:
        for service in ("find", "get"):
            with associated(server.port) as peer:
                peer.send(*SENT[service]())
                while peer.receive()[0].command_field == 0x0001:
                    peer.send(CT_ID, commands.CStoreRSP(message_id_responded_to=1))
                peer.send(SENT[service]()[0], commands.CCancelRQ(message_id_responded_to=1))
                assert final(peer) == 0xFE00
                assert ended.wait(WAIT)
                ended.clear()
                peer.release()


def test_ctrl_c_in_a_handler_ends_its_association_only(tmp_path):
    with unharmed(an_app(tmp_path, raising(KeyboardInterrupt))) as server:
        for asked in SENT.values():
            with associated(server.port) as other, associated(server.port) as peer:
                peer.send(*asked())
                assert isinstance(peer.read_pdu(), pdu.Abort)
                assert other.echo(message_id=2) == 0
                other.release()


def test_failing_after_functions_and_destinations_hurt_nobody(tmp_path):
    def handler(request):
        for kind in (ValueError, SystemExit, KeyboardInterrupt, MemoryError):
            request.after(raising(kind, FORGED), request)

    app = an_app(tmp_path, handler)
    app.destination(lambda title, request: sys.exit())
    with unharmed(app) as server, associated(server.port) as peer:
        for _ in range(5):
            peer.send(*SENT["store"]())
            assert final(peer) == 0
        peer.send(*SENT["move"]())
        assert final(peer) == 0xC000
        peer.release()


def test_hanging_handler_hurts_no_other_association(tmp_path):
    gate = threading.Event()
    app = an_app(tmp_path, lambda request: gate.wait(60) and None)
    server = app.serve(port=0, **SHORT)
    try:
        with server:
            with associated(server.port) as hanging, associated(server.port) as other:
                hanging.send(*SENT["store"]())
                for _ in range(3):
                    assert other.echo(message_id=2) == 0
                other.release()
                stopping = threading.Thread(target=server.stop)
                stopping.start()
                stopping.join(WAIT)
                assert not stopping.is_alive(), "stop has a bound"
                gate.set()
                # It was not stopped in the middle, and what it answers is true.
                command, _ = hanging.receive()
                assert command.status == 0
    finally:
        gate.set()


# ------------------------------------------------------------------- destinations that fail


@contextlib.contextmanager
def destination(behave):
    """Listen, and treat each connection as told; at the end, all of them are closed."""
    ends = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work():
            with contextlib.suppress(OSError):
                while True:
                    sock = listener.accept()[0]
                    sock.settimeout(WAIT)
                    ends.append(sock)
                    with contextlib.suppress(OSError, EOFError, AssertionError):
                        behave(Taking(sock))

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for sock in ends:
                sock.close()
            worker.join(WAIT)


class Taking(RawPeer):
    """The acceptor's side of an association, which is as wrong as it is told to be."""

    def __init__(self, sock):
        self.socket = sock

    @property
    def maximum(self):
        return 16_384

    def accept(self):
        request = self.read_pdu()
        results = tuple(
            pdu.ContextResult(context.id, 0, context.transfer_syntaxes[0])
            for context in request.contexts
        )
        information = pdu.UserInformation(16_384, "1.2.3")
        answer = pdu.AssociateAC("WS", "FAULTS", results, information)
        self.socket.sendall(pdu.encode(answer))
        return self

    def take(self):
        self.accept().receive()
        return self


def answering(command):
    """Return what takes an instance and answers it with something."""
    return lambda peer: peer.take().send(1, command)


def bytes_for(data):
    return lambda peer: peer.take().socket.sendall(data)


OUT_OF_REACH = {
    "RST at once": lambda peer: reset(peer.socket),
    "FIN at once": lambda peer: peer.socket.close(),
    "silence at once": lambda peer: None,
    "rejects": lambda peer: (
        peer.read_pdu(),
        peer.socket.sendall(pdu.encode(pdu.AssociateRJ(1, 1, 7))),
    ),
    "aborts": lambda peer: (peer.read_pdu(), peer.socket.sendall(pdu.encode(pdu.Abort(0)))),
    "answers garbage": lambda peer: (peer.read_pdu(), peer.socket.sendall(b"HTTP/1.1 400 \r\n")),
    "RST when associated": lambda peer: reset(peer.accept().socket),
    "FIN when associated": lambda peer: peer.accept().socket.close(),
    "silence when associated": lambda peer: peer.accept(),
    "RST after the instance": lambda peer: reset(peer.take().socket),
    "FIN after the instance": lambda peer: peer.take().socket.close(),
    "silence after the instance": lambda peer: peer.take(),
    "aborts after the instance": bytes_for(pdu.encode(pdu.Abort(2, 6))),
    "releases after the instance": bytes_for(pdu.encode(pdu.ReleaseRQ())),
    "garbage after the instance": bytes_for(b"\x99" * 50),
    "another response": answering(commands.CEchoRSP(message_id_responded_to=1)),
    "a request in return": answering(commands.CEchoRQ(message_id=1)),
    "another Message ID": answering(commands.CStoreRSP(message_id_responded_to=77)),
    "a failure": answering(commands.CStoreRSP(message_id_responded_to=1, status=0xA700)),
    "an unknown status": answering(commands.CStoreRSP(message_id_responded_to=1, status=0x1234)),
    "Pending": answering(commands.CStoreRSP(message_id_responded_to=1, status=0xFF00)),
}


@pytest.mark.parametrize("how", OUT_OF_REACH)
def test_failing_destination_function_is_a_failure_status(tmp_path, how):
    app = an_app(tmp_path, lambda request: [INSTANCE])
    with unharmed(app, idle_timeout=1.5) as server, destination(OUT_OF_REACH[how]) as port:
        app.destinations["WS"] = Peer("127.0.0.1", port)
        with associated(server.port) as peer:
            peer.send(*SENT["move"]())
            assert final(peer) == 0xA702
            assert peer.echo(message_id=2) == 0
            peer.release()
