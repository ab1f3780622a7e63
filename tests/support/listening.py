"""An acceptor of associations in a thread, and what becomes of each association."""

import contextlib
import queue
import socket
import struct
import threading

from support.names import WAIT

import pacsroute
from pacsroute import (
    Association,
    AssociationError,
    Dispatcher,
)
from pacsroute.upper_layer import pdu


class Listening:
    """Serves an app, and tells what becomes of each association.

    `ended` has, for each that is over, how: None where it was released.
    """

    def __init__(self, app, serve=None):
        self.app = app
        self.associations = []
        self.ended = queue.Queue()
        self._serve = serve or (lambda association: Dispatcher(app, association).run())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            sock, _ = self._listener.accept()
            if self._stopped:
                sock.close()
                return
            thread = threading.Thread(target=self._run, args=(sock,))
            self._threads.append(thread)
            thread.start()

    _stopped = False

    def _run(self, sock):
        how = None
        try:
            with Association.accept(sock, self.app) as association:
                self.associations.append(association)
                self._serve(association)
        except AssociationError as error:
            how = error
        self.ended.put(how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopped = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        for association in self.associations:
            association.stop()
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        self._listener.close()

    def client(self, **options):
        return pacsroute.connect("127.0.0.1", self.port, **options)


@contextlib.contextmanager
def answering(*answers):
    """Answer requests for associations with PDUs or nothing; yield the port and the requests."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(WAIT)
                    head = sock.recv(6, socket.MSG_WAITALL)
                    rest = sock.recv(struct.unpack(">2xI", head)[0], socket.MSG_WAITALL)
                    asked.append(pdu.decode(head + rest))
                    if answer is not None:
                        sock.sendall(pdu.encode(answer))
                        sock.recv(100)

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(WAIT)
        assert not thread.is_alive()
