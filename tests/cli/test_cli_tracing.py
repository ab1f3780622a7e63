"""``--record``, ``--trace``, ``explain`` and ``replay``, as somebody types them."""

import os
import pty
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.captures import RAW, dialogue, pcap, raw
from support.names import CT, EXPLICIT
from support.places import CAPTURES, RECORDINGS
from support.processes import environment, pacsroute
from support.raw_peer import RawPeer
from support.serving import APP, Serving

from pacsroute.cli import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def ask(port):
    with RawPeer(port, [(CT, EXPLICIT)]) as peer:
        data = b"\x10\x00\x10\x00PN\x08\x00Doe^John"
        assert peer.store(data, CT, "1.2.3").status == 0
        peer.release()


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("by", ["options", "environment"])
def test_run_records_and_traces(folder, by):
    if by == "options":
        server = Serving(folder, "--record", "kept", "--trace")
    else:
        server = Serving(folder, PACSROUTE_RECORD="kept", PACSROUTE_TRACE="1")
    with server:
        ask(server.port)
        _, output, _ = server.stop()
    assert "RAW → ANY accepted, 1 of 1 contexts" in output
    assert "← C-STORE-RSP 1  0x0000 Success" in output
    assert "Doe" not in output
    assert "\x1b" not in output
    path = max((folder / "kept").iterdir())  # the last; the first is of who looks if it is there

    explained = invoke("explain", path)
    assert explained.exit_code == 0
    without = [re.sub(r"#[0-9] [0-9:.]{12}", "", text) for text in (output, explained.output)]
    assert without[1].strip() in without[0]
    assert "Doe" not in explained.output
    assert "Doe^John" in invoke("explain", path, "--values").output

    replayed = invoke("replay", path, folder / "app.py")
    assert (replayed.exit_code, replayed.output) == (0, "HELLO answers as recorded\n")


def test_run_traces_with_values(folder):
    with Serving(folder, "--trace-values") as server:
        ask(server.port)
        _, output, _ = server.stop()
    assert "Doe^John" in output


def test_record_folder_that_cannot_be_made_is_an_error(folder):
    (folder / "file").write_text("")
    arguments = ("run", "--port", "0", "--record", "file/here")
    error = "Error: cannot record in file/here: Not a directory\n"
    assert pacsroute(folder, *arguments) == (1, "", error)


def test_help_says_what_recordings_hold():
    text = " ".join(invoke("run", "--help").output.split())
    assert "patient data included" in text
    assert "Values that may hold patient data are masked" in text


def test_client_commands_trace_to_stderr(folder):
    with Serving(folder) as server:
        done = CliRunner().invoke(main, ["echo", "127.0.0.1", str(server.port), "--trace"])
        server.stop()
    assert done.exit_code == 0
    assert done.stdout.startswith("ANY-SCP answers: Success")
    assert "PACSROUTE → ANY-SCP accepted" in done.stderr
    assert "→ C-ECHO-RQ 1" in done.stderr


# ------------------------------------------------------------- explain


def test_explain_a_capture():
    done = invoke("explain", CAPTURES / "dcmtk.pcap")
    assert done.exit_code == 0
    heads = [line for line in done.output.splitlines() if line.startswith("#")]
    assert [line[:2] for line in heads] == sorted(line[:2] for line in heads)
    text = done.output
    assert "STORESCU → ARCHIVE accepted, 2 of 2 contexts" in text
    assert "← C-FIND-RSP 1  0xFF00 Pending" in text
    assert "accepted as SCP" in text
    assert "← C-STORE-RQ 1  Secondary Capture Image Storage" in text
    assert "Doe" not in text
    assert "Doe^John" in invoke("explain", CAPTURES / "dcmtk.pcap", "--values").output


def test_explain_a_file_that_is_not_dicom(tmp_path):
    path = tmp_path / "other.pcap"
    path.write_bytes(pcap(RAW, dialogue()))
    done = invoke("explain", path)
    assert done.exit_code == 0
    assert "10.0.0.7:50312 → 10.0.0.1:104: no PDU at the beginning: not DICOM" in done.output
    assert len(done.output.splitlines()) == 1

    client, server = ("10.0.0.7", 50312), ("10.0.0.1", 2762)
    path.write_bytes(
        raw(
            (client, server, 1, 2, b""),
            (client, server, 2, 16, b"\x16\x03\x01\x02\x00\x01" + bytes(40)),
            (server, client, 9, 18, b""),
            (server, client, 10, 16, b"\x16\x03\x03\x00\x7a" + bytes(40)),
            (server, client, 55, 4, b""),
        )
    )
    (line,) = invoke("explain", path).output.splitlines()
    assert line.endswith("10.0.0.7:50312 → 10.0.0.1:2762: TLS: its content cannot be read here")


def test_explain_a_damaged_or_cut_file(tmp_path):
    whole = (CAPTURES / "dcmtk_cooked.pcap").read_bytes()
    path = tmp_path / "cut.pcap"
    lengths = []
    for end in range(24, len(whole), 61):
        path.write_bytes(whole[:end])
        done = invoke("explain", path)
        if "no TCP connection" in done.output:
            assert done.exit_code == 1
            continue
        assert done.exit_code == 0, done.output
        assert "was cut here" in done.output or "← released" in done.output
        lengths.append(len(done.output.splitlines()))
    assert lengths[-1] > 30
    assert max(lengths) - lengths[-1] < 3

    path.write_bytes(b"GIF89a")
    done = invoke("explain", path)
    assert done.exit_code == 1
    assert done.output == (
        f"Error: {path}: neither a recording of pacsroute nor a pcap or pcapng capture\n"
    )


def test_explain_a_recording_that_was_cut_in_the_middle_of_a_message(tmp_path):
    whole = (RECORDINGS / "dcmtk_storescu.rec").read_bytes()
    path = tmp_path / "cut.rec"
    path.write_bytes(whole[: whole.index(b"MONOCHROME2")])
    text = invoke("explain", path).output
    assert "P-DATA-TF ends after" in text
    assert "→ C-STORE-RQ 1  Secondary Capture Image Storage" in text
    assert "the message is cut here" in text
    assert text.rstrip().endswith("the recording was cut here")


# ------------------------------------------------------------- replay


def test_replay_reports_different_answers(folder):
    (folder / "other.py").write_text("from pacsroute import App\napp = App('OTHER')\n")
    done = invoke("replay", CAPTURES / "dcmtk_cooked.pcap", folder / "other.py")
    assert done.exit_code == 1
    assert done.output.splitlines()[0] == (
        "context 1, Secondary Capture Image Storage: "
        "accepted with ExplicitVRLittleEndian recorded, not accepted now"
    )
    (folder / "nothing.pcap").write_bytes(pcap(RAW, dialogue()))
    done = invoke("replay", folder / "nothing.pcap", folder / "other.py")
    assert done.exit_code == 1
    assert done.output.endswith("nothing.pcap: no association in it\n")


# ------------------------------------------------------------- colour


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_colour_needs_a_terminal_and_obeys_no_color(no_colour):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pacsroute", "explain", str(CAPTURES / "dcmtk_cooked.pcap")],
        stdout=theirs,
        stdin=subprocess.DEVNULL,
        env=environment(NO_COLOR=no_colour, TERM="xterm"),
    ):
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 65_536):
                text += piece
        except OSError:
            pass  # Linux says so when the other end is closed
    os.close(ours)
    assert b"C-STORE-RQ" in text
    assert (b"\x1b[32m" in text) is not bool(no_colour)
