"""The commands that ask a peer: in this process against servers, and Ctrl-C in processes."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pydicom
import pytest
from click.testing import CliRunner
from support.names import EXPLICIT, MR, WAIT
from support.places import ROOT
from support.unharmed import until

from pacsroute import App, Failure, Instance, Peer, RequestFailed, Status, connect
from pacsroute.cli import clients, main, progress, sending
from pacsroute.dataset.encoding import encode
from pacsroute.errors import AssociationAborted, AssociationRejected, DataSetError, NotAccepted
from pacsroute.framework.observer import Observer
from pacsroute.instances import part10
from pacsroute.upper_layer import pdu

FILES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm")

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def run(command, server, *arguments, code=0, **env):
    """Run a command against a server, which is to end with a code."""
    port = server if isinstance(server, int) else server.port
    arguments = [command, "127.0.0.1", str(port), *map(str, arguments)]
    done = CliRunner(env=env).invoke(main, arguments)
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


@pytest.fixture
def free_port():
    """Return a port where nobody listens, nor can meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class Archive:
    """An app that keeps what it is sent, and gives it back."""

    def __init__(self):
        self.app = App("ARCHIVE")
        self.kept = []
        self.callers = set()
        self.refused = set()
        self.rows = []
        self.identifier = None
        self.ended = []
        self.app.echo(lambda request: self.callers.add((request.calling_ae, request.called_ae)))
        self.app.store(self.store)
        self.app.find("StudyRoot")(self.find)
        self.app.find("Worklist")(self.find)
        self.app.get("StudyRoot")(self.retrieve)
        self.app.move("StudyRoot")(self.retrieve)
        self.paths = []

    def store(self, request):
        if request.sop_instance in self.refused:
            raise Failure(0xA700, "the disk is full")
        self.kept.append(request.sop_instance)

    def find(self, request):
        self.identifier = request.identifier
        try:
            for row in self.rows:
                if isinstance(row, Exception):
                    raise row
                yield row
        finally:
            # A C-CANCEL leaves the association as it is; a peer that is gone does not.
            cancelled = request.cancelled and request.association.ended() is None
            self.ended.append("cancelled" if cancelled else "otherwise")

    def retrieve(self, request):
        self.identifier = request.identifier
        return [Instance(path) for path in self.paths]


@pytest.fixture
def archive():
    return Archive()


@pytest.fixture
def server(archive):
    with archive.app.serve(port=0) as server:
        yield server


