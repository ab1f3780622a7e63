"""A requestor of C-GET and C-MOVE, and apps that answer it or receive the instances."""

import contextlib
import socket
import warnings

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from support.datasets import made, uid
from support.names import CT, EXPLICIT, GET, IMPLICIT, MOVE, WAIT
from support.raw_peer import RawPeer

from pacsroute import (
    App,
    Instance,
    Peer,
)
from pacsroute.dimse import commands
from pacsroute.upper_layer import pdu

PENDING, CANCEL = 0xFF00, 0xFE00


def files(folder, count, size=0):
    """Return instances in files, with all that is known of them."""
    folder.mkdir(exist_ok=True)
    found = []
    for number in range(count):
        ds = made(number)
        ds.add_new("PixelData", "OW", bytes(size))
        path = Instance(ds).save(folder, durable=False)
        found.append(
            Instance(path, sop_class=CT, sop_instance=uid(number), transfer_syntax=EXPLICIT)
        )
    return found


def encoded(implicit=True, **keys):
    """Return an identifier, as pydicom writes it."""
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyInstanceUID = "1.2.3"
    for name, value in keys.items():
        setattr(ds, name, value)
        if value is None:
            delattr(ds, name)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, implicit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(file, ds)
    return file.getvalue()


def decoded(data, implicit=True):
    return read_dataset(DicomBytesIO(data), implicit, True) if data else None


class Requestor(RawPeer):
    """A requestor of C-GET and C-MOVE, that has the SCP role for what comes back."""

    def __init__(self, port, *storage, syntax=IMPLICIT, calling="RAW", called="ANY"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        contexts = [(GET, syntax), (MOVE, syntax), *storage]
        proposed = tuple(
            pdu.PresentationContext(2 * i + 1, abstract, (one,))
            for i, (abstract, one) in enumerate(contexts)
        )
        roles = tuple(
            pdu.RoleSelection(one, False, True) for one in dict.fromkeys(c[0] for c in storage)
        )
        information = pdu.UserInformation(16_384, "1.2.3.4", roles=roles)
        self.socket.sendall(pdu.encode(pdu.AssociateRQ(called, calling, proposed, information)))
        self.answer = self.read_pdu()

    def get(self, message_id=1, **keys):
        self._ask(1, commands.CGetRQ(affected_sop_class=GET), message_id, keys)

    def move(self, destination="DEST", message_id=1, **keys):
        command = commands.CMoveRQ(affected_sop_class=MOVE, move_destination=destination)
        self._ask(3, command, message_id, keys)

    def _ask(self, context_id, command, message_id, keys):
        command.message_id = message_id
        self.send(context_id, command, encoded(**keys))

    def cancel(self, context_id, message_id=1):
        self.send(context_id, commands.CCancelRQ(message_id_responded_to=message_id))

    def answers(self, each=lambda number, command: 0):
        """Yield what comes until the final response; sub-operations get the status of `each`."""
        number = 0
        while True:
            command, data = self.receive()
            if isinstance(command, commands.CStoreRQ):
                context = next(c for c in self.answer.contexts if c.result == 0 and c.id >= 5)
                self.send(
                    context.id,
                    commands.CStoreRSP(
                        message_id_responded_to=command.message_id,
                        affected_sop_class=command.affected_sop_class,
                        affected_sop_instance=command.affected_sop_instance,
                        status=each(number, command),
                    ),
                )
                number += 1
                yield command, data
                continue
            yield command, data
            if command.status != PENDING:
                return

    def all(self, each=lambda number, command: 0):
        """Return the Pending responses, the final one, the failed UIDs, and what came."""
        pending, came, final, failed = [], [], None, None
        for command, data in self.answers(each):
            if isinstance(command, commands.CStoreRQ):
                came.append((command, data))
            elif command.status == PENDING:
                assert data is None
                pending.append(command)
            else:
                final, failed = command, decoded(data)
        listed = [] if failed is None else failed.FailedSOPInstanceUIDList
        return pending, final, [listed] if isinstance(listed, str) else list(listed), came


def counts(command):
    return command.remaining, command.completed, command.failed, command.warning


@contextlib.contextmanager
def serving(handler=None, prepare=lambda app: None, **destinations):
    """Serve an app that gets and moves, and has what `prepare` registers with it.

    A destination may be given as a port.
    """
    app = App("ARCHIVE")
    if handler is not None:
        app.get(handler)
        app.move(handler)
    app.destinations.update(
        (name, Peer("127.0.0.1", where) if isinstance(where, int) else where)
        for name, where in destinations.items()
    )
    prepare(app)
    with app.serve(port=0, grace=1) as server:
        yield server


@contextlib.contextmanager
def receiving(store=None, *sop_classes, prepare=lambda app: None):
    """Serve an app that takes instances; `received` are the requests and their bytes."""
    app = App("DEST")
    received = []

    def take(request):
        with request.instance.open() as file:
            received.append((request, file.read()))
        return None if store is None else store(request)

    for sop_class in sop_classes or (None,):
        app.store(sop_class)(take) if sop_class else app.store(take)
    prepare(app)
    with app.serve(port=0, grace=1) as server:
        server.received = received
        yield server
