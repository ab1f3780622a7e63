"""Context IDs that come twice, and roles that were not selected (PS3.7 D.3.3.4)."""

import socket

import pytest
from support.datasets import made
from support.names import CT, EXPLICIT, GET, IMPLICIT, MR, ONE_STUDY, WAIT
from support.raw_peer import RawPeer

from pacsroute import App, Instance, NotAccepted, RequestFailed, uids
from pacsroute.dimse import commands
from pacsroute.framework.presentation_contexts import ContextPolicy
from pacsroute.upper_layer import pdu

COMMITMENT = uids.sop_class("StorageCommitment", "n_event_report")
NONE, SCU, SCP = None, (True, False), (False, True)


class Requestor(RawPeer):
    """A raw peer that says all of its request, with a role for CT or none."""

    def __init__(self, port, contexts, role=NONE, sop_class=CT):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        roles = () if role is NONE else (pdu.RoleSelection(sop_class, *role),)
        contexts = tuple(pdu.PresentationContext(*context) for context in contexts)
        user = pdu.UserInformation(16_384, "1.2.3.4", roles=roles)
        self.socket.sendall(pdu.encode(pdu.AssociateRQ("ANY", "RAW", contexts, user)))
        self.answer = self.read_pdu()

    @property
    def results(self):
        return [tuple(result) for result in self.answer.contexts]

    def get(self):
        """Fetch a study; return how many instances came, and the final response."""
        self.send(1, commands.CGetRQ(message_id=1, affected_sop_class=GET), ONE_STUDY)
        came = 0
        while isinstance((command := self.receive()[0]), commands.CStoreRQ):
            came += 1
            response = commands.CStoreRSP(
                message_id_responded_to=command.message_id, affected_sop_class=CT, status=0
            )
            self.send(3, response)
        while command.status == 0xFF00:
            command = self.receive()[0]
        return came, command


@pytest.mark.parametrize(
    ("contexts", "results"),
    [
        ([(1, uids.VERIFICATION, (IMPLICIT,))] * 2, [(1, 0, IMPLICIT)]),
        ([(1, uids.VERIFICATION, (IMPLICIT,)), (1, CT, (EXPLICIT,))], [(1, 0, IMPLICIT)]),
        ([(1, "1.2.3", (EXPLICIT,)), (1, uids.VERIFICATION, (IMPLICIT,))], [(1, 0, IMPLICIT)]),
        ([(1, "1.2.3", (EXPLICIT,))] * 2, [(1, 3, EXPLICIT)]),
        (
            [(1, CT, ("1.2.3",)), (3, MR, (EXPLICIT,)), (1, CT, (EXPLICIT,))],
            [(1, 0, "1.2.3"), (3, 0, EXPLICIT)],
        ),
    ],
)
def test_a_context_id_that_comes_twice_is_answered_once(contexts, results):
    app = App()
    for sop_class in (CT, MR):
        app.store(sop_class)(lambda request: None)
    with app.serve(port=0, grace=1) as server, Requestor(server.port, contexts) as peer:
        assert peer.results == results
        if contexts[-1][1] == uids.VERIFICATION:
            assert peer.echo() == 0
        peer.release()


def fetching(**settings):
    app = App(**settings)
    app.get(lambda request: [Instance(made(1))])
    return app


CONTEXTS = [(1, GET, (IMPLICIT,)), (3, CT, (IMPLICIT,))]


@pytest.mark.parametrize(
    ("role", "setting", "came", "status"),
    [
        (SCP, False, 1, 0x0000),
        (SCP, True, 1, 0x0000),
        (NONE, False, 0, 0xA702),
        (NONE, True, 1, 0x0000),
        (SCU, True, 0, 0xA702),  # it says that it is no SCP
    ],
)
def test_a_get_needs_the_scp_role_unless_a_setting_says_otherwise(role, setting, came, status):
    app = fetching(get_without_role=setting)
    app.store(lambda request: None)
    with app.serve(port=0, grace=1) as server, Requestor(server.port, CONTEXTS, role) as peer:
        found, final = peer.get()
        assert (found, final.status) == (came, status)
        assert ("SCP role" in (final.error_comment or "")) == (not came)
        peer.release()


@pytest.mark.parametrize("setting", [False, True])
def test_without_a_role_no_role_is_answered(setting):
    app = fetching(get_without_role=setting)
    with app.serve(port=0, grace=1) as server, Requestor(server.port, CONTEXTS) as peer:
        assert not peer.answer.user_information.roles
        assert peer.results[1][1] == (0 if setting else 3)
        peer.release()


def test_without_a_get_nothing_is_accepted_for_one():
    app = fetching(get_without_role=True)
    with app.serve(port=0, grace=1) as server, Requestor(server.port, CONTEXTS[1:]) as peer:
        assert peer.results == [(3, 3, IMPLICIT)]


def test_the_log_names_the_role_that_a_get_lacks(caplog):
    app = fetching()
    app.store(lambda request: None)
    with app.serve(port=0, grace=1) as server, Requestor(server.port, CONTEXTS) as peer:
        peer.get()
        peer.release()
    assert "the peer did not select the SCP role for CT Image Storage" in caplog.text


def test_the_log_names_the_role_that_a_report_lacks(caplog):
    app = App()
    app.n_event_report("StorageCommitment")(lambda request: None)
    report, echo = (1, COMMITMENT, (IMPLICIT,)), (3, uids.VERIFICATION, (IMPLICIT,))
    with app.serve(port=0, grace=1) as server:
        for contexts, role in (([report], NONE), ([report, echo], NONE), ([report], SCP)):
            with Requestor(server.port, contexts, role, COMMITMENT) as peer:
                peer.release()
    alone, among_others = (line for line in caplog.messages if "SCP role" in line)
    assert alone.startswith("RAW has proposed nothing that is served: Storage Commitment")
    assert alone.endswith("(it did not select the SCP role)")
    assert among_others.startswith("RAW did not select the SCP role for Storage Commitment")


class Ungranting(ContextPolicy):
    """Is no SCU of anything, whatever a peer offers."""

    def uses(self, sop_class):
        return False


def test_a_client_names_the_role_that_was_not_granted(listening):
    """The peer may still send, as Orthanc does; it is named where the request fails."""
    app = App("ARCHIVE")
    app.store(lambda request: None)
    app.get(lambda request: [Instance(made(1))])
    peer = listening(app)
    peer.app.policy = lambda *titles: Ungranting(app.routes)
    with peer.client() as client:
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}
        with pytest.raises(RequestFailed, match=r"C-GET, for which .* granted no SCP role: 0xA702"):
            list(client.get(keys, storage=["CTImageStorage"]))


def test_a_client_names_the_role_for_which_nothing_was_accepted(listening):
    peer = listening(App("ARCHIVE"))
    with peer.client() as client:
        with pytest.raises(NotAccepted, match=r"or not to .* as its SCP"):
            client.n_event_report("StorageCommitment", "1.2.3", 1, {"TransactionUID": "1.2"})
