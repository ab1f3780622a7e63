"""A client that costs the same for every server: pre-encoded bytes over a raw socket."""

import socket
import struct

IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
VERIFICATION = b"1.2.840.10008.1.1"
CT_STORAGE = b"1.2.840.10008.5.1.4.1.1.2"
STUDY_GET = b"1.2.840.10008.5.1.4.1.2.2.3"
STUDY_FIND = b"1.2.840.10008.5.1.4.1.2.2.1"


def _item(kind, body):
    return struct.pack(">BxH", kind, len(body)) + body


def _request(abstract, syntax, fetched):
    context = bytes((1, 0, 0, 0)) + _item(0x30, abstract) + _item(0x40, syntax)
    user = _item(0x51, struct.pack(">I", 0)) + _item(0x52, b"1.2.3.4")
    if fetched:
        user += _item(0x54, struct.pack(">H", len(fetched)) + fetched + b"\1\1")
    body = (
        struct.pack(">Hxx16s16s32x", 1, b"BENCH".ljust(16), b"CLIENT".ljust(16))
        + _item(0x10, b"1.2.840.10008.3.1.1.1")
        + _item(0x20, context)
        + (
            _item(0x20, b"\3\0\0\0" + _item(0x30, fetched) + _item(0x40, syntax))
            if fetched
            else b""
        )
        + _item(0x50, user)
    )
    return struct.pack(">BxI", 1, len(body)) + body


def _element(number, value):
    return struct.pack("<HHI", 0, number, len(value)) + value


def _uid(text):
    return text + b"\0" * (len(text) & 1)


def command(field, message_id, sop_class, instance=b"", data_set=True):
    """Return the bytes of a request's command set."""
    body = (
        _element(0x0002, _uid(sop_class))
        + _element(0x0100, struct.pack("<H", field))
        + _element(0x0110, struct.pack("<H", message_id))
        + (_element(0x0700, b"\0\0") if data_set else b"")
        + _element(0x0800, b"\1\0" if data_set else b"\1\1")
        + (_element(0x1000, _uid(instance)) if instance else b"")
    )
    return _element(0, struct.pack("<I", len(body))) + body


def _value(data, element):
    at = data.index(struct.pack("<HHI", 0, element, 2))
    return struct.unpack_from("<H", data, at + 8)[0]


def _store_response(message_id, context):
    body = (
        _element(0x0002, _uid(CT_STORAGE))
        + _element(0x0100, struct.pack("<H", 0x8001))
        + _element(0x0120, struct.pack("<H", message_id))
        + _element(0x0800, b"\1\1")
        + _element(0x0900, b"\0\0")
    )
    encoded = _element(0, struct.pack("<I", len(body))) + body
    return struct.pack(">BxIIBB", 4, len(encoded) + 6, len(encoded) + 2, context, 3) + encoded


class Association:
    def __init__(self, port, abstract, syntax=EXPLICIT, fetched=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.socket.sendall(_request(abstract, syntax, fetched))
        kind, body = self.read()
        if kind != 2:
            raise RuntimeError(f"not accepted: PDU {kind}")
        at = body.index(b"\x51\0\0\4")
        (self.maximum,) = struct.unpack_from(">I", body, at + 4)

    def read(self):
        kind, length = struct.unpack(">BxI", self.file.read(6))
        return kind, self.file.read(length)

    def pdus(self, encoded, data=None):
        """Cut a message to the server's limit; return the pieces to send."""
        room = min(self.maximum or 1 << 20, 1 << 20) - 6 & ~1
        pieces = [struct.pack(">BxIIBB", 4, len(encoded) + 6, len(encoded) + 2, 1, 3) + encoded]
        for start in range(0, len(data or b""), room):
            part = data[start : start + room]
            last = 2 if start + room >= len(data) else 0
            pieces.append(struct.pack(">BxIIBB", 4, len(part) + 6, len(part) + 2, 1, last) + part)
        return pieces

    def status(self):
        """Read a response; return its status and whether a data set follows."""
        _, body = self.read()
        at = body.index(b"\0\0\0\x09\2\0\0\0")
        has_data = body[body.index(b"\0\0\0\x08\2\0\0\0") + 8 :][:2] != b"\1\1"
        return struct.unpack_from("<H", body, at + 8)[0], has_data

    def fetch(self):
        """Take what a C-GET sends; return how many instances and bytes, and the final status."""
        count = size = 0
        request = None
        room = memoryview(bytearray(1 << 21))  # nothing is allocated for each PDU
        while True:
            _, expected = struct.unpack(">BxI", self.file.read(6))
            body = room[:expected]
            at = self.file.readinto(body)
            while at < expected:
                at += self.file.readinto(body[at:])
            at = 0
            while at < expected:
                length, context, control = struct.unpack_from(">IBB", body, at)
                start, at = at + 6, at + 4 + length
                if control & 1:
                    value = bytes(body[start:at])
                    field = _value(value, 0x0100)
                    if field == 0x0001:
                        request = _value(value, 0x0110), context
                    elif field == 0x8010 and _value(value, 0x0900) != 0xFF00:
                        return count, size, _value(value, 0x0900)
                elif request is None:
                    continue  # the list of what failed
                else:
                    size += length - 2
                    if control & 2:
                        count += 1
                        self.socket.sendall(_store_response(*request))
                        request = None

    def release(self):
        self.socket.sendall(struct.pack(">BxI4x", 5, 4))
        if self.read()[0] != 6:
            raise RuntimeError("not released")
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()
