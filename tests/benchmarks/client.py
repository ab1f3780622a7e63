"""A client that costs the same for every server: pre-encoded bytes over a raw socket."""

import io
import socket
import struct

from pydicom import Dataset, dcmwrite

IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
VERIFICATION = b"1.2.840.10008.1.1"
CT_STORAGE = b"1.2.840.10008.5.1.4.1.1.2"
PATIENT_FIND = b"1.2.840.10008.5.1.4.1.2.1.1"
STUDY_FIND = b"1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = b"1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = b"1.2.840.10008.5.1.4.1.2.2.3"

C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO = 0x01, 0x10, 0x20, 0x21, 0x30
PENDING = (0xFF00, 0xFF01)
LARGEST = 1 << 20  # bytes of one of our PDUs
TIMEOUT = 120  # seconds


def encode(dataset):
    """Return the bytes of a data set, in explicit VR little endian."""
    out = io.BytesIO()
    dcmwrite(out, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return out.getvalue()


def image(size, uid):
    """Return the bytes of a CT image with so many bytes of pixels."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT_STORAGE.decode(), uid.decode()
    ds.PatientName, ds.PatientID = "Doe^John", "1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.add_new("PixelData", "OW", bytes(size + size % 2))
    return encode(ds)


def item(kind, body):
    return struct.pack(">BxH", kind, len(body)) + body


def _request(abstract, syntax, fetched):
    contexts = [(1, abstract), (3, fetched)] if fetched else [(1, abstract)]
    user = item(0x51, struct.pack(">I", 0)) + item(0x52, b"1.2.3.4")
    if fetched:  # with the role of an SCP for what a C-GET fetches
        user += item(0x54, struct.pack(">H", len(fetched)) + fetched + b"\1\1")
    body = b"".join(
        (
            struct.pack(">Hxx16s16s32x", 1, b"BENCH".ljust(16), b"CLIENT".ljust(16)),
            item(0x10, b"1.2.840.10008.3.1.1.1"),
            *(
                item(0x20, bytes((number, 0, 0, 0)) + item(0x30, uid) + item(0x40, syntax))
                for number, uid in contexts
            ),
            item(0x50, user),
        )
    )
    return struct.pack(">BxI", 1, len(body)) + body


def _element(number, value):
    return struct.pack("<HHI", 0, number, len(value)) + value


def _even(value, padding=b"\0"):
    return value + padding * (len(value) & 1)


def command_set(*elements):
    body = b"".join(_element(*element) for element in elements)
    return _element(0, struct.pack("<I", len(body))) + body


def command(field, message_id, sop_class, instance=b"", destination=b"", data_set=True):
    """Return the bytes of a request's command set."""
    elements = [
        (0x0002, _even(sop_class)),
        (0x0100, struct.pack("<H", field)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0600, _even(destination, b" ")) if destination else None,
        (0x0700, b"\0\0") if data_set else None,
        (0x0800, b"\1\0" if data_set else b"\1\1"),
        (0x1000, _even(instance)) if instance else None,
    ]
    return command_set(*filter(None, elements))


def value(data, element):
    """Return a number of a command set; Message IDs below 256 do not look like elements."""
    at = data.index(struct.pack("<HHI", 0, element, 2))
    return struct.unpack_from("<H", data, at + 8)[0]


def pdu(context, control, data):
    """Return a P-DATA-TF with one fragment; control 1 is a command, 2 the last of its kind."""
    head = struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context, control)
    return head + data


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit_waiting(sock)
    return sock


def limit_waiting(sock):
    """Have nothing hang: as an option of the socket this costs nothing for each call."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", TIMEOUT, 0))


class Association:
    """An association with a server, for one SOP class."""

    def __init__(self, port, abstract, syntax=EXPLICIT, fetched=b""):
        self.socket = connect(port)
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

    def pdus(self, encoded, data=b""):
        """Cut a message to the server's limit; return the pieces to send."""
        room = min(self.maximum or LARGEST, LARGEST) - 6 & ~1
        pieces = [pdu(1, 3, encoded)]
        for start in range(0, len(data), room):
            last = 2 if start + room >= len(data) else 0
            pieces.append(pdu(1, last, data[start : start + room]))
        return pieces

    def send(self, pieces):
        """Send what `pdus` made, a small message at once."""
        if sum(map(len, pieces)) <= 4 * LARGEST:
            self.socket.sendall(b"".join(pieces) if len(pieces) > 1 else pieces[0])
        else:
            for piece in pieces:
                self.socket.sendall(piece)

    def status(self):
        """Read a response; return its status and whether a data set follows."""
        _, body = self.read()
        return value(body, 0x0900), value(body, 0x0800) != 0x0101

    def answers(self):
        """Read responses up to the final one; return how many were pending, and its status."""
        count = 0
        while True:
            status, has_data = self.status()
            if has_data:
                self.read()
            if status not in PENDING:
                return count, status
            count += 1

    def release(self):
        self.socket.sendall(struct.pack(">BxI4x", 5, 4))
        if self.read()[0] != 6:
            raise RuntimeError("not released")
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()
