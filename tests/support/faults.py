"""A request of each service, and a peer that may send them all."""

import struct

from support.names import CT, EXPLICIT, FIND, GET, IMPLICIT, MOVE, MPPS, ONE_STUDY
from support.raw_peer import RawPeer

from pacsroute import Instance, uids
from pacsroute.dimse import commands

CONTEXTS = [
    (uids.VERIFICATION, IMPLICIT),
    (CT, EXPLICIT),
    *((uid, IMPLICIT) for uid in (FIND, GET, MOVE, MPPS)),
]
ECHO_ID, CT_ID, FIND_ID, GET_ID, MOVE_ID, MPPS_ID = range(1, 13, 2)
BODY = b"\x08\0\x18\0UI\x06\x001.2.3\0"
_PENDING = (0xFF00, 0xFF01)


def data_set(size):
    return BODY + b"\xe0\x7f\x10\0OB\0\0" + struct.pack("<I", size) + bytes(size)


INSTANCE = Instance(data_set(40_000), sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT)

SENT = {  # what a peer asks of each service: context, command, data set
    "echo": lambda: (ECHO_ID, commands.CEchoRQ(message_id=1), None),
    "store": lambda: (
        CT_ID,
        commands.CStoreRQ(message_id=1, affected_sop_class=CT, affected_sop_instance="1.2.3"),
        BODY,
    ),
    "find": lambda: (FIND_ID, commands.CFindRQ(message_id=1, affected_sop_class=FIND), ONE_STUDY),
    "get": lambda: (GET_ID, commands.CGetRQ(message_id=1, affected_sop_class=GET), ONE_STUDY),
    "move": lambda: (
        MOVE_ID,
        commands.CMoveRQ(message_id=1, affected_sop_class=MOVE, move_destination="WS"),
        ONE_STUDY,
    ),
    "n_create": lambda: (
        MPPS_ID,
        commands.NCreateRQ(message_id=1, affected_sop_class=MPPS, affected_sop_instance="1.2.3"),
        ONE_STUDY,
    ),
}


def associated(port):
    return RawPeer(port, CONTEXTS, scp_of=(CT,))


def final(peer):
    """Return the status of the last response to what was asked."""
    while True:
        command, _ = peer.receive()
        if isinstance(command, commands.CStoreRQ):
            answer = commands.CStoreRSP(
                message_id_responded_to=command.message_id,
                affected_sop_class=command.affected_sop_class,
                affected_sop_instance=command.affected_sop_instance,
            )
            peer.send(CT_ID, answer)
        elif command.status not in _PENDING:
            return command.status
