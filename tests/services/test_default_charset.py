"""The setting `default_charset`: text of peers that do not say in which characters it is."""

import pytest
from pydicom import Dataset
from support.names import CT, EXPLICIT, IMPLICIT

from pacsroute import App, Instance, Peer, SetupError, Status, matching
from pacsroute.dataset.parsing import parse

# As peers send them: the setting, Python's codec of the bytes, and a name.
UNDECLARED = [
    ("ISO_IR 192", "utf-8", "Wang^XiaoDong=王^小东"),
    ("GB18030", "gb18030", "Wang^XiaoDong=王^小东"),
    ("GBK", "gbk", "Wang^XiaoDong=王^小东"),
    (
        "ISO_IR 13",
        "shift_jis",
        "Yamada^Tarou=山田^太郎",
    ),
    ("ISO 2022 IR 149", "euc_kr", "Hong^Gildong=洪^吉洞"),
    ("ISO_IR 144", "iso8859_5", "Люкceмбypг"),
    ("ISO_IR 100", "latin_1", "Buc^Jérôme"),
]


def element(tag, vr, value):
    """Return the bytes of an element in explicit VR little endian."""
    value += b"\0" * (len(value) & 1) if vr == "UI" else b" " * (len(value) & 1)
    group, number = tag >> 16, tag & 0xFFFF
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr.encode()
    length = len(value).to_bytes(4 if vr == "SQ" else 2, "little")
    return head + (b"\0\0" if vr == "SQ" else b"") + length + value


def body(name, *, charset=None, uid=b"1.2.3"):
    """Return a data set with a name, in an item too, as its bytes."""
    item = element(0x00081080, "LO", name)
    item = b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item
    return b"".join(
        (
            b"" if charset is None else element(0x00080005, "CS", charset),
            element(0x00080016, "UI", CT.encode()),
            element(0x00080018, "UI", uid),
            element(0x00080052, "CS", b"STUDY"),
            element(0x00081115, "SQ", item),
            element(0x00100010, "PN", name),
            element(0x0020000D, "UI", b""),
        )
    )


def data_set(name, **options):
    """Return it as a Dataset that is encoded as it was read."""
    return parse(body(name, **options), EXPLICIT)


def names(dataset):
    item = dataset.ReferencedSeriesSequence[0]
    return str(dataset.PatientName), item.AdmittingDiagnosesDescription


@pytest.fixture
def seen():
    return []


@pytest.fixture
def served(seen):
    app = App("PACS")

    @app.find("StudyRoot")
    def find(request):
        seen.append(names(request.identifier))
        row = {"PatientName": names(request.identifier)[0], "StudyInstanceUID": "1.2"}
        if matching.matches(request.identifier, row):
            yield row

    @app.store
    def store(request):
        seen.append(names(request.dataset))

    @app.n_create("MPPS")
    def create(request):
        seen.append(names(request.attribute_list))
        return {"PatientName": names(request.attribute_list)[0]}

    return app


def asked_with(app, sent, calling_ae="CT1"):
    with app.test_client(calling_ae=calling_ae) as client:
        return list(client.find(sent))


@pytest.mark.parametrize(("charset", "codec", "name"), UNDECLARED)
def test_undeclared_text_is_read_and_answered_in_the_set_that_is_set(
    charset, codec, name, served, seen
):
    served.config.default_charset = charset
    sent = name.encode(codec)
    with served.test_client() as client:
        (row,) = client.find(data_set(sent))
        client.store(Instance(body(sent), transfer_syntax=EXPLICIT))
        reply = client.n_create("MPPS", data_set(sent), sop_instance="1.2.3")
    assert seen == [(name, name)] * 3
    assert str(row.PatientName) == str(reply.dataset.PatientName) == name
    answered = "ISO_IR 192" if codec == "shift_jis" else charset  # DICOM has no Shift-JIS
    assert row.SpecificCharacterSet == reply.dataset.SpecificCharacterSet == answered


def test_default_charset_leaves_stored_bytes_alone(tmp_path):
    app = App(default_charset="GB18030")

    @app.store
    def store(request):
        assert str(request.dataset.PatientName) == "王^小东"
        request.save(tmp_path)

    sent = body("王^小东".encode("gb18030"))
    with app.test_client() as client:
        client.store(Instance(sent, transfer_syntax=EXPLICIT))
    assert (tmp_path / "1.2.3.dcm").read_bytes().endswith(sent)


def test_a_stored_name_is_read_by_default_charset_in_the_audit_trail():
    app, audited = App(default_charset="GB18030"), []
    app.store(lambda request: None)
    app.audit(lambda event: audited.extend(event.subjects))
    with app.test_client() as client:
        client.store(Instance(body("王^小东".encode("gb18030")), transfer_syntax=EXPLICIT))
    assert [subject.patient_name for subject in audited] == ["王^小东"]


def test_data_set_read_by_default_charset_is_written_with_its_character_set(tmp_path):
    app = App(default_charset="GB18030")
    app.store(lambda request: Instance(request.dataset).save(tmp_path) and None)
    with app.test_client() as client:
        client.store(Instance(body("王^小东".encode("gb18030")), transfer_syntax=EXPLICIT))
    written = Instance(tmp_path / "1.2.3.dcm").dataset
    assert (names(written), written.SpecificCharacterSet) == (("王^小东",) * 2, "ISO_IR 192")


