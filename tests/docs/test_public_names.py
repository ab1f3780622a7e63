"""The names that users import stay where they are, whatever is moved behind them."""

import importlib
import re

import pytest
from support.places import ROOT

import pacsroute

PUBLIC = {
    *("App", "Blueprint", "Config", "Dispatcher", "Failure", "Identity", "Instance", "Server"),
    *("Association", "Client", "Peer", "Progress", "Reply", "Status", "TLS", "connect"),
    *("Request", "EchoRequest", "FindRequest", "GetRequest", "MoveRequest", "StoreRequest"),
    *("NActionRequest", "NCreateRequest", "NDeleteRequest", "NEventReportRequest"),
    *("NGetRequest", "NSetRequest"),
    *("AssociationAborted", "AssociationError", "AssociationRejected", "AssociationReleased"),
    *("DataSetError", "IdentifierError", "NotAccepted", "PacsrouteError", "ProtocolError"),
    *("ReadFailed", "RequestFailed", "SetupError"),
    *("errors", "matching", "mpps", "testing", "uids", "ups"),
    *("PeerView", "__version__"),
}
MODULES = ("errors", "matching", "mpps", "pytest_plugin", "testing", "uids", "ups")
_IMPORT = re.compile(r"(?:from|import) (pacsroute(?:\.\w+)*)")


def test_every_public_name_can_be_imported():
    assert set(pacsroute.__all__) >= PUBLIC
    for name in pacsroute.__all__:
        assert getattr(pacsroute, name) is not None


@pytest.mark.parametrize("name", MODULES)
def test_public_modules_stay_importable(name):
    module = importlib.import_module(f"pacsroute.{name}")
    assert module.__doc__


def test_pages_and_examples_import_public_modules_only():
    public = {"pacsroute", *(f"pacsroute.{name}" for name in MODULES)}
    pages = [ROOT / "README.md", *(ROOT / "examples").rglob("*.md")]
    pages += [*(ROOT / "examples").rglob("*.py"), *(ROOT / "pacsroute/cli/project").rglob("*.py")]
    pages = [page for page in pages if "site" not in page.parts]  # it documents what is inside, too
    imported = {name for page in pages for name in _IMPORT.findall(page.read_text())}
    assert "pacsroute" in imported
    assert imported <= public
