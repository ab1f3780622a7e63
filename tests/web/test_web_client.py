"""`pacsroute.connect` with a URL: find, get and store over DICOMweb."""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pydicom
import pytest
from pydicom.data import get_testdata_file
from support.certificates import PKI
from support.names import STUDY, WAIT
from support.processes import pacsroute as command
from support.samples import FILES
from support.web import CT, MR_RLE, ROOT, read

import pacsroute
from pacsroute import (
    App,
    Archive,
    AssociationError,
    DataSetError,
    Failure,
    Instance,
    NotAccepted,
    Peer,
    RequestFailed,
    SetupError,
)


def url_of(server, scheme="http"):
    return f"{scheme}://127.0.0.1:{server.web_port}{ROOT}"


@pytest.fixture
def server(archive):
    with archive.serve(port=0, web_port=0) as server:
        yield server


@pytest.fixture
def client(server):
    with pacsroute.connect(url_of(server)) as client:
        yield client


def keys(dataset, level="IMAGE"):
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    count = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}[level]
    found = {name: dataset.get(name) for name in names[:count]}
    return {"QueryRetrieveLevel": level, **found}


@pytest.mark.parametrize("name", [CT, MR_RLE])
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_instances_go_and_come_back_as_they_were(client, name, level, tmp_path):
    assert client.store(FILES / name).code == 0
    (found,) = client.get(keys(read(name), level))
    assert found.transfer_syntax == read(name).file_meta.TransferSyntaxUID
    with found.open() as ours, Instance(FILES / name).open() as theirs:
        assert ours.read() == theirs.read()
    assert pydicom.dcmread(found.save(tmp_path)).PixelData == read(name).PixelData


def test_a_dataset_and_bytes_are_sent_too(client):
    assert client.store(read(CT)).category == "Success"
    assert client.store((FILES / MR_RLE).read_bytes()).category == "Success"
    assert len(list(client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}))) == 2


def test_matches_are_data_sets(client):
    client.store(FILES / CT)
    client.store(FILES / MR_RLE)
    asked = {"QueryRetrieveLevel": "STUDY", "PatientID": "1CT1", "StudyDescription": ""}
    (study,) = client.find(asked)
    assert study.StudyInstanceUID == read(CT).StudyInstanceUID
    assert study.StudyDescription == "e+1"
    one = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": study.StudyInstanceUID}
    (series,) = client.find(one)
    assert series.Modality == "CT"
    several = [read(CT).StudyInstanceUID, read(MR_RLE).StudyInstanceUID]
    both = client.find({"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": several})
    assert {row.SOPInstanceUID for row in both} == {
        read(CT).SOPInstanceUID,
        read(MR_RLE).SOPInstanceUID,
    }
    assert list(client.find({"QueryRetrieveLevel": "STUDY", "PatientName": "Nobody"})) == []


def test_pages_are_followed_to_their_end(archive):
    app = App("MANY", max_results=10)

    @app.find("StudyRoot")
    def find(request):
        for number in range(25):
            yield {"StudyInstanceUID": f"1.{number}"}

    with app.serve(port=0, web_port=0) as server, pacsroute.connect(url_of(server)) as client:
        found = list(client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}))
    assert [row.StudyInstanceUID for row in found] == [f"1.{number}" for number in range(25)]


def test_nothing_to_get_is_no_failure(client):
    assert list(client.get(STUDY)) == []


def refusing(error):
    app = App("REFUSES")

    @app.store
    def store(request):
        raise error

    @app.find("StudyRoot")
    def find(request):
        raise error

    @app.get("StudyRoot")
    def get(request):
        raise error

    return app


@pytest.mark.parametrize("code", [0xA700, 0xA900, 0x0124, 0xC000])
def test_failures_of_the_peer_are_raised_with_its_status(code):
    with refusing(Failure(code, "not today")).serve(port=0, web_port=0) as server:
        with pacsroute.connect(url_of(server)) as client:
            asked = [lambda: client.store(FILES / CT), lambda: list(client.find(STUDY))]
            if code == 0x0124:  # what may not be retrieved is not there
                assert list(client.get(STUDY)) == []
            else:
                asked.append(lambda: list(client.get(STUDY)))
            for ask in asked:
                with pytest.raises(RequestFailed) as caught:
                    ask()
                assert caught.value.status.code == code


def test_a_warning_is_returned():
    app = App("WARNS")

    @app.store
    def store(request):
        return 0xB000

    with app.serve(port=0, web_port=0) as server, pacsroute.connect(url_of(server)) as client:
        assert client.store(FILES / CT).code == 0xB000


def test_what_dicomweb_has_not_is_not_accepted(client):
    for ask in (
        client.echo,
        lambda: client.move(STUDY, "X"),
        lambda: client.n_create("MPPS", {}),
        lambda: list(client.find({"QueryRetrieveLevel": "PATIENT"})),
        lambda: list(client.find({}, "Worklist")),
    ):
        with pytest.raises(NotAccepted):
            ask()
    with pytest.raises(DataSetError, match="StudyInstanceUID"):
        list(client.get({"QueryRetrieveLevel": "STUDY"}))


def test_credentials_are_sent(archive):
    @archive.authenticate
    def check(identity, association):
        return identity and identity.proves("doe", "secret") and "doe"

    with archive.serve(port=0, web_port=0) as server:
        with pacsroute.connect(url_of(server), user=("doe", "secret")) as client:
            assert client.store(FILES / CT).code == 0
        with pacsroute.connect(url_of(server), user=("doe", "wrong")) as client:
            with pytest.raises(RequestFailed, match="403"):
                client.store(FILES / CT)


