"""Values that could not be returned later."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, config
from pydicom.datadict import DicomDictionary, keyword_for_tag
from support.datasets import dataset
from support.names import EXPLICIT, IMPLICIT

from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import identifier
from pacsroute.dataset.storable import check_storable
from pacsroute.errors import Failure


def one_of_each_vr():
    """Return a tag of each VR, with one value and with several."""
    found = {}
    for tag, (vr, vm, *_) in sorted(DicomDictionary.items()):
        if tag >> 16 > 2 and vr != "NONE":
            found.setdefault((vr, vm == "1"), tag)
    return [*found.values()]


def raw(tag, value):
    """Return a data set of one element as it comes in implicit VR."""
    value += b" " * (len(value) % 2)
    head = tag.to_bytes(4, "little")
    head = head[2:] + head[:2] + len(value).to_bytes(4, "little")
    return identifier(head + value, IMPLICIT)


@pytest.mark.parametrize("value", [b"nan", b"-inf", b"1e400", b"9" * 500])
def test_a_number_that_cannot_be_written_is_refused(value):
    for keyword, tag in (("PatientSize", 0x0010_1020), ("EventElapsedTimes", 0x0008_2130)):
        with pytest.raises(Failure) as caught:
            check_storable(raw(tag, value))
        assert caught.value.status == 0x0106
        assert caught.value.comment == f"not a value that can be kept: {keyword}"
        assert caught.value.elements == {"AttributeIdentifierList": (tag,)}


@pytest.mark.parametrize("tag", one_of_each_vr(), ids=keyword_for_tag)
@given(
    value=st.sampled_from([b"", b" ", b"abc", b"\\" * 5, b"\xff" * 8, b"\0"])
    | st.binary(max_size=9)
)
def test_storable_data_set_can_be_written_again(tag, value):
    try:
        ds = raw(tag, value)
    except Exception:  # noqa: BLE001 - nothing that a handler ever gets
        return
    try:
        check_storable(ds)
    except Failure as failure:
        assert failure.elements["AttributeIdentifierList"] == (tag,)
        return
    kept = Dataset.from_json(json.dumps(ds.to_json_dict()))
    for syntax in (IMPLICIT, EXPLICIT):
        encode(kept, syntax)
        encode(ds, syntax)


def test_a_value_in_an_item_is_named_by_its_sequence():
    step = dataset(PatientID="1", PerformedSeriesSequence=[dataset(PatientSize=float("nan"))])
    with pytest.raises(Failure, match=r"PerformedSeriesSequence$"):
        check_storable(step, 0x0115)


def test_odd_values_are_storable():
    with config.disable_value_validation():
        check_storable(dataset(StudyDate="yesterday", PatientID="1" * 500, StudyInstanceUID="x.y"))
    check_storable(dataset(EventTimeOffset=float("nan"), RealWorldValueSlope=float("inf")))
    check_storable(dataset(SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎"))
    check_storable(Dataset())