@pytest.mark.parametrize("declared", [b"", b" ", b"\0\0"])
def test_empty_character_set_counts_as_none(declared, served, seen):
    served.config.default_charset = "GB18030"
    asked_with(served, data_set("王".encode("gb18030"), charset=declared))
    assert seen == [("王", "王")]


def test_a_declared_character_set_wins(served, seen):
    served.config.default_charset = "GB18030"
    sent = data_set("Jérôme".encode("latin_1"), charset=b"ISO_IR 100")
    (row,) = asked_with(served, sent)
    assert seen == [("Jérôme", "Jérôme")]
    assert (str(row.PatientName), row.SpecificCharacterSet) == ("Jérôme", "ISO_IR 100")


def test_each_calling_ae_title_may_have_its_own(served, seen):
    served.config.default_charset = ["ISO_IR 192", "CT1=GB18030", "OLD=", "MR1=\\ISO 2022 IR 149"]
    for calling_ae, codec in (("CT1", "gb18030"), ("OTHER", "utf-8"), ("MR1", "euc_kr")):
        asked_with(served, data_set("洪".encode(codec)), calling_ae)
    asked_with(served, data_set(b"\xe9"), "OLD")
    assert seen == [("洪", "洪")] * 3 + [("é", "é")]


def test_the_settings_of_responses_win(served):
    served.config.default_charset = "GB18030"
    served.config.charset = "ISO_IR 192"
    (row,) = asked_with(served, data_set("王".encode("gb18030")))
    assert row.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize("way", ["find", "get", "n_get"])
def test_answers_of_a_peer_are_read_by_the_settings_of_the_calling_app(way):
    pacs, asking = App("PACS"), App("WS", default_charset=["PACS=GB18030"])
    answer = data_set("王".encode("gb18030"))
    pacs.find("StudyRoot")(lambda request: [answer])
    pacs.get("StudyRoot")(
        lambda request: [Instance(body("王".encode("gb18030")), transfer_syntax=EXPLICIT)]
    )
    pacs.n_get("MPPSRetrieve")(lambda request: answer)
    with pacs.serve(port=0) as server:
        asking.destinations["PACS"] = Peer("127.0.0.1", server.port)
        with asking.connect("PACS") as client:
            if way == "find":
                (found,) = client.find(data_set(b""))
            elif way == "get":
                (instance,) = client.get(
                    {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}, storage=[CT]
                )
                found = instance.dataset
            else:
                found = client.n_get("MPPSRetrieve", "1.2.3").dataset
    assert names(found) == ("王", "王")


def test_the_event_of_a_peer_that_was_called_is_read_as_that_peer_writes():
    pacs, asking, seen = App("PACS"), App("WS", default_charset=["PACS=GB18030"]), []
    event = data_set("王".encode("gb18030"))
    pacs.n_action("StorageCommitment")(lambda request: request.report(1, event))
    asking.n_event_report("StorageCommitment")(
        lambda request: seen.append(names(request.event_information))
    )
    with pacs.serve(port=0) as server:
        asking.destinations["PACS"] = Peer("127.0.0.1", server.port)
        with asking.connect("PACS") as client:
            client.n_action("StorageCommitment", "StorageCommitmentPushModel", 1)
            client.n_action("StorageCommitment", "StorageCommitmentPushModel", 1)
    assert seen[:1] == [("王", "王")]


def test_without_the_setting_undeclared_bytes_are_not_lost(served, seen):
    asked_with(served, data_set("王".encode()))
    assert seen == [("王".encode().decode("latin_1"),) * 2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            "GB1803",
            "default_charset: 'GB1803' is not a Specific .*; did you mean 'GB18030'",
        ),
        ("CT1=latin1", "default_charset: 'latin1' is not a Specific Character Set"),
        ("=GB18030", "default_charset: .* is not a valid AE title"),
    ],
)
def test_a_wrong_setting_is_an_error_before_anything_is_served(wrong, words):
    with pytest.raises(SetupError, match=words), App(default_charset=[wrong]).test_client():
        pass


def test_a_dataset_in_implicit_vr_is_read_alike():
    app, seen = App(default_charset="GB18030"), []
    app.store(lambda request: seen.append(str(request.dataset.PatientName)))
    name = "王".encode("gb18030")
    ds = b"\x10\x00\x10\x00" + len(name).to_bytes(4, "little") + name
    with app.test_client() as client:
        status = client.store(
            Instance(ds, sop_class=CT, sop_instance="1.2.3", transfer_syntax=IMPLICIT)
        )
    assert (seen, status) == (["王"], Status(0))


def test_pydicom_datasets_of_handlers_are_left_as_they_are():
    app, ds = App(default_charset="GB18030"), Dataset()
    ds.PatientName, ds.SpecificCharacterSet = "Jérôme", "ISO_IR 100"
    app.find("StudyRoot")(lambda request: [ds])
    (row,) = asked_with(app, data_set(b""))
    assert str(row.PatientName) == "Jérôme"
