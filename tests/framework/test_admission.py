"""Who may associate: AE titles, networks, identities and limits."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from pacsroute import App, AssociationRejected, Blueprint, SetupError, connect
from pacsroute.allow import allowed, rule
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.negotiation import propose
from pacsroute.upper_layer.pdu import UserIdentity

ECHO = ("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])


def _reason(server, **options):
    with connect("127.0.0.1", server.port, **options) as client:
        try:
            client.echo()
        except AssociationRejected as error:
            return error.result, error.source, error.reason
    return None


def test_require_called_ae_rejects_other_titles():
    app = App("ARCHIVE", require_called_ae=True, called_ae_titles=["OLD_NAME"])
    app.register_blueprint(Blueprint("research"), called_ae="RESEARCH")
    with app.serve(port=0, grace=1) as server:
        for title in ("ARCHIVE", "OLD_NAME", "RESEARCH"):
            assert _reason(server, called_ae=title) is None
        assert _reason(server, called_ae="ELSE") == (1, 1, 7)


def test_allow_admits_listed_peers_only(dcmtk):
    app = App(allow=["CT1", "MR1@10.0.0.0/8", "WS@127.0.0.0/8"])
    with app.serve(port=0, grace=1) as server:
        assert _reason(server, calling_ae="CT1") is None
        assert _reason(server, calling_ae="WS") is None
        assert _reason(server, calling_ae="MR1") == (1, 1, 3)
        assert _reason(server, calling_ae="ct1") == (1, 1, 3)
        done = dcmtk("echoscu", "-aet", "NOBODY", "127.0.0.1", server.port)
        assert "Calling AE Title Not Recognized" in done.stdout


@pytest.mark.parametrize(
    ("text", "ae_title", "address", "answer"),
    [
        ("CT1", "CT1", "192.168.0.1", True),
        ("CT1", "CT2", "192.168.0.1", False),
        ("192.168.0.0/24", "CT2", "192.168.0.7", True),
        ("192.168.0.0/24", "CT2", "192.168.1.7", False),
        ("192.168.0.7", "X", "::ffff:192.168.0.7", True),
        ("*@192.168.0.7", "X", "192.168.0.7", True),
        ("2001:db8::/32", "X", "2001:db8::1", True),
        ("2001:db8::/32", "X", "192.168.0.7", False),
        ("fe80::/10", "X", "fe80::1%eth0", True),
        ("A@B@10.0.0.1", "A@B", "10.0.0.1", True),
        ("10.0.0.1", "X", "not an address", False),
    ],
)
def test_allow_rule_admits_or_rejects_a_peer(text, ae_title, address, answer):
    assert allowed([text], ae_title, address) is answer


@pytest.mark.parametrize(
    "text", ["", "CT1@", "CT1@10.0.0.0/33", "10.0.0.0/40", "A" * 17, "@10.0.0.1", "CT1@host"]
)
def test_invalid_allow_rule_is_a_set_up_error(text):
    with pytest.raises(SetupError):
        rule(text)
    with pytest.raises(SetupError):
        App(allow=[text])


# ------------------------------------------------------------------------------ identities


def _guarded():
    app, seen = App(), []

    @app.authenticate
    def check(identity, association):
        seen.append((identity and identity.kind, association.calling_ae))
        if identity is None:
            return None
        identity.response = b"ticket"
        if identity.token:
            return identity.token
        return identity.name if identity.proves("doe", "secret") else False

    @app.echo
    def echo(request):
        seen.append(request.user)

    return app, seen


def test_authentication_without_proof_is_rejected():
    app, seen = _guarded()
    with app.serve(port=0, grace=1) as server:
        assert _reason(server, user=("doe", "secret")) is None
        assert _reason(server, user=("doe", "wrong")) == (1, 2, 1)
        assert _reason(server, user="doe") == (1, 2, 1)
        assert _reason(server) == (1, 2, 1)
    assert seen == [
        ("passcode", "PACSROUTE"),
        "doe",
        ("passcode", "PACSROUTE"),
        ("username", "PACSROUTE"),
        (None, "PACSROUTE"),
    ]


@pytest.mark.parametrize(
    ("number", "answer"), [(2, b""), (3, b"ticket"), (4, b"ticket"), (5, b"ticket")]
)
@pytest.mark.parametrize("wanted", [True, False])
def test_user_identity_response_reaches_pynetdicom(number, answer, wanted):
    app, _ = _guarded()
    identity = UserIdentityNegotiation()
    identity.user_identity_type = number
    identity.primary_field, identity.secondary_field = b"doe", b"secret"
    identity.positive_response_requested = wanted
    ae = AE()
    ae.add_requested_context("1.2.840.10008.1.1")
    with app.serve(port=0, grace=1) as server:
        assoc = ae.associate("127.0.0.1", server.port, ext_neg=[identity])
        assert assoc.is_established
        responses = [
            item.server_response
            for item in assoc.acceptor.user_information
            if isinstance(item, UserIdentityNegotiation)
        ]
        assert responses == ([answer] if wanted else [])
        assoc.release()


def test_unknown_identity_type_gives_no_user_name():
    from pacsroute import Identity

    identity = Identity(UserIdentity(9, False, b"root"))
    assert (identity.kind, identity.name, identity.token) == ("unknown", "", b"root")


@pytest.mark.parametrize("nobody", [None, False, "", 0, {}])
def test_empty_identity_is_no_user(caplog, nobody):
    app = App()
    app.authenticate(lambda identity, association: nobody)
    with app.serve(port=0, grace=1) as server:
        assert _reason(server, user="doe") == (1, 2, 1)
    kind = "None" if nobody is None else type(nobody).__name__
    said = f"(127.0.0.1) is not authenticated: @app.authenticate returned {kind}"
    assert said in caplog.text


def test_without_authenticate_every_peer_is_admitted_silently():
    with App().serve(port=0, grace=1) as server:
        assert _reason(server, user=UserIdentity(2, True, b"doe", b"x")) is None


def test_exception_in_authenticate_rejects_and_is_not_disclosed(caplog):
    app = App()

    @app.authenticate
    def check(identity, association):
        raise ValueError(identity.passcode)

    with app.serve(port=0, grace=1) as server:
        assert _reason(server, user=("doe", "top-secret")) == (2, 2, 1)
    assert "@app.authenticate failed: ValueError" in caplog.text
    assert "top-secret" not in caplog.text


def test_blueprint_title_has_its_own_authenticate():
    app, research = App("ARCHIVE"), Blueprint("research")
    app.authenticate(lambda identity, association: "anybody")
    research.authenticate(lambda identity, association: identity)
    app.register_blueprint(research, called_ae="RESEARCH")
    open_door = Blueprint("open")
    app.register_blueprint(open_door, called_ae="OPEN")
    with app.serve(port=0, grace=1) as server:
        assert _reason(server, called_ae="ARCHIVE") is None
        assert _reason(server, called_ae="OPEN") is None
        assert _reason(server, called_ae="RESEARCH") == (1, 2, 1)
        assert _reason(server, called_ae="RESEARCH", user="doe") is None


def test_identity_repr_hides_names_and_secrets():
    from pacsroute import Identity

    identity = Identity(UserIdentity(2, False, b"doe", b"secret"))
    assert repr(identity) == "Identity('passcode')"
    assert not identity.proves("doe", "secre")
    assert not identity.proves("do", "secret")
    assert not Identity(UserIdentity(1, False, b"doe", b"")).proves("doe", "")


def test_test_client_calls_authenticate_unless_given_a_user():
    app, seen = _guarded()
    with pytest.raises(AssociationRejected), app.test_client() as client:
        client.echo()
    with app.test_client(identity=("doe", "secret")) as client:
        client.echo()
    with app.test_client(user="root") as client:
        client.echo()
    assert seen[-2:] == ["doe", "root"]


# ------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("limit", ["max_associations_per_host", "max_associations_per_ae"])
def test_one_ae_title_cannot_take_all_places(limit, caplog, raw_peer):
    with App(**{limit: 2}).serve(port=0, grace=1) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                assert stack.enter_context(raw_peer(server.port)).echo() == 0
            answer = stack.enter_context(raw_peer(server.port)).answer
            assert tuple(answer) == (2, 3, 2)
            if limit.endswith("ae"):
                assert _reason(server, calling_ae="OTHER") is None
        assert limit in caplog.text
        while True:  # the places are free again, when the server has seen that they were aborted
            with raw_peer(server.port) as peer:
                if not isinstance(peer.answer, pdu.AssociateRJ):
                    assert peer.echo() == 0
                    break


def test_too_many_contexts_are_rejected(raw_peer):
    contexts = [("1.2.840.10008.1.1", "1.2.840.10008.1.2")] * 3
    with App(max_contexts=2).serve(port=0, grace=1) as server:
        with raw_peer(server.port, contexts) as peer:
            assert tuple(peer.answer) == (2, 3, 2)
        with raw_peer(server.port, contexts[:2]) as peer:
            assert peer.echo() == 0


def test_a_long_request_is_aborted(raw_peer):
    contexts = [("1.2.840.10008.1.1", "1.2.840.10008.1.2")] * 20
    with App(max_associate_length=600).serve(port=0, grace=1) as server:
        with raw_peer(server.port, contexts) as peer:
            assert type(peer.answer).__name__ == "Abort"
        with raw_peer(server.port) as peer:
            assert peer.echo() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
@pytest.mark.parametrize("first", [b"", b"not DICOM"], ids=["silent", "that do not close"])
def test_one_host_cannot_take_all_connections(first, caplog, raw_peer):
    app = App(max_associations=10, max_associations_per_host=5, artim=60)
    with app.serve(port=0, grace=0) as server, contextlib.ExitStack() as stack:
        for _ in range(100):  # more than there are threads
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            with contextlib.suppress(ConnectionError):
                peer.sendall(first)
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.2", 0))
        other.settimeout(30)
        other.connect(("127.0.0.1", server.port))
        other.sendall(pdu.encode(propose("CT", "ANY", [ECHO], maximum_length=16_384)))
        assert other.recv(1) == b"\x02"
    assert "127.0.0.1: connections beyond 30 at once are closed" in caplog.text


def _asks(app, calling_ae, proposal):
    """Return the accepted contexts of a peer that sends this proposal."""
    with (
        app.serve(port=0, grace=1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        request = proposal[:26] + calling_ae.ljust(16).encode() + proposal[42:]
        sock.sendall(request)
        answer = pdu.decode(_whole_pdu(sock))
        assert (answer.calling_ae, answer.titles) == (calling_ae, request[10:74])
        return [context.id for context in answer.contexts if context.result == 0]


def _whole_pdu(sock):
    head = sock.recv(6, socket.MSG_WAITALL)
    return head + sock.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)


def test_a_repeated_proposal_has_the_answer_for_its_peer():
    app = App()
    app.store(calling_ae="CT")(lambda request: None)

    @app.before_association
    def narrow(association):
        if association.calling_ae == "NARROW":
            del association.contexts[1]

    contexts = [ECHO, ("1.2.840.10008.5.1.4.1.1.2", ECHO[1])]
    proposal = pdu.encode(propose("ANY", "ANY", contexts, maximum_length=16_384))
    for calling_ae, accepted in 2 * [("CT", [1, 3]), ("MR", [1]), ("NARROW", []), ("PC", [1])]:
        assert _asks(app, calling_ae, proposal) == accepted


def test_a_proposal_with_an_identity_is_not_remembered():
    identity = UserIdentity(2, False, b"user", b"a passcode that nobody keeps")
    request = propose("ANY", "ANY", [ECHO], user_identity=identity, maximum_length=16_384)
    for _ in range(2):
        decoded = pdu.decode(pdu.encode(request))
        assert (decoded.user_information.user_identity, decoded.proposal) == (identity, b"")
    assert not any(identity.secondary in known for known in pdu._proposals)


def test_remembered_proposals_are_few_and_short():
    app = App()
    policy = app.policy("ANY")
    for number in range(200):
        request = propose("ANY", "ANY", [ECHO, (f"1.2.{number}", ECHO[1])], maximum_length=16_384)
        pdu.encode(policy.answer(pdu.decode(pdu.encode(request)), 16_384)[0])
    long = propose("ANY", "ANY", 120 * [("1.2.3", 10 * ["1.2.840.10008.1.2"])], maximum_length=1)
    assert pdu.decode(pdu.encode(long)).proposal == b""
    for known in (pdu._proposals, pdu._answers, policy._answers):
        assert 0 < len(known) <= 64
