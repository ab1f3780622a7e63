"""The limit: a server that makes the system calls of ours, and knows next to nothing of DICOM.

A few threads accept; the one that gets a peer serves it. Each association has one buffer, whose
messages are found by their lengths alone. Each instance goes to a file without a name, in one
call, which gets its name then. Responses are templates.
"""

import contextlib
import itertools
import os
import select
import socket
import struct
import sys
import threading
import time

FOLDER = os.environ["BENCH_FOLDER"]
DURABLE = os.environ.get("BENCH_DURABLE") == "1"
SINK = int(os.environ["BENCH_SINK"])
STORE, GET, MOVE, ECHO = 0x01, 0x10, 0x21, 0x30
ROOM = (1 << 20) + 65_536 + 6
LONGEST = 131_072  # bytes of a PDU that is sent: what dcmqrscp sends, and the sink takes
SOON, CROWDED = 100e-6, 0.1
HEAD = bytes(128) + b"DICM" + bytes(332)  # as long as ours
_PDU = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
associations = set()


def element(number, value):
    return struct.pack("<HHI", 0, number, len(value)) + value


def command_set(*elements):
    body = b"".join(element(*one) for one in elements)
    return element(0, struct.pack("<I", len(body))) + body


def pdu(context, control, data):
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context, control) + data


def response(context, request, field):
    """Return a successful response, of a length that is always the same."""
    at = request.index(b"\0\0\x10\x01\2\0\0\0") + 8
    return pdu(
        context,
        3,
        command_set(
            (0x0002, b"1.2.840.10008.5.1.4.1.1.2\0"),
            (0x0100, struct.pack("<H", 0x8000 | field)),
            (0x0120, request[at : at + 2]),
            (0x0800, b"\1\1"),
            (0x0900, b"\0\0"),
        ),
    )


def item(kind, body):
    return struct.pack(">BxH", kind, len(body)) + body


def accept(request):
    """Return the A-ASSOCIATE-AC for all contexts, in the first syntax of each, with its roles."""
    results, roles, at = [], b"", 68
    while at < len(request):
        kind, length = struct.unpack_from(">BxH", request, at)
        body, at = request[at + 4 : at + 4 + length], at + 4 + length
        if kind == 0x20:
            syntax = body[body.index(b"\x40\0") :]
            size = struct.unpack_from(">H", syntax, 2)[0]
            results.append(item(0x21, body[:1] + bytes(3) + syntax[: 4 + size]))
        elif kind == 0x50 and b"\x54\0" in body:
            roles = body[body.index(b"\x54\0") :]
    user = item(0x51, struct.pack(">I", 1 << 20)) + item(0x52, b"1.2.3.4") + roles
    whole = request[:68] + item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(results)
    whole += item(0x50, user)
    return struct.pack(">BxI", 2, len(whole)) + whole


