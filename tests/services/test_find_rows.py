"""C-FIND: a value that cannot be written costs its key, and nothing else (PS3.4 §C.4.1.1.3.2)."""

import logging
import struct

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from support.datasets import dataset
from support.names import IMPLICIT
from support.raw_peer import RawPeer

from pacsroute import App, uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import parse

WORKLIST = uids.sop_class("Worklist", "find")
STEP = "ScheduledProcedureStepSequence"
ASKED = {
    "PatientName": "",
    "PatientSize": "",
    "Rows": None,
    STEP: [{"Modality": "", "ScheduledProcedureStepStartDate": ""}],
}
NAN = float("nan")


def answers(rows, asked=ASKED):
    """Return the statuses of all responses to a query that finds these rows, and the data sets."""
    app = App()
    app.find("Worklist")(lambda request: rows)
    with app.serve(port=0, grace=0) as server, RawPeer(server.port, [(WORKLIST, IMPLICIT)]) as peer:
        peer.find(encode(asked, IMPLICIT), WORKLIST)
        found = [peer.receive()]
        while found[-1][1] is not None:
            found.append(peer.receive())
        peer.release()
    data_sets = [parse(data, IMPLICIT) for _, data in found[:-1]]
    return [command.status for command, _ in found], data_sets


def undecodable():
    """Return a data set with elements that pydicom refuses to convert or to write."""
    ds = dataset(PatientName="B")
    ds[0x00101020] = RawDataElement(Tag(0x00101020), "DS", 4, b"abc ", 0, False, True)
    ds.PatientSize = NAN
    return ds


WHOLE = {"PatientName": "A", "PatientSize": 1.8, "Rows": 1, STEP: []}


@pytest.mark.parametrize(
    ("row", "lost"),
    [
        ({**WHOLE, "PatientSize": NAN}, "PatientSize"),
        ({**WHOLE, "PatientSize": float("inf")}, "PatientSize"),
        ({**WHOLE, "PatientSize": object()}, "PatientSize"),
        ({**WHOLE, "Rows": "secret"}, "Rows"),
        ({**WHOLE, "Rows": 1 << 20}, "Rows"),
        ({**WHOLE, "PatientName": 7}, "PatientName"),
        ({**WHOLE, STEP: "secret"}, STEP),
        ({**WHOLE, STEP: [7]}, STEP),
        (undecodable(), "PatientSize"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_cannot_be_written_costs_its_key(row, lost, caplog):
    with caplog.at_level(logging.WARNING, "pacsroute"):
        statuses, found = answers([WHOLE, row, WHOLE])
    assert statuses == [0xFF00, 0xFF01, 0xFF00, 0x0000]
    assert [lost in ds for ds in found] == [True, False, True]
    kept = row.keys() - {lost} if isinstance(row, dict) else {"PatientName"}
    assert all(keyword in found[1] for keyword in kept)
    (line,) = caplog.messages
    assert line == f"C-FIND from RAW: answered without {lost}: invalid for the VR"


def test_a_value_in_an_item_costs_the_key_of_the_item():
    good, bad = (
        {"Modality": "CT", "ScheduledProcedureStepStartDate": "20240131"},
        {"Modality": "MR"},
    )
    statuses, (ds,) = answers(
        [{**WHOLE, STEP: [good, {**bad, "ScheduledProcedureStepStartDate": 7}]}]
    )
    assert statuses == [0xFF01, 0x0000]
    first, second = ds[STEP].value
    assert (first.Modality, first.ScheduledProcedureStepStartDate) == ("CT", "20240131")
    assert second.Modality == "MR"
    assert "ScheduledProcedureStepStartDate" not in second


def test_ambiguous_values_are_tried_beside_the_others():
    row = {"PixelRepresentation": 1, "SmallestImagePixelValue": -5, "PatientSize": NAN}
    _, (ds,) = answers([row], {**row, "PatientSize": None, "SmallestImagePixelValue": None})
    assert ds.get_item("SmallestImagePixelValue").value in (struct.pack("<h", -5), -5)


def test_a_thousand_bad_rows_are_one_warning(caplog):
    with caplog.at_level(logging.WARNING, "pacsroute"):
        statuses, found = answers({**WHOLE, "PatientSize": NAN} for _ in range(1000))
    assert len(found) == 1000
    assert statuses == [0xFF01] * 1000 + [0x0000]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("row", [{"PatientNmae": "A"}, "secret", 7, [("PatientName", "A")]])
def test_row_of_a_wrong_type_is_still_an_error(row):
    app = App()
    app.find("Worklist")(lambda request: [row])
    with app.test_client() as client, pytest.raises(Exception, match=r"row|Nmae"):
        list(client.find({"PatientName": ""}, "Worklist"))
