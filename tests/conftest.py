"""What the tests share: DCMTK's tools, a raw peer, and pydicom's test files."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pydicom
import pynetdicom.association
import pytest
from hypothesis import HealthCheck, settings

from pacsroute import uids
from pacsroute.dimse import command_set, commands
from pacsroute.dimse.messages import fragment
from pacsroute.upper_layer import pdu

TIMEOUT = 30

# A slow machine is no failure; HYPOTHESIS_MAX_EXAMPLES=5000 looks for longer.
settings.register_profile(
    "suite",
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("suite")


class RawPeer:
    """A requestor of an association that sends the very bytes it is told to."""

    def __init__(
        self,
        port,
        contexts=((uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN),),
        scp_of=(),
        window=None,
    ):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
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
            self.socket.sendall(pdu.encode(pdu.AssociateRQ("ANY", "RAW", proposed, information)))
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


@pytest.fixture
def raw_peer():
    return RawPeer


def beside_another_worker(path, check, refusals):
    """Return a check during which another process wants to change a database, and hears why not."""

    def checked(*args):
        with closing(sqlite3.connect(path, timeout=0)) as another:
            try:
                another.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                refusals.append(str(error))
        return check(*args)

    return checked


def dcmtk_tool(tool):
    """Return the path of one of DCMTK's tools; without it the test is skipped, but not in CI."""
    # Not pynetdicom's, which are called the same in an activated environment.
    folders = os.environ["PATH"].split(os.pathsep)
    others = [folder for folder in folders if not Path(folder).is_relative_to(sys.prefix)]
    path = shutil.which(tool, path=os.pathsep.join(others))
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"DCMTK's {tool} is not installed, and CI has to have it")
        pytest.skip(f"DCMTK's {tool} is not installed")
    return path


@pytest.fixture(scope="session")
def dcmtk():
    """Return a function that runs one of DCMTK's tools."""

    def run(tool, *arguments):
        path = dcmtk_tool(tool)
        return subprocess.run(
            [path, *map(str, arguments)],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
            text=True,
            errors="replace",
        )

    return run


FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="session")
def sample():
    """Return a function that gives the path of one of pydicom's test files."""
    return lambda name: FILES / name


@pytest.fixture(autouse=True, scope="session")
def no_pulse():
    """Have no Pending come only because the machine is slow; who tests those has them anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pacsroute.net.outbox._PULSE", 1000)
        yield


@pytest.fixture(autouse=True, scope="session")
def pynetdicom_pauses():
    """Have pynetdicom's associations know whether their reactor is paused.

    It keeps a flag, which is set before the reactor is, and which another thread resets
    after an event report: an answer may be read by the reactor and lost, or a request wait
    for ever. Here it is paused while it waits at its checkpoint.
    """

    def is_paused(self):
        waits = bool(self._reactor_checkpoint._cond._waiters)
        return waits or not self.is_alive() or threading.current_thread() is self

    def ignore(self, value):
        """Leave it to the checkpoint."""

    kind = pynetdicom.association.Association
    kind._is_paused = property(is_paused, ignore)
    yield
    del kind._is_paused
