"""Data sets in JSON and XML with random mistakes: each is refused or stored, and none is a 500."""

import json
import random
from collections import Counter
from io import BytesIO

import pytest
from support.names import EXPLICIT
from support.unified_steps import pushed
from support.web import CT, ROOT, content, data_set, multipart

from pacsroute import App, dicom_json, ups
from pacsroute.dataset import encode
from pacsroute.web.xml_model import XML, xml_of

JSON = "application/dicom+json"
SCALARS = ["", "a", "1.2.3", "é", "\0", "x" * 100, "a\\b", "1e9", 0, -1, 1.5, 2**63, 2**70, 1e300]
NAMES = ["vr", "Value", "Alphabetic", "00100020", "x", "BulkDataURI", "InlineBinary", "ZZZZZZZZ"]
TAGS = ["00080005", "7FE00010", "00090010", "00091001", "FFFEE000", "00020010", "00000000"]
VRS = ["PN", "SQ", "US", "AT", "OB", "UN", "XX", "FD", "IS", "DS", "UI", "OW", "UT", "SV", ""]


class Chance(random.Random):
    """Makes mistakes."""

    def junk(self, depth=0):
        kind = self.randrange(10)
        if kind < 5 or depth > 3:
            return self.choice(SCALARS)
        if kind < 7:
            return self.choice([None, True, False])
        if kind < 9:
            return [self.junk(depth + 1) for _ in range(self.randrange(4))]
        return {self.choice(NAMES): self.junk(depth + 1) for _ in range(self.randrange(4))}

    def changed(self, value, depth=0):
        if self.random() < 0.002:
            return self.junk(depth)
        if isinstance(value, list):
            return [self.changed(one, depth + 1) for one in value]
        if not isinstance(value, dict):
            return value
        found = {key: self.changed(one, depth + 1) for key, one in value.items()}
        if self.random() < 0.01:
            found[self.choice(TAGS)] = self.junk(depth + 1)
        if "vr" in found and self.random() < 0.01:
            found["vr"] = self.choice(VRS)
        return found

    def spoilt(self, text):
        data = bytearray(text)
        for _ in range(self.randrange(4)):
            at = self.randrange(len(data))
            marks = self.choices(b'<>/"&=x1;!{}[],:\xff', k=self.randrange(4))
            data[at : at + self.randrange(9)] = bytes(marks)
        return bytes(data)


@pytest.fixture
def client(caplog):
    app = App("ARCHIVE")
    app.store(lambda request: request.dataset and None)
    app.n_create("UPS")(lambda request: ups.check_create(None, request.attribute_list))
    app.n_set("UPS")(lambda request: ups.check_set(None, request.modification_list))
    app.n_action("UPS")(lambda request: None)
    with app.test_client() as client:
        yield client.web
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def samples(chance, model, count):
    """Yield texts that are nearly the data set, and their media types."""
    for number in range(count):
        changed = chance.changed(model)
        try:
            text = xml_of(changed) if number % 3 == 0 else json.dumps([changed]).encode()
        except (AttributeError, TypeError, ValueError, KeyError):
            continue  # not even XML can be made of it
        kind = XML if number % 3 == 0 else JSON
        yield (chance.spoilt(text) if number % 2 else text), kind


def test_metadata(client):
    data = BytesIO(data_set(content(CT)))
    model = dicom_json(data, EXPLICIT, bulk_data=lambda *_: "bulk")
    chance, seen = Chance(18), Counter()
    kinds = ["application/octet-stream", "image/jpeg", "image/jp2", "image/dicom-rle"]
    for text, kind in samples(chance, model, 200):
        bulk = {"Content-Type": chance.choice(kinds), "Content-Location": "bulk"}
        parts = ({"Content-Type": kind}, text), (bulk, chance.randbytes(200))
        body, media_type = multipart(*parts, kind=kind)
        response = client.post(f"{ROOT}/studies", data=body, content_type=media_type)
        seen[response.status_code] += 1
    assert set(seen) == {200, 400, 409}


def test_work_items(client):
    model = dicom_json(encode(pushed(), EXPLICIT), EXPLICIT)
    chance, seen = Chance(18), Counter()
    for text, kind in samples(chance, model, 200):
        for method, path in (("POST", ""), ("POST", "/1.2"), ("PUT", "/1.2/state")):
            url = f"{ROOT}/workitems{path}"
            response = client.open(url, method=method, data=text, content_type=kind)
            seen[response.status_code] += 1
    assert set(seen) <= {200, 201, 400, 404, 409}
    assert seen[201]


def test_metadata_need_no_parts_around_them(client):
    model = {
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.88.11"]},
        "00080018": {"vr": "UI", "Value": ["1.2.3"]},
    }
    for kind, text in ((JSON, json.dumps([model]).encode()), (XML, xml_of(model))):
        response = client.post(f"{ROOT}/studies", data=text, content_type=kind)
        assert response.status_code == 200
        (stored,) = response.json["00081199"]["Value"]
        assert stored["00081155"]["Value"] == ["1.2.3"]
