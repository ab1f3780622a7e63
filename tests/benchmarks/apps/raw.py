"""What sockets and files allow: no DICOM, one connection after the other.

The first byte of a connection says what it is for: ``P``, each message that comes is
answered with one of the size of a C-ECHO-RSP; ``F``, eight bytes tell the length of what
goes to a file.
"""

import itertools
import os
import socket
import sys

ANSWER = bytes(88)


def ping_pong(sock):
    while sock.recv(4096):
        sock.sendall(ANSWER)


def to_file(sock, room, folder, number):
    while head := sock.recv(8, socket.MSG_WAITALL):
        left = int.from_bytes(head)
        fd = os.open(f"{folder}/{next(number)}", os.O_WRONLY | os.O_CREAT)
        while left:
            count = sock.recv_into(room, min(left, len(room)))
            os.write(fd, room[:count])
            left -= count
        os.close(fd)
        sock.sendall(b"\0")


def main():
    room, number = memoryview(bytearray(1 << 20)), itertools.count()
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listener:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if sock.recv(1) == b"P":
                    ping_pong(sock)
                else:
                    to_file(sock, room, os.environ["BENCH_FOLDER"], number)


if __name__ == "__main__":
    main()
