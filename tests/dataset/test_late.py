"""pydicom is imported late, but on one thread, before any other can ask for it."""

import subprocess
import sys
import types

import pytest

from pacsroute.dataset import late

START = """
import socket, sys, threading
import pacsroute, pacsroute.cli.run
from pacsroute import App
import numpy  # for its time is not that of pydicom

class Watched:
    # Notes which thread begins to import pydicom, and whether it has others beside it.
    def __init__(self):
        self.threads = set()
        self.alone = True

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pydicom":
            self.threads.add(threading.get_ident())
            self.alone = self.alone and threading.active_count() == 1

watched = Watched()
sys.meta_path.insert(0, watched)
app = App()
"""

SERVER = """
@app.store
def store(request): ...

@app.find
def find(request):
    yield {"PatientID": request.identifier.PatientID}

server = app.serve(port=0)
peer = socket.create_connection(("127.0.0.1", server.port))  # it listens already
peer.close()
assert not watched.threads
assert not [name for name in sys.modules if name.partition(".")[0] == "pydicom"]
with server:
    assert watched.threads == {threading.get_ident()} and watched.alone
    with pacsroute.connect("127.0.0.1", server.port) as client:
        assert client.echo().category == "Success"
        keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": "1"}
        assert [row.PatientID for row in client.find(keys)] == ["1"]
for name in pacsroute.__all__:
    assert getattr(pacsroute, name) is not None
"""

LIFESPAN = """
gate = threading.Barrier(3)
failed = []

def work(enter):
    gate.wait()
    try:
        enter()
    except BaseException as error:
        failed.append(error)

def connect():
    pacsroute.connect("127.0.0.1", 1)

def request():
    pacsroute.FindRequest()

@app.lifespan
def start(app):
    threads = [threading.Thread(target=work, args=(one,)) for one in (connect, request)]
    for thread in threads:
        thread.start()
    gate.wait()
    for thread in threads:
        thread.join()
    yield

with app.running():
    assert failed == [], failed
    assert watched.threads == {threading.main_thread().ident} and watched.alone
"""


@pytest.mark.parametrize("program", [SERVER, LIFESPAN], ids=["server", "lifespan"])
def test_pydicom_is_imported_on_one_thread(program):
    subprocess.run([sys.executable, "-W", "error", "-c", START + program], check=True, timeout=60)


def test_pydicom_under_import_in_another_thread_counts_as_missing(monkeypatch):
    for name in ("pydicom.dataset", "pydicom.config"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert not late.is_dataset({})