@pytest.fixture
def folder(tmp_path, sample):
    """Return a folder with instances at two levels, and what is none."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(sample("CT_small.dcm"), folder / "ct")
    shutil.copy(sample("MR_small.dcm"), folder / "deep" / "mr.dcm")
    shutil.copy(sample("JPEG2000.dcm"), folder / "jpeg.dcm")
    (folder / "notes.txt").write_text("no image")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return folder


def uid_of(path):
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


# ------------------------------------------------------------- echo, and associations


def test_echo(archive, server):
    done = run("echo", server, "-c", "ARCHIVE", "-a", "ME")
    assert done.stdout.startswith("ARCHIVE answers: Success")
    assert archive.callers == {("ME", "ARCHIVE")}


def test_options_are_environment_variables(archive, server):
    run("echo", server, PACSROUTE_CALLING_AE="ENV", PACSROUTE_CALLED_AE="ARCHIVE")
    assert archive.callers == {("ENV", "ARCHIVE")}


def test_echo_answered_with_a_failure():
    app = App()

    @app.echo
    def echo(request):
        raise Failure(0x0210, "twice")

    with app.serve(port=0) as server:
        done = run("echo", server, code=4)
    assert done.stderr == "Error: C-ECHO: 0x0210 twice\n"
    assert done.stdout == ""


def test_echo_where_no_peer_listens_exits_with_an_error(free_port):
    done = run("echo", free_port, code=3)
    assert "cannot be reached" in done.stderr
    assert done.stderr.count("\n") == 1


def test_echo_rejected_by_the_peer_exits_with_an_error(archive):
    with archive.app.serve(port=0, max_associations=1) as server:
        with connect("127.0.0.1", server.port) as first:
            first.echo()
            done = run("echo", server, code=3)
    assert "rejected" in done.stderr
    assert done.stderr.count("\n") == 1


def test_echo_without_an_accepted_context_exits_with_an_error():
    with App().serve(port=0) as server:
        done = run("find", server, "-k", "PatientID", code=3)
    assert "does not accept" in done.stderr


def test_invalid_host_name_is_an_error():
    done = CliRunner().invoke(main, ["echo", "a" * 70, "104"])
    assert done.exit_code == 3
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_user_and_passcode_are_sent_to_the_peer():
    seen = []

    def listen(listener):
        with listener.accept()[0] as peer, peer.makefile("rb") as file:
            head = file.read(6)
            request = pdu.decode(head + file.read(int.from_bytes(head[2:], "big")))
            seen.append(request.user_information.user_identity)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        done = run("echo", port, "--user", "me", code=3, PACSROUTE_PASSCODE="secret")
        thread.join()
    assert seen == [pdu.UserIdentity(2, False, b"me", b"secret")]
    assert done.stderr.startswith("Error: ANY-SCP at 127.0.0.1")
    assert "secret" not in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-a", "A" * 17], "is not a valid AE title"),
        (["--passcode", "secret"], "--passcode requires --user"),
        (["--tls-ca", __file__], "test_cli_clients.py cannot be used"),
        (["--tls-certificate", __file__], "test_cli_clients.py cannot be used"),
        (["--tls-key", __file__], "needs its certificate"),
        (["--tls-ca", "/no/such/file"], "does not exist"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "0.001"], "--timeout"),
        (["--timeout", "nan"], "'--timeout': use 0.01 to 1,000,000 seconds, not nan"),
        (["--timeout", "soon"], "'--timeout': use 0.01 to 1,000,000 seconds, not soon"),
        (["--timeout", "inf"], "--timeout"),
    ],
)
def test_mistakes_in_the_options_of_the_peer(free_port, arguments, words):
    done = run("echo", free_port, *arguments, code=2)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["echo", "http://127.0.0.1/dicom-web"],
            "DICOMweb has no such service: use the peer's HOST",
        ),
        (["move", "https://pacs", "WS", "-k", "PatientID"], "DICOMweb has no such service"),
        (["echo", "127.0.0.1:104"], "HOST and PORT are two arguments: 127.0.0.1 104"),
        (["store", "127.0.0.1", "ct.dcm"], "'PORT': 'ct.dcm' is not a valid whole number"),
    ],
)
def test_mistakes_in_the_address_of_the_peer(arguments, words):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.parametrize(("wrong", "reason"), [("--called-ae", 7), ("--calling-ae", 3)])
def test_a_rejection_names_the_option_of_the_wrong_title(wrong, reason):
    app = App("ARCHIVE", require_called_ae=True, allow=["CT1"])
    titles = {"--called-ae": "ARCHIVE", "--calling-ae": "CT1"} | {wrong: "OTHER"}
    with app.serve(port=0) as server:
        done = run("echo", server, *(text for pair in titles.items() for text in pair), code=3)
    assert f"reason {reason}); the option is {wrong}\n" in done.stderr


# ------------------------------------------------------------- store


@pytest.mark.parametrize("jobs", [1, 2])
def test_store_a_folder(archive, server, folder, jobs):
    done = run("store", server, folder, "-j", jobs)
    paths = [folder / "ct", folder / "jpeg.dcm", folder / "deep" / "mr.dcm"]
    assert sorted(archive.kept) == sorted(map(uid_of, paths))
    if jobs == 1:
        assert archive.kept == [uid_of(path) for path in paths]
    assert done.stdout.startswith("sent 3, failed 0, skipped 2 (2 not DICOM, 0 sent before): ")
    assert done.stderr == ""


def test_two_jobs_are_two_associations(folder):
    app = App()
    together = threading.Barrier(2, timeout=WAIT)

    @app.store
    def store(request):
        together.wait()

    (folder / "deep" / "mr.dcm").unlink()
    with app.serve(port=0) as server:
        assert "sent 2" in run("store", server, folder, "-j", 2).stdout


def test_store_copes_with_a_peer_that_allows_fewer_associations(archive, folder):
    with archive.app.serve(port=0, max_associations=1) as server:
        done = run("store", server, folder, "-j", 3)
    assert "sent 3, failed 0" in done.stdout
    assert len(archive.kept) == 3


def test_failed_instance_does_not_stop_the_others(archive, server, folder):
    archive.refused.add(uid_of(folder / "ct"))
    done = run("store", server, folder, code=1)
    assert "sent 2, failed 1" in done.stdout
    assert str(folder / "ct") in done.stderr
    assert "0xA700 the disk is full" in done.stderr
    assert done.stderr.count("\n") == 1


def test_store_says_when_there_is_nothing_to_send(server, folder, tmp_path):
    for name in ("ct", "jpeg.dcm", "deep/mr.dcm"):
        (folder / name).unlink()
    done = run("store", server, folder)
    assert done.stdout.startswith("sent 0, failed 0, skipped 2 (2 not DICOM")
    assert done.stderr == "nothing to send: there is no DICOM file\n"


def test_store_refuses_a_named_file_that_is_not_an_instance(archive, server, folder):
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\x99" * 50)
    names = ["notes.txt", "nowhere.dcm", "broken.dcm", "ct"]
    done = run("store", server, *(folder / name for name in names), code=1)
    assert "sent 1, failed 3, skipped 0: " in done.stdout
    said = done.stderr.splitlines()
    assert len(said) == 3
    assert (
        said[0] == f"{folder / 'notes.txt'}: not a DICOM file: it has no DICM prefix (PS3.10 §7.1)"
    )
    assert said[1] == f"{folder / 'nowhere.dcm'}: No such file or directory"
    assert said[2].startswith(f"{folder / 'broken.dcm'}: ")


def test_a_class_that_is_not_accepted_fails_alone(folder):
    app, kept = App(), []

    @app.store("CTImageStorage")
    def store(request):
        kept.append(request.sop_instance)

    with app.serve(port=0) as server:
        done = run("store", server, folder, code=1)
    assert "sent 1, failed 2" in done.stdout
    assert "MR Image Storage" in done.stderr


def test_instance_that_ends_the_association_does_not_stop_the_others(folder):
    app, kept = App(), []
    cut = uid_of(folder / "ct")

    @app.store
    def store(request):
        if request.sop_instance == cut:
            request.association.abort()
        kept.append(request.sop_instance)

    with app.serve(port=0) as server:
        done = run("store", server, folder, code=1)
    assert "sent 2, failed 1" in done.stdout
    assert str(folder / "ct") in done.stderr


def test_store_retries_while_the_peer_counts_the_aborted_association(folder):
    app, rejected = App(), threading.Event()
    cut = uid_of(folder / "ct")

    @app.store
    def store(request):
        if request.sop_instance == cut:
            request.association.abort()
            assert rejected.wait(WAIT)

    class Watch(Observer):
        def rejected(self, association, answer):
            rejected.set()

    app.observer = Watch()
    with app.serve(port=0, max_associations=1) as server:
        done = run("store", server, folder, code=1)
    assert "sent 2, failed 1" in done.stdout
    assert str(folder / "ct") in done.stderr


@pytest.mark.parametrize("told", [RequestFailed("C-ECHO", Status(0x0110)), NotAccepted("no echo")])
def test_store_succeeds_when_the_peer_has_room_at_the_last_try(folder, monkeypatch, told):
    monkeypatch.setattr(sending, "_PAUSES", (0, 0))
    answers = [AssociationRejected(2, 3, 2), AssociationRejected(2, 3, 2), told]

    class Peer:
        def store(self, instance):
            raise AssociationAborted(0)

        def echo(self):
            raise answers.pop(0)

    counts, said = sending.Counts(), []
    files = list(sending.collect([str(folder / "ct")], counts, None, said.append))
    sender = sending.FileSender(
        Peer(),
        files,
        counts,
        None,
        say=said.append,
        moved=lambda size: None,
        stopping=lambda: False,
    )
    sender.run(1)
    assert (counts.failed, len(said), answers) == (1, 1, [])


def test_store_where_no_peer_listens(free_port, folder):
    done = run("store", free_port, folder, "-j", 2, code=3)
    assert "sent 0, failed 0" in done.stdout
    assert done.stderr.count("\n") == 1


def test_store_resumes_from_the_list_of_sent_files(archive, server, folder, tmp_path):
    journal = tmp_path / "sent.txt"
    refused = uid_of(folder / "ct")
    archive.refused.add(refused)
    run("store", server, folder, "--resume", journal, code=1)
    noted = [json.loads(line) for line in journal.read_text().splitlines()]
    status = (folder / "jpeg.dcm").stat()
    assert [str(folder / "jpeg.dcm"), status.st_size, status.st_mtime_ns] in noted
    assert len(noted) == 2

    archive.refused.clear()
    archive.kept.clear()
    done = run("store", server, folder, "--resume", journal)
    assert archive.kept == [refused]
    assert "sent 1, failed 0, skipped 4 (2 not DICOM, 2 sent before)" in done.stdout

    # A file that has changed is another one.
    os.utime(folder / "ct", ns=(0, 0))
    assert "sent 1," in run("store", server, folder, "--resume", journal).stdout


def test_resume_ignores_a_line_that_was_cut_off(archive, server, folder, tmp_path):
    journal = tmp_path / "sent.txt"
    run("store", server, folder, "--resume", journal)
    whole = journal.read_text()
    journal.write_text(whole[:-4])
    assert "sent 1," in run("store", server, folder, "--resume", journal).stdout
    assert journal.read_text() == whole


def test_store_stops_when_the_resume_list_cannot_be_written(server, folder, tmp_path, monkeypatch):
    def add(journal, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sending.Journal, "add", add)
    journal = tmp_path / "sent.txt"
    done = run("store", server, folder, "-j", 2, "--resume", journal, code=1)
    assert done.stderr == f"Error: --resume {journal}: No space left on device\n"
    assert "sent 0" in done.stdout


def test_ctrl_c_while_a_command_is_loaded(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("pacsroute.cli.import_module", interrupted)
    monkeypatch.setattr(main, "commands", {})
    done = CliRunner().invoke(main, ["echo", "localhost", "104"])
    assert (done.exit_code, done.output) == (130, "")


def test_store_skips_entries_that_are_not_files(archive, server, folder):
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("nowhere")
    done = run("store", server, folder, code=1)
    assert "sent 3, failed 1, skipped 2 " in done.stdout
    assert done.stderr == f"{folder / 'link'}: No such file or directory\n"


def test_resume_leaves_a_file_alone_that_is_not_a_list(server, folder):
    (folder / "rows.json").write_text('[["a"], 1, 2]\n')
    for name in ("notes.txt", "ct", "rows.json"):
        before = (folder / name).read_bytes()
        done = run("store", server, folder, "--resume", folder / name, code=2)
        assert "is not a list of sent files" in done.stderr
        assert (folder / name).read_bytes() == before


def terminal(monkeypatch):
    monkeypatch.setattr(progress, "on_a_terminal", lambda: True)
    monkeypatch.setattr(sending, "on_a_terminal", lambda: True)
    monkeypatch.setattr("click._termui_impl.isatty", lambda stream: True)


def test_progress_bar_is_shown_on_terminals_only(server, folder, monkeypatch):
    terminal(monkeypatch)
    said = run("store", server, folder).stderr
    assert "3/3 files" in said
    assert "MB/s" in said
    assert run("store", server, folder, "--quiet").stderr == ""


@pytest.mark.parametrize("columns", [80, 60])
def test_progress_bar_stays_on_its_line(server, folder, monkeypatch, columns):
    terminal(monkeypatch)
    said = run("store", server, folder, COLUMNS=str(columns)).stderr
    drawn = [part for part in re.split(r"[\r\n]", said) if "files" in part]
    assert drawn
    assert max(len(re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", part)) for part in drawn) <= columns


@pytest.fixture
def five(tmp_path):
    """Return a folder with five instances, 1.2.3.0 to 1.2.3.4."""
    for number in range(5):
        write(tmp_path / f"{number}.dcm", f"1.2.3.{number}")
    return tmp_path


def write(path, uid):
    data = encode({"SOPClassUID": MR, "SOPInstanceUID": uid, "PatientID": "1"}, EXPLICIT)
    path.write_bytes(part10.head(MR, uid, EXPLICIT) + data)


def test_store_shows_few_failures_of_a_kind_on_a_terminal(archive, server, five, monkeypatch):
    archive.refused = {f"1.2.3.{number}" for number in range(5)}
    assert run("store", server, five, code=1).stderr.count("0xA700") == 5
    terminal(monkeypatch)
    monkeypatch.setattr(sending, "_SHOWN", 2)
    said = run("store", server, five, "--quiet", code=1).stderr
    assert said.count("C-STORE of ") == 2
    assert "and 3 more: 0xA700 the disk is full\n" in said


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_store_counts_what_was_never_sent(five):
    """The peer takes two instances, and is gone."""
    app, kept = App(), []

    @app.store
    def store(request):
        kept.append(request.sop_instance)
        if len(kept) > 2:
            threading.Thread(target=server.stop).start()
            assert until(lambda: not listens(server.port))
            request.association.abort()

    with app.serve(port=0, grace=0) as server:
        done = run("store", server, five, code=3)
    assert re.match(r"sent 2, failed 0, skipped 0, 3 not sent: .* kB in", done.stdout)


def test_store_refuses_a_long_uid_before_sending(archive, server, five):
    write(five / "2.dcm", "1." + "2" * 70)
    done = run("store", server, five, code=1)
    assert done.stdout.startswith("sent 4, failed 1, skipped 0: ")
    assert "2.dcm: its SOP Instance UID is longer than 64 characters\n" in done.stderr
    assert archive.kept == ["1.2.3.0", "1.2.3.1", "1.2.3.3", "1.2.3.4"]
    with connect("127.0.0.1", server.port) as client, pytest.raises(DataSetError, match="longer"):
        client.store(five / "2.dcm")


# ------------------------------------------------------------- find


def test_find_prints_a_table(archive, server):
    archive.rows = [
        {"PatientID": "1", "PatientName": "DOE^JANE", "StudyDescription": "x" * 60},
        {"PatientID": "22", "PatientName": "山田^太郎", "StudyDescription": None},
    ]
    keys = ["-k", "PatientID", "-k", "PatientName", "-k", "StudyDescription"]
    done = run("find", server, *keys, COLUMNS="50")
    assert done.stdout.splitlines() == [
        "PatientID  PatientName  StudyDescription",
        "1          DOE^JANE     xxxxxxxxxxxxxxxxxxxxxxxxx…",
        "22         山田^太郎",
    ]
    assert done.stderr == "2 matches\n"
    assert archive.identifier.QueryRetrieveLevel == "STUDY"
    assert archive.ended == ["otherwise"]


UID = "1.2.826.0.1.3680043.8.498." + "1" * 38
ROWS = [
    {"PatientName": name, "StudyInstanceUID": UID[:-1] + last, "StudyDescription": "x" * 30}
    for name, last in (("ROE", "2"), ("DOE", "3"), ("DOE", "1"))
]
NAME_AND_UID = ["-k", "PatientName", "-k", "StudyInstanceUID"]


def test_find_table_never_cuts_a_uid(archive, server):
    archive.rows = ROWS
    keys = [*NAME_AND_UID, "-k", "StudyDescription"]
    lines = run("find", server, *keys, COLUMNS="90").stdout.splitlines()
    assert max(map(len, lines)) == 90
    assert lines[1] == f"DOE          {UID[:-1]}1  xxxxxxxxxx…"
    # Where cutting the others does not do, each match is a block.
    lines = run("find", server, *keys, COLUMNS="70").stdout.splitlines()
    assert lines[:4] == [
        "PatientName       DOE",
        f"StudyInstanceUID  {UID[:-1]}1",
        f"StudyDescription  {'x' * 30}",
        "",
    ]
    assert len(lines) == 12
    wide = run("find", server, *keys, "--wide", COLUMNS="40").stdout.splitlines()
    assert wide[1] == f"DOE          {UID[:-1]}1  {'x' * 30}"


def test_find_table_is_in_the_order_of_values(archive, server):
    shown = set()
    for rows in (ROWS, ROWS[::-1], [ROWS[1], ROWS[2], ROWS[0]]):
        archive.rows = rows
        shown.add(run("find", server, *NAME_AND_UID).stdout)
    (text,) = shown
    assert [line[-1] for line in text.splitlines()[1:]] == ["1", "3", "2"]


def test_find_table_is_not_cut_without_a_terminal(archive, server):
    archive.rows = [{"StudyDescription": "x" * 64, "PatientID": "a\x1b[2J"}]
    done = run("find", server, "-k", "StudyDescription", "-k", "PatientID", COLUMNS="")
    assert done.stdout.splitlines()[1] == "x" * 64 + "  a?[2J"


def test_find_json(archive, server):
    archive.rows = [{"PatientID": "1", "PatientName": "山田^太郎"}, {"PatientID": "2"}]
    done = run("find", server, "-k", "PatientID", "-k", "PatientName", "--json")
    first, second = json.loads(done.stdout)
    assert first["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "山田^太郎"}]}
    assert second["00100020"]["Value"] == ["2"]
    archive.rows = []
    assert json.loads(run("find", server, "-k", "PatientID", "--json").stdout) == []


def test_find_by_level_and_information_model(archive, server):
    run("find", server, "-k", "PatientID", "--level", "series", "--sop-class", "StudyRoot")
    assert archive.identifier.QueryRetrieveLevel == "SERIES"
    run("find", server, "-k", "PatientID", "--model", "1.2.840.10008.5.1.4.31")  # an alias
    assert "QueryRetrieveLevel" not in archive.identifier


def test_find_limit_cancels_the_query(archive, server):
    more = threading.Event()

    def rows():
        yield {"PatientID": "1"}
        yield {"PatientID": "2"}
        while not more.wait(0.01):  # until the C-CANCEL closes it
            yield {"PatientID": "3"}

    archive.rows = rows()
    done = run("find", server, "-k", "PatientID", "--json", "--limit", 2)
    assert [row["00100020"]["Value"] for row in json.loads(done.stdout)] == [["1"], ["2"]]
    assert done.stderr == "2 matches, and maybe more\n"
    assert archive.ended == ["cancelled"]


def test_find_answered_with_a_failure(archive, server):
    archive.rows = [{"PatientID": "1"}, Failure(0xC001, "no database")]
    done = run("find", server, "-k", "PatientID", code=4)
    assert "C-FIND: 0xC001 no database" in done.stderr
    assert done.stdout.splitlines() == ["PatientID", "1"]  # what came until then


def test_find_takes_nested_keys(archive, server):
    step = "ScheduledProcedureStepSequence"
    archive.rows = [
        {"PatientID": "1", step: [{"Modality": "CT", "ScheduledStationAETitle": ["A", "B"]}]}
    ]
    keys = ["-k", f"{step}.Modality=CT", "-k", f"{step}[0].ScheduledStationAETitle"]
    done = run("find", server, "--sop-class", "Worklist", *keys, "-k", "(0010,0020)")
    item = archive.identifier[step].value[0]
    assert (item.Modality, item.ScheduledStationAETitle) == ("CT", "")
    assert "QueryRetrieveLevel" not in archive.identifier
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["Modality", "ScheduledStationAETitle", "PatientID"],
        ["CT", "A\\B", "1"],
    ]


def test_find_takes_keywords_tags_and_values_as_keys(archive, server):
    keys = ["00100010=M\u00fcller*", r"ModalitiesInStudy=CT\MR", "NumberOfStudyRelatedSeries=3"]
    keys += ["(0008,1110)", "QueryRetrieveLevel=SERIES", "Rows=512"]
    run("find", server, *(part for key in keys for part in ("-k", key)))
    found = archive.identifier
    assert found.PatientName == "M\u00fcller*"
    assert list(found.ModalitiesInStudy) == ["CT", "MR"]
    assert found.NumberOfStudyRelatedSeries == 3
    assert len(found.ReferencedStudySequence) == 0
    assert found.QueryRetrieveLevel == "SERIES"
    assert found.Rows == 512


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("PatientNam=DOE", "no such keyword: 'PatientNam'; did you mean 'PatientName'?"),
        ("(0010,9999)=1", "no attribute of the dictionary has that tag"),
        ("=DOE", "is not Keyword=value"),
        ("PatientID.Modality=CT", "PatientID is not a sequence"),
        ("ReferencedStudySequence=1", "is a sequence: use ReferencedStudySequence.Keyword=value"),
        ("ReferencedStudySequence[1].PatientID=1", "the items before [1] are missing"),
        ("ReferencedStudySequence[0]", "a number is for an item"),
        ("Rows=many", "its values are numbers"),
        ("Rows=-70000", "Rows"),
        ("PixelData=1", "PixelData"),
    ],
)
def test_find_refuses_wrong_keys(free_port, key, words):
    done = run("find", free_port, "-k", key, code=2)
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing option '-k'"),
        (["-k", "PatientID", "-k", "PatientID=1"], "PatientID is given twice"),
        (["-k", "PatientID", "--sop-class", "Workslist"], "did you mean 'Worklist'"),
        (["-k", "PatientID", "--sop-class", "Worklist", "--level", "STUDY"], "--level is for"),
    ],
)
def test_mistakes_in_the_options_of_find(free_port, arguments, words):
    done = run("find", free_port, *arguments, code=2)
    assert words in done.stderr
    assert "@app" not in done.stderr


# ------------------------------------------------------------- get and move


def test_get_into_a_folder(archive, server, sample, tmp_path):
    archive.paths = [sample(name) for name in FILES[:2]]
    done = run("get", server, "-k", "StudyInstanceUID=1.2.3", "-o", tmp_path / "new")
    names = {f"{uid_of(path)}.dcm" for path in archive.paths}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    assert done.stdout.startswith("2 instances, ")
    assert archive.identifier.StudyInstanceUID == "1.2.3"


def test_get_shows_how_many_are_to_come(archive, server, sample, tmp_path, monkeypatch):
    terminal(monkeypatch)
    archive.paths = [sample("CT_small.dcm"), sample("MR_small.dcm")]
    keys = ["-k", "StudyInstanceUID=1.2"]
    said = run("get", server, *keys, "-o", tmp_path).stderr
    shown = [line for line in re.split(r"[\r\n]", said) if "to go" in line]
    # The peer tells the count once it has sent the next instance.
    assert {line.rpartition(", ")[2] for line in shown} == {"1 to go"}
    assert "2 instances, " in shown[-1]


def test_get_tells_what_the_peer_could_not_send(archive, server, sample, tmp_path):
    archive.paths = [sample("CT_small.dcm"), tmp_path / "1.2.3.dcm"]
    write(archive.paths[1], "1.2.3")
    keys = ["-k", "StudyInstanceUID=1.2", "--storage", "CTImageStorage"]
    done = run("get", server, *keys, "-o", tmp_path / "got", code=1)
    assert done.stdout.startswith("1 instance, ")
    assert "ANY-SCP says: sent 1, failed 1, with a warning 0\n1.2.3: failed\n" in done.stderr


def test_get_of_some_sop_classes_only(archive, server, sample, tmp_path):
    archive.paths = [sample(name) for name in FILES[:2]]
    arguments = ["-k", "StudyInstanceUID=1.2.3", "-o", tmp_path, "--storage"]
    done = run("get", server, *arguments, "CTImageStorage", code=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{uid_of(archive.paths[0])}.dcm"]
    assert "C-GET: 0xB000" in done.stderr
    done = run("get", server, *arguments, "CTImageStorag", code=2)
    assert "did you mean 'CTImageStorage'" in done.stderr


def test_get_takes_compressed_instances_as_they_are(archive, server, sample, tmp_path):
    """By default, and where only some syntaxes are named; what is native stays so."""
    names = ["MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "MR_small.dcm"]
    archive.paths = [sample(name) for name in names]
    expected = {uid_of(path): Instance(path).transfer_syntax for path in archive.paths}
    arguments = ["-k", "StudyInstanceUID=1.2.3", "-o", tmp_path]
    run("get", server, *arguments, "--storage", "MRImageStorage")
    found = [Instance(path) for path in tmp_path.iterdir()]
    assert {one.sop_instance: one.transfer_syntax for one in found} == expected
    archive.paths = archive.paths[::2]
    for one in tmp_path.iterdir():
        one.unlink()
    syntaxes = ["--transfer-syntax", "ExplicitVRLittleEndian"]
    syntaxes += ["--transfer-syntax", "JPEG2000Lossless"]
    run("get", server, *arguments, *syntaxes)
    found = [Instance(path) for path in tmp_path.iterdir()]
    assert {one.transfer_syntax for one in found} == {expected[uid_of(p)] for p in archive.paths}
    done = run("get", server, *arguments, "--transfer-syntax", "JPEG2000Lossles", code=2)
    assert "did you mean 'JPEG2000Lossless'" in done.stderr


def test_get_into_a_folder_that_cannot_be_written(archive, server, sample, tmp_path):
    archive.paths = [sample("CT_small.dcm")]
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "folder"
    done = run("get", server, "-k", "StudyInstanceUID=1.2.3", "-o", inside, code=1)
    assert done.stderr == f"Error: {inside}: Not a directory\n"


def test_get_without_a_key_is_refused(server):
    assert "0xA900" in run("get", server, "-k", "PatientName", code=4).stderr


def test_move_with_progress(archive, server, sample, monkeypatch):
    monkeypatch.setattr(progress, "on_a_terminal", lambda: True)
    archive.paths = [sample(name) for name in FILES]
    destination = Archive()
    with destination.app.serve(port=0) as other:
        archive.app.destinations["OTHER"] = Peer("127.0.0.1", other.port)
        done = run("move", server, "OTHER", "-k", "StudyInstanceUID=1.2.3")
        assert destination.kept == [uid_of(path) for path in archive.paths]
        assert done.stdout == "moved 3, failed 0, with a warning 0\n"
        assert "moved 1, failed 0, with a warning 0, 2 to go" in done.stderr

        destination.refused.add(uid_of(archive.paths[0]))
        done = run("move", server, "OTHER", "-k", "StudyInstanceUID=1.2.3", code=1)
    assert done.stdout == "moved 2, failed 1, with a warning 0\n"
    assert f"{uid_of(archive.paths[0])}: failed" in done.stderr


def test_move_to_an_unknown_destination(server):
    done = run("move", server, "NOWHERE", "-k", "StudyInstanceUID=1.2.3", code=4)
    assert done.stderr.startswith("Error: C-MOVE: 0xA801")


# ------------------------------------------------------------- Ctrl-C


class Running:
    """A command in a process of its own."""

    def __init__(self, *arguments):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pacsroute", *map(str, arguments)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.communicate()

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self):
        # Not with communicate: it passes over what readline has read ahead.
        out, errors = self.process.stdout.read(), self.process.stderr.read()
        assert "Traceback" not in errors
        return self.process.wait(WAIT), out, errors


@posix
def test_ctrl_c_cancels_a_find(archive, server):
    done = threading.Event()

    def rows():
        while not done.wait(0.01):  # until the C-CANCEL closes it
            yield {"PatientID": "1"}

    archive.rows = rows()
    with Running("find", "127.0.0.1", server.port, "-k", "PatientID", "--json") as running:
        assert running.process.stdout.readline() == "[\n"
        running.interrupt()
        code, out, errors = running.end()
    assert code == 130
    assert len(json.loads("[" + out)) > 0
    assert "stopping" in errors
    assert archive.ended == ["cancelled"]


@posix
def test_ctrl_c_before_the_first_answer(archive, server):
    asked, done = threading.Event(), threading.Event()

    def rows():
        asked.set()
        done.wait(WAIT)
        yield {"PatientID": "1"}

    archive.rows = rows()
    with Running("find", "127.0.0.1", server.port, "-k", "PatientID") as running:
        assert asked.wait(WAIT)
        running.interrupt()
        code, out, _ = running.end()
        done.set()
    assert (code, out) == (130, "")


@posix
def test_ctrl_c_stops_a_store_after_the_instance_under_way(folder):
    app, kept = App(), []
    began, go = threading.Event(), threading.Event()

    @app.store
    def store(request):
        began.set()
        assert go.wait(WAIT)
        kept.append(request.sop_instance)

    with app.serve(port=0) as server:
        with Running("store", "127.0.0.1", server.port, folder) as running:
            assert began.wait(WAIT)
            running.interrupt()
            assert running.process.stderr.readline() == "\n"
            assert running.process.stderr.readline().startswith("stopping")
            go.set()
            code, out, _ = running.end()
    assert code == 130
    assert out.startswith("sent 1, failed 0")
    assert kept == [uid_of(folder / "ct")]


@posix
def test_a_second_ctrl_c_does_not_wait(folder):
    app = App()
    began, go = threading.Event(), threading.Event()

    @app.store
    def store(request):
        began.set()
        go.wait(WAIT)

    with app.serve(port=0) as server:
        with Running("store", "127.0.0.1", server.port, folder) as running:
            assert began.wait(WAIT)
            running.interrupt()
            assert running.process.stderr.readline() == "\n"
            assert running.process.stderr.readline().startswith("stopping")
            running.interrupt()
            code, out, _ = running.end()
        go.set()
    assert code == 130
    assert out.startswith("sent 0, failed 0")


def test_the_help_tells_the_exit_codes():
    done = CliRunner().invoke(main, ["--help"])
    for words in ("run", "echo", "store", "find", "get", "move", "130"):
        assert words in done.output
    for name in ("echo", "store", "find", "get", "move"):
        assert "Example" in CliRunner().invoke(main, [name, "--help"]).output


def test_text_from_a_peer_cannot_steer_the_terminal(archive, server, capsys):
    archive.rows = [{"PatientID": "A\x9b2J\x1b[2J\x7f"}]
    table = run("find", server, "-k", "PatientID")
    assert table.stdout.splitlines()[-1] == "A?2J?[2J?"
    (row,) = json.loads(run("find", server, "-k", "PatientID", "--json").stdout)
    assert row["00100020"]["Value"] == ["A\x9b2J\x1b[2J\x7f"]
    raw = run("find", server, "-k", "PatientID", "--json").stdout
    assert all(char.isprintable() for line in raw.splitlines() for char in line)
    failed = RequestFailed("C-ECHO", Status(0xA700, "\x1b]0;title\x07 of a window\nnext"))
    assert clients.reason(failed) == "C-ECHO: 0xA700 ?]0;title? of a window next"
    clients.say("1.2\x1b[2J: failed")
    assert capsys.readouterr().err == "1.2?[2J: failed\n"
