"""A server starts without pydicom, and has it when it needs it."""

import subprocess
import sys
import types

from pacsroute.dataset import late

PROGRAM = """
import sys
import pacsroute, pacsroute.cli.run
from pacsroute import App

app = App()

@app.store
def store(request): ...

@app.find
def find(request):
    yield {"PatientID": request.identifier.PatientID}

with app.serve(port=0) as server:
    assert not [name for name in sys.modules if name.partition(".")[0] == "pydicom"]
    with pacsroute.connect("127.0.0.1", server.port) as client:
        assert client.echo().category == "Success"
        keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": "1"}
        assert [row.PatientID for row in client.find(keys)] == ["1"]
    from pydicom import config
    assert config.settings.reading_validation_mode == config.IGNORE
assert config.settings.reading_validation_mode == config.WARN
for name in pacsroute.__all__:
    assert getattr(pacsroute, name) is not None
"""


def test_pydicom_is_imported_with_the_first_data_set():
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], check=True, timeout=60)


def test_a_pydicom_that_another_thread_is_importing_is_not_there_yet(monkeypatch):
    for name in ("pydicom.dataset", "pydicom.config"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert not late.is_dataset({})
    with late.quiet_reading():
        pass
