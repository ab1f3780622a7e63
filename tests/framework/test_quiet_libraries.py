"""What peers have sent is not logged by pydicom and the decoders while an app runs."""

import logging
import warnings

import pydicom
import pytest
from pydicom import Dataset

from pacsroute import App, Instance, uids
from pacsroute.framework import base, quiet
from pacsroute.framework.counted import Counted

LIBRARIES = "pydicom", "openjpeg", "pylibjpeg", "libjpeg", "rle"


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    """Let libraries speak, also while a fixture of the session has an app running."""
    monkeypatch.setattr(base, "quiet_libraries", Counted(quiet._quieted))
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def complain(logger="pydicom.values"):
    logging.getLogger(logger).warning("Invalid value for VR UI: 'SECRET'")
    warnings.warn_explicit("Invalid value: 'SECRET'", UserWarning, "values.py", 1, logger)


@pytest.mark.parametrize("library", ["pydicom.charset", "openjpeg", "pylibjpeg", "libjpeg.utils"])
def test_libraries_are_silent_while_an_app_runs_and_no_longer(library, caplog):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with App().running(), App().running():
            complain(library)
        assert caplog.records == []
        assert warned == []
        complain(library)
    assert len(caplog.records) == 1
    assert len(warned) == 1


def test_a_library_that_the_user_has_set_to_a_level_is_left_alone(caplog):
    logging.getLogger("pydicom").setLevel(logging.INFO)
    with App().running(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        complain()
    assert "SECRET" in caplog.text
    assert len(warned) == 1


def test_a_handler_may_read_with_pydicom_what_a_peer_has_sent(tmp_path, caplog, recwarn):
    app, seen = App(), []

    @app.store
    def store(request):
        ds = pydicom.dcmread(request.save(tmp_path))
        seen.append(str(ds.PatientName))
        seen.append(len(ds.PatientAge))

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uids.sop_class("CTImageStorage", "store"), "1.2.3"
    ds.SpecificCharacterSet = "ISO 2022 IR 87"
    ds.add_new("PatientAge", "AS", "SECRET")
    encoded = Instance(ds).open_as(uids.EXPLICIT_VR_LITTLE_ENDIAN).read()
    encoded += b"\x10\x00\x10\x00PN\x08\x00SECR\x1b$)!"
    instance = Instance(
        encoded,
        sop_class=ds.SOPClassUID,
        sop_instance="1.2.3",
        transfer_syntax=uids.EXPLICIT_VR_LITTLE_ENDIAN,
    )
    caplog.clear()
    recwarn.clear()
    with app.test_client() as client:
        client.store(instance)
    assert seen
    assert [record for record in caplog.records if record.name.startswith("pydicom")] == []
    assert len(recwarn) == 0
