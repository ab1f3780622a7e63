"""A requestor of an association that sends exact bytes."""

import socket
import struct

from support.names import WAIT

from pacsroute import uids
from pacsroute.dimse import command_set, commands
from pacsroute.dimse.messages import fragment
from pacsroute.upper_layer import pdu


class RawPeer:
    """A requestor of an association that sends the very bytes it is told to."""

    def __init__(
        self,
        port,
        contexts=((uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN),),
        scp_of=(),
        window=None,
        sock=None,
        before=b"",
    ):
        self.socket = sock or socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proposed = tuple(
            pdu.PresentationContext(2 * i + 1, abstract, (syntax,))
            for i, (abstract, syntax) in enumerate(contexts)
        )
        roles = tuple(pdu.RoleSelection(uid, True, True) for uid in scp_of)
        information = pdu.UserInformation(
            16_384, "1.2.3.4", roles=roles, asynchronous_operations=window
        )
        try:
            request = pdu.encode(pdu.AssociateRQ("ANY", "RAW", proposed, information))
            self.socket.sendall(before + request)
            self.answer = self.read_pdu()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    def _exactly(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def read_pdu(self):
        head = self._exactly(6)
        return pdu.decode(head + self._exactly(struct.unpack(">2xI", head)[0]))

    @property
    def maximum(self):
        return self.answer.user_information.maximum_length

    def send(self, context_id, command, data=None):
        for part in fragment(context_id, command, data, self.maximum):
            self.socket.sendall(part)

    def receive(self):
        """Return the next message: its command and its data set."""
        command, data = bytearray(), bytearray()
        decoded = None
        while True:
            received = self.read_pdu()
            assert isinstance(received, pdu.PDataTF), received
            for pdv in received.pdvs:
                if pdv.is_command:
                    command += pdv.fragment
                    if pdv.is_last:
                        decoded = command_set.decode(command)
                        if not decoded.has_data_set:
                            return decoded, None
                else:
                    data += pdv.fragment
                    if pdv.is_last:
                        return decoded, bytes(data)

    def echo(self, context_id=1, message_id=1):
        self.send(
            context_id,
            commands.CEchoRQ(message_id=message_id, affected_sop_class=uids.VERIFICATION),
        )
        return self.receive()[0].status

    def store(self, data, sop_class, sop_instance, context_id=1, message_id=1):
        command = commands.CStoreRQ(
            message_id=message_id,
            affected_sop_class=sop_class,
            affected_sop_instance=sop_instance,
        )
        self.send(context_id, command, data)
        return self.receive()[0]

    def find(self, data, sop_class, context_id=1, message_id=1):
        command = commands.CFindRQ(message_id=message_id, affected_sop_class=sop_class)
        self.send(context_id, command, data)

    def release(self):
        self.socket.sendall(pdu.encode(pdu.ReleaseRQ()))
        assert isinstance(self.read_pdu(), pdu.ReleaseRP)
