"""Fixtures of all tests; two of them change pacsroute and pynetdicom for the whole session."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading

import pynetdicom
import pytest
from hypothesis import HealthCheck, settings
from support.certificates import PKI
from support.names import WAIT
from support.programs import program
from support.raw_peer import RawPeer
from support.samples import FILES

from pacsroute import App

# A slow machine is no failure; HYPOTHESIS_MAX_EXAMPLES=5000 looks for longer.
settings.register_profile(
    "suite",
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("suite")


@pytest.fixture
def raw_peer():
    return RawPeer


@pytest.fixture(scope="session")
def dcmtk():
    """Return a function that runs one of DCMTK's tools."""

    def run(tool, *arguments):
        path = program(tool)
        return subprocess.run(
            [path, *map(str, arguments)],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=WAIT,
            check=False,
            text=True,
            errors="replace",
        )

    return run


@pytest.fixture(scope="session")
def sample():
    """Return a function that gives the path of one of pydicom's test files."""
    return lambda name: FILES / name


@pytest.fixture(autouse=True, scope="session")
def no_pulse():
    """Turn off the Pending responses that a slow handler causes: a slow machine causes them too.

    Tests of these responses set ``_PULSE`` themselves.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pacsroute.net.outbox._PULSE", 1000)
        yield


@pytest.fixture(autouse=True, scope="session")
def pynetdicom_pauses():
    """Correct how pynetdicom's associations tell whether their reactor is paused.

    pynetdicom keeps a flag, which is set before the reactor is paused, and which another thread
    resets after an event report: the reactor may read an answer and lose it, or a request may
    wait for ever. Here the reactor counts as paused while it waits at its checkpoint.
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


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Return the certificates of a hospital, and of a stranger, as files."""
    return PKI(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve_tls(pki):
    """Return a function that starts a server with a certificate, at a port of its own for TLS."""
    with contextlib.ExitStack() as stack:

        def start(app=None, **settings):
            settings = {"port": 0, "tls_port": 0, "grace": 1, **pki.serving, **settings}
            return stack.enter_context((app or App()).serve(**settings))

        yield start


@pytest.fixture
def pynetdicom_association():
    """Return a function that associates with pynetdicom; what is open at the end is aborted."""
    opened = []

    def associate(port, contexts, handlers=(), storage=()):
        one = pynetdicom.AE("PYNETDICOM")
        one.acse_timeout = one.dimse_timeout = one.network_timeout = WAIT
        for abstract, syntax in contexts:
            one.add_requested_context(abstract, syntax)
        roles = [pynetdicom.build_role(sop_class, scp_role=True) for sop_class in storage]
        association = one.associate(
            "127.0.0.1", port, evt_handlers=list(handlers), ext_neg=roles or None
        )
        opened.append(association)
        assert association.is_established
        return association

    yield associate
    for association in opened:
        if association.is_established:
            association.abort()
