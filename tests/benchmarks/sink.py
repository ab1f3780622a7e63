"""Receivers that cost the same for every sender: for what a C-GET and a C-MOVE send."""

import contextlib
import hashlib
import socket
import struct
import threading

from tests.benchmarks import client

_ROOM = 1 << 21


class Receiver:
    """Takes instances from a socket and answers them; nothing is allocated for each PDU.

    With `hashing`, the digests of the data sets are in `digests`, and it is slower.
    """

    def __init__(self, sock, file, hashing=False):
        self.count = self.size = 0
        self.digests = []
        self._hash = hashlib.sha256() if hashing else None
        self._socket, self._file = sock, file
        self._room = memoryview(bytearray(_ROOM))

    def run(self):
        """Return the final status of the request behind it, or None at a release."""
        request = None
        while True:
            kind, expected = struct.unpack(">BxI", self._file.read(6))
            body = self._room[:expected]
            at = 0
            while at < expected:
                at += self._file.readinto(body[at:])
            if kind != 4:
                return None
            at = 0
            while at < expected:
                length, context, control = struct.unpack_from(">IBB", body, at)
                start, at = at + 6, at + 4 + length
                if control & 1:
                    encoded = bytes(body[start:at])
                    if client.value(encoded, 0x0100) == client.C_STORE:
                        request = encoded, context
                    elif client.value(encoded, 0x0900) not in client.PENDING:
                        return client.value(encoded, 0x0900)
                elif request is not None:
                    self._take(body[start:at], control & 2, *request)

    def _take(self, fragment, last, encoded, context):
        self.size += len(fragment)
        if self._hash is not None:
            self._hash.update(fragment)
        if last:
            self.count += 1
            if self._hash is not None:
                self.digests.append(self._hash.hexdigest())
                self._hash = hashlib.sha256()
            self._socket.sendall(client.pdu(context, 3, _response(encoded)))


def _response(request):
    return client.command_set(
        (0x0002, client.CT_STORAGE + b"\0"),
        (0x0100, struct.pack("<H", 0x8001)),
        (0x0120, struct.pack("<H", client.value(request, 0x0110))),
        (0x0800, b"\1\1"),
        (0x0900, b"\0\0"),
    )


class Sink:
    """A destination of C-MOVEs: it accepts everything, and keeps nothing."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.hashing = False
        self._received = []
        self._idle = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def take(self):
        """Return the receiver of the association that ended last, waiting for its end."""
        with self._idle:
            assert self._idle.wait_for(lambda: self._received, client.TIMEOUT)
            return self._received.pop()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):  # that is the listener's end
            while True:
                sock, _ = self._listener.accept()
                with sock, sock.makefile("rb") as file:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.limit_waiting(sock)
                    _, length = struct.unpack(">BxI", file.read(6))
                    sock.sendall(_accept(file.read(length)))
                    receiver = Receiver(sock, file, self.hashing)
                    receiver.run()
                    sock.sendall(struct.pack(">BxI4x", 6, 4))
                    file.read(1)  # the sender closes
                with self._idle:
                    self._received.append(receiver)
                    self._idle.notify_all()


def _items(data):
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length


def _accept(request):
    """Return the A-ASSOCIATE-AC that accepts each context, in explicit VR if that is offered."""
    results = []
    for kind, body in _items(request[68:]):
        if kind == 0x20:
            syntaxes = [uid.rstrip(b"\0") for number, uid in _items(body[4:]) if number == 0x40]
            syntax = client.EXPLICIT if client.EXPLICIT in syntaxes else syntaxes[0]
            results.append(client.item(0x21, body[:1] + bytes(3) + client.item(0x40, syntax)))
    user = client.item(0x51, struct.pack(">I", 131_072)) + client.item(0x52, b"1.2.3.4")
    body = b"".join(
        (
            request[:68],
            client.item(0x10, b"1.2.840.10008.3.1.1.1"),
            *results,
            client.item(0x50, user),
        )
    )
    return struct.pack(">BxI", 2, len(body)) + body