class Association:
    """A connection and the buffer for what comes."""

    def __init__(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.view = memoryview(bytearray(ROOM))
        self.start = self.end = 0
        self.quick, self.crowded = True, 0.0

    def receive(self):
        """Read once, as soon as something is there; a quick peer is waited for without sleep."""
        if self.start == self.end:
            self.start = self.end = 0
        room = self.view[self.end :]
        started = time.perf_counter()
        if self.quick and started > self.crowded and len(associations) < 2:
            while True:
                try:
                    return self.came(self.socket.recv_into(room, 0, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    before = time.perf_counter()
                    if before > started + SOON:
                        break
                    os.sched_yield()
                    if time.perf_counter() - before > SOON:
                        self.crowded = before + CROWDED
            started = time.perf_counter()
        count = self.socket.recv_into(room)
        self.quick = time.perf_counter() - started < SOON
        return self.came(count)

    def came(self, count):
        if not count:
            raise EOFError
        self.end += count

    def next(self):
        """Return the type and the body of the next PDU; the body is valid until the next call."""
        while self.end - self.start < 6:
            self.receive()
        kind, length = _PDU.unpack_from(self.view, self.start)
        if len(self.view) - self.start < 6 + length:
            held = self.view[self.start : self.end]
            if len(self.view) < 6 + length:
                raise EOFError
            self.view[: len(held)] = held
            self.start, self.end = 0, len(held)
        while self.end - self.start < 6 + length:
            self.receive()
        body = self.view[self.start + 6 : self.start + 6 + length]
        self.start += 6 + length
        return kind, body

    def serve(self):
        kind, body = self.next()
        self.socket.sendall(accept(bytes(body)))
        while True:
            kind, body = self.next()
            if kind != 4:
                self.socket.sendall(struct.pack(">BxI4x", 6, 4))
                with contextlib.suppress(EOFError):
                    self.next()
                return
            _, context, _ = _PDV.unpack_from(body)
            request = bytes(body[6:])
            field = request[request.index(b"\0\0\0\1\2\0\0\0") + 8]
            if field == ECHO:
                self.socket.sendall(response(context, request, field))
            elif field == STORE:
                self.store()
                self.socket.sendall(response(context, request, field))
            else:
                _, body = self.next()
                study = bytes(body).partition(b"\x20\0\x0d\0UI\6\0")[2][:5].decode()
                if field == GET:
                    send_kept(self, 3, study)
                else:
                    move(study)
                self.socket.sendall(response(context, request, field))

    def store(self):
        fd = os.open(FOLDER, os.O_RDWR | os.O_TMPFILE, 0o666)
        head = HEAD
        while True:
            _, body = self.next()
            os.writev(fd, (head, body[6:]) if head else (body[6:],))
            head = b""
            if body[5] & 2:
                break
        if DURABLE:
            os.fsync(fd)
        name = f"{FOLDER}/{next(numbers)}.dcm"
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
        os.close(fd)
        if DURABLE:
            folder = os.open(FOLDER, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


numbers = itertools.count()


def send_kept(association, context, study):
    """Send each kept file of a study in one call, and wait for the response."""
    folder = f"{FOLDER}/kept/{study}"
    for number, name in enumerate(os.listdir(folder)):
        fd = os.open(f"{folder}/{name}", os.O_RDONLY)
        data = os.read(fd, os.fstat(fd).st_size)
        os.close(fd)
        start = 132 + 12 + int.from_bytes(data[140:144], "little")
        encoded = command_set(
            (0x0002, b"1.2.840.10008.5.1.4.1.1.2\0"),
            (0x0100, struct.pack("<H", STORE)),
            (0x0110, struct.pack("<H", number % 200 + 1)),
            (0x0700, b"\0\0"),
            (0x0800, b"\1\0"),
            (0x1000, name[:-4].encode()),
        )
        pieces, view = [pdu(context, 3, encoded)], memoryview(data)
        room = LONGEST - 6
        for at in range(start, len(data), room):
            piece = view[at : at + room]
            last = 2 if at + room >= len(data) else 0
            length = len(piece)
            pieces += (struct.pack(">BxIIBB", 4, length + 6, length + 2, context, last), piece)
        whole = sum(map(len, pieces))
        if whole <= 131_072:
            association.socket.sendall(b"".join(pieces))
        elif (sent := association.socket.sendmsg(pieces)) < whole:
            association.socket.sendall(b"".join(pieces)[sent:])
        association.next()


def move(study):
    with socket.create_connection(("127.0.0.1", SINK)) as sock:
        sink = Association(sock)
        context = bytes((1, 0, 0, 0)) + item(0x30, b"1.2.840.10008.5.1.4.1.1.2")
        context += item(0x40, b"1.2.840.10008.1.2.1")
        body = struct.pack(">Hxx16s16s32x", 1, b"SINK".ljust(16), b"BENCH".ljust(16))
        body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context)
        body += item(0x50, item(0x51, struct.pack(">I", 1 << 20)))
        sock.sendall(struct.pack(">BxI", 1, len(body)) + body)
        sink.next()
        send_kept(sink, 1, study)
        sock.sendall(struct.pack(">BxI4x", 5, 4))
        sink.next()


def look_out(listener):
    """Poll for the next peer for a moment: one that associates for each message comes at once."""
    until = time.perf_counter() + SOON
    while not select.select([listener], [], [], 0)[0] and time.perf_counter() < until:
        os.sched_yield()


def work(listener):
    while True:
        if not associations:
            look_out(listener)
        sock, _ = listener.accept()
        with sock:
            association = Association(sock)
            associations.add(association)
            with contextlib.suppress(EOFError, ConnectionError):
                association.serve()
            associations.discard(association)


def main():
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listener:
        threads = [threading.Thread(target=work, args=(listener,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
