"""Saturating HTTP clients: ``python -m tests.benchmarks.http_load PORT CLIENTS SECONDS PATH…``.

One thread serves all of them, so that they cost the same for every server, and next to nothing
beside it. It prints how many responses have come a second.
"""

import functools
import re
import select
import socket
import sys
import time

_ACCEPT = {"frames": 'multipart/related; type="application/octet-stream"', "metadata": "*/*"}
_DICOM = 'multipart/related; type="application/dicom"'
_BUFFER = 4 << 20
_WAIT = 60  # seconds without a byte


def accept_of(path):
    """Return what a viewer accepts for a path."""
    parts = path.partition("?")[0].split("/")
    kinds = [kind for name, kind in _ACCEPT.items() if name in parts]
    return kinds[0] if kinds else _DICOM if "studies" in parts[:-1] else "application/dicom+json"


class Client:
    """A connection, which asks for one path after the other.

    Parameters
    ----------
    port : int
        The server's.
    requests : list of bytes
        Each is sent when the response to the one before is whole.
    first : int
        Where in the list this one begins.
    """

    def __init__(self, port, requests, first=0):
        self._port, self._requests, self._next = port, requests, first
        self._left = None  # bytes of a body whose length is known; None where it comes in chunks
        self._tail = b""
        self.size = 0  # bytes of the last response
        self.connect()

    def connect(self):
        """Begin a connection, and ask."""
        self.socket = socket.create_connection(("127.0.0.1", self._port), _WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask()

    def ask(self):
        """Send the next request."""
        self._head, self._tail, self.size = b"", b"", 0
        self._begun = False
        self.socket.sendall(self._requests[self._next % len(self._requests)])
        self._next += 1

    def take(self, buffer):
        """Take what has come; tell whether the response is whole."""
        count = self.socket.recv_into(buffer)
        if not count:
            raise ConnectionError("the server has hung up in the middle of a response")
        self.size += count
        data = buffer[:count]
        if not self._begun:
            self._head += bytes(data)
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return False
            self._begin(head)
            data, count = rest, len(rest)
        if self._left is None:
            self._tail = (self._tail + bytes(data[-5:]))[-5:]
            return self._tail == b"0\r\n\r\n"
        self._left -= count
        return self._left <= 0

    def _begin(self, head):
        self._begun = True
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")):
            raise RuntimeError(f"{self._requests[(self._next - 1) % len(self._requests)]}: {head}")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        self._left = int(length[1]) if length else None
        self._closes = re.search(rb"(?i)\r\nconnection: *close", head) is not None

    def again(self):
        """Ask once more, on another connection if the server closes this one."""
        if self._closes:
            self.socket.close()
            self.connect()
            return True
        self.ask()
        return False


def load(port, paths, clients=1, seconds=None, count=None, begun=None):
    """Ask for paths with some clients, for some seconds or a number of times.

    After the first response `begun` is called.

    Returns
    -------
    (float, int)
        How many responses have come a second, and the bytes of the last one.
    """
    head = "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: {}\r\n\r\n"
    requests = [head.format(path, port, accept_of(path)).encode() for path in paths]
    buffer = memoryview(bytearray(_BUFFER))
    poll = select.epoll()
    started = time.perf_counter()
    asking = {}
    for number in range(clients):
        client = Client(port, requests, number * len(requests) // clients)
        asking[client.socket.fileno()] = client
        poll.register(client.socket, select.EPOLLIN)
    done = size = 0
    while asking:
        for number, _ in poll.poll(_WAIT) or _silent():
            client = asking[number]
            if not client.take(buffer):
                continue
            done, size = done + 1, client.size
            if done == 1 and begun is not None:
                begun()
            passed = time.perf_counter() - started
            if (seconds and passed >= seconds) or (count and done + len(asking) > count):
                del asking[number]
                poll.unregister(client.socket)
                client.socket.close()
                continue
            if client.again():  # a socket that is closed is not polled any more
                asking[client.socket.fileno()] = asking.pop(number)
                poll.register(client.socket, select.EPOLLIN)
    return done / (time.perf_counter() - started), size


def _silent():
    raise TimeoutError(f"no byte for {_WAIT} s")


if __name__ == "__main__":
    port, clients, seconds, *paths = sys.argv[1:]
    begun = functools.partial(print, "begun", flush=True)
    print(load(int(port), paths, int(clients), float(seconds), begun=begun)[0])