def test_a_url_without_dicomweb_is_questioned(archive):
    with archive.serve(port=0, web_port=0) as server:
        with pacsroute.connect(url_of(server) + "/nowhere") as client:
            with pytest.raises(RequestFailed, match="404"):
                client.store(FILES / CT)
        site = url_of(server).rpartition("/")[0]
        with pacsroute.connect(f"{site}/nowhere") as client:
            with pytest.raises(RequestFailed, match=r"404 NOT FOUND: is the path .* right\?"):
                client.store(FILES / CT)


def test_https_is_verified(tmp_path):
    pki = PKI(tmp_path)
    app = App("ARCHIVE", web_certificate=pki.server.certificate, web_key=pki.server.key)
    app.register_blueprint(Archive(tmp_path / "archive"))
    with app.serve(port=0, web_port=0) as server:
        url = url_of(server, "https")
        with pacsroute.connect(url, tls=pki.trusting()) as client:
            assert client.store(FILES / CT).code == 0
        with pacsroute.connect(url) as client, pytest.raises(AssociationError, match="certificate"):
            client.store(FILES / CT)
        with pacsroute.connect(url, tls=ssl.create_default_context()) as client:
            with pytest.raises(AssociationError):
                client.store(FILES / CT)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/dicom-web", "http://no-such-host.invalid/x"])
def test_a_peer_that_is_not_there_is_an_association_error(url):
    with pacsroute.connect(url) as client, pytest.raises(AssociationError):
        client.store(FILES / CT)


class Answers(BaseHTTPRequestHandler):
    """Answers every GET with what the test says."""

    def do_GET(self):
        kind, body, length = self.server.answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def odd():
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


MULTIPART = "multipart/related; boundary=b"


@pytest.mark.parametrize(
    ("kind", "body", "missing"),
    [
        ("text/html", b"<p>", 0),
        (MULTIPART, b"", 0),
        (MULTIPART, b"--b\r\nX: y", 0),
        (MULTIPART, b"--b\r\n\r\nrubbish\r\n--b--", 0),
        (MULTIPART, b"--b\r\n\r\n" + get_testdata_file(CT).encode() + b"\r\n", 0),
        (MULTIPART, b"--b\r\n\r\n" + b"x" * 100_000, 50_000),
    ],
)
def test_an_answer_that_is_broken_is_an_error(odd, kind, body, missing):
    odd.answer = kind, body, len(body) + missing
    url = f"http://127.0.0.1:{odd.server_port}/dicom-web"
    with pacsroute.connect(url, timeout=WAIT) as client:
        with pytest.raises((DataSetError, AssociationError)):
            list(client.get(STUDY))
        if body:
            with pytest.raises((DataSetError, AssociationError)):
                list(client.find(STUDY))


def test_a_url_is_a_destination_of_c_move_and_of_jobs(server, tmp_path):
    router = App("ROUTER", spool=str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    router.destinations["CLOUD"] = Peer(url=url_of(server))

    @router.move("StudyRoot")
    def move(request):
        yield FILES / CT

    with router.serve(port=0) as routing:
        with pacsroute.connect("127.0.0.1", routing.port, called_ae="ROUTER") as client:
            *_, last = client.move(STUDY, "CLOUD")
        assert (last.completed, last.failed) == (1, 0)
        with router.connect("CLOUD") as cloud:
            assert cloud.store(FILES / MR_RLE).code == 0
    with pacsroute.connect(url_of(server)) as client:
        found = list(client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}))
    assert len(found) == 2


def test_an_instance_that_a_url_refuses_is_a_failed_sub_operation():
    router = App("ROUTER")

    @router.move("StudyRoot")
    def move(request):
        yield FILES / CT

    with refusing(Failure(0xA900)).serve(port=0, web_port=0) as server:
        router.destinations["CLOUD"] = Peer(url=url_of(server))
        with router.serve(port=0) as routing:
            with pacsroute.connect("127.0.0.1", routing.port) as client:
                with pytest.raises(RequestFailed) as caught:
                    list(client.move(STUDY, "CLOUD"))
    assert caught.value.progress.failed == 1


def test_a_url_that_is_none_is_an_error():
    with pytest.raises(SetupError, match="http"):
        App().destinations["CLOUD"] = Peer(url="ftp://x")


def test_the_commands_take_a_url(server, tmp_path):
    url = url_of(server)
    code, out, _ = command(tmp_path, "store", url, str(FILES / CT), str(FILES / MR_RLE))
    assert (code, "2" in out) == (0, True)
    code, out, errors = command(tmp_path, "find", url, "-k", "PatientID=1CT1", "-k", "StudyDate")
    assert (code, errors.strip()) == (0, "1 match")
    assert "20040119" in out
    uid = f"StudyInstanceUID={read(CT).StudyInstanceUID}"
    code, _, errors = command(tmp_path, "get", url, "-k", uid, "-o", "fetched")
    assert code == 0, errors
    (found,) = (tmp_path / "fetched").rglob("*.dcm")
    assert pydicom.dcmread(found).PixelData == read(CT).PixelData
    code, _, errors = command(tmp_path, "find", "http://127.0.0.1:1/x", "-k", "StudyDate")
    assert code == 3, errors
