"""The conformance statement, held against the server that it speaks of."""

import re
import runpy
import socket
import struct
import subprocess
import sys
from collections import defaultdict

import pytest
from pydicom._uid_dict import UID_dictionary
from support.names import WAIT
from support.places import EXAMPLES

from pacsroute import App, Blueprint, RequestFailed
from pacsroute.conformance import BLANK, statement
from pacsroute.upper_layer import pdu

FOLDERS = {"archive": "ARCHIVE", "commitment": "COMMITTED"}
FILES = {"mpps": "STEPS", "ups": "STEPS", "worklist": "WORKLIST"}
PRIVATE = "1.2.826.0.1.3680043.10.1.7"
SYNTAXES = [uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax"]


# ---- reading a statement


def sections(text):
    """Return the lines of each section by its number."""
    found, number = defaultdict(list), ""
    for line in text.splitlines():
        if heading := re.match(r"##+ (\S+) ", line):
            number = heading[1]
        else:
            found[number].append(line)
    return found


def tables(lines):
    """Return the rows of the tables of a section, each as a dict by column."""
    found, header = [], None
    for line in lines:
        if not line.startswith("| "):
            header = None
        elif header is None:
            header = cells(line)
        elif not line.startswith("| ---"):
            found.append(dict(zip(header, cells(line), strict=True)))
    return found


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def promised(text, number, title):
    """Return what an AE says it accepts: transfer syntaxes and roles by class and caller."""
    found, content = {}, tables(sections(text)["1.1"])
    sets = defaultdict(set)
    for row in content:
        if "Set" in row:
            sets[row["Set"]].add(row["UID"])
    storage = [row for row in content if "SOP Class" in row]
    for row in tables(sections(text)[f"7.2.{number}.4"]):
        name, _, caller = row["Abstract Syntax"].partition(", for ")
        if "Table 1-1" in name:
            for other in storage:
                for who in other["AE"].split(", "):
                    ae, _, caller = who.partition(" for ")
                    roles = {"SCP"} if other["SCP"] == "Y" else set()
                    roles |= {"SCU"} if "C-GET" in other["SCU"] else set()
                    if ae == title and roles:
                        found[other["UID"], caller] = sets[other["Transfer Syntaxes"]], roles
        else:
            roles = set(row["Role"].split(" and "))
            found[row["UID"], caller] = sets[row["Transfer Syntaxes"]], roles
    return found


# ---- asking a server


def negotiate(port, contexts, called="ANY", calling="ASKER"):
    """Propose contexts, with both roles for each class; yield class, syntax and roles or None."""
    for start in range(0, len(contexts), 128):
        batch = contexts[start : start + 128]
        proposed = tuple(
            pdu.PresentationContext(2 * i + 1, abstract, (syntax,))
            for i, (abstract, syntax) in enumerate(batch)
        )
        roles = tuple(
            pdu.RoleSelection(uid, True, True) for uid in dict.fromkeys(uid for uid, _ in batch)
        )
        user = pdu.UserInformation(16_384, "1.2.3.4", roles=roles)
        answer = ask(port, pdu.AssociateRQ(called, calling, proposed, user))
        granted = {role.sop_class: role for role in answer.user_information.roles}
        for (abstract, syntax), result in zip(batch, answer.contexts, strict=True):
            role = granted.get(abstract)
            given = {"SCP"} if role is None or role.scu else set()
            given |= {"SCU"} if role is not None and role.scp else set()
            yield abstract, syntax, given if result.result == 0 else None


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as sock:
        sock.sendall(pdu.encode(request))
        head = exactly(sock, 6)
        answer = pdu.decode(head + exactly(sock, struct.unpack(">2xI", head)[0]))
        sock.sendall(pdu.encode(pdu.Abort(0)))
        return answer


def exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return data


def compare(text, number, title, port, called, callers=("",)):
    """Assert that a server accepts what an AE promises, and nothing else."""
    said = promised(text, number, title)
    known = {uid for uid, _ in said} - {"any other"}
    for caller in callers:
        offers = {uid: offer for (uid, who), offer in said.items() if who == ""}
        offers |= {uid: offer for (uid, who), offer in said.items() if who == caller}
        unknown = offers.pop("any other", None)
        contexts = []
        for uid in [*UID_dictionary, *known, PRIVATE]:
            expected = offers.get(uid) or (uid == PRIVATE and unknown)
            syntaxes = [*SYNTAXES, PRIVATE] if expected else ["1.2.840.10008.1.2"]
            contexts += [(uid, syntax) for syntax in syntaxes]
        contexts = list(dict.fromkeys(contexts))
        for uid, syntax, roles in negotiate(port, contexts, called, caller or "ASKER"):
            accepted = offers.get(uid, unknown if uid not in UID_dictionary else None)
            if accepted is None:
                assert roles is None, f"{uid} is accepted in {syntax}"
                continue
            listed = syntax in accepted[0] or "any other" in accepted[0]
            assert roles == (accepted[1] if listed else None), (uid, syntax)
    return said


def example(name, tmp_path, monkeypatch):
    for variable, path in {FOLDERS.get(name): name, FILES.get(name): f"{name}.db"}.items():
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / path))
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["app"]


@pytest.mark.parametrize("name", ["archive", "commitment", "hello", "mpps", "ups", "worklist"])
def test_server_accepts_exactly_the_stated_contexts(name, tmp_path, monkeypatch):
    app = example(name, tmp_path, monkeypatch)
    text = statement(app)
    with app.serve(port=0) as server:
        said = compare(text, 1, app.ae_title, server.port, app.ae_title)
    assert said["1.2.840.10008.1.1", ""][1] == {"SCP"}
    stores = name in ("archive", "commitment", "hello")
    assert (("any other", "") in said) == stores
    assert ("1.2.840.10008.5.1.4.1.1.2", "") in said or not stores
    assert len(said) == {"archive": 215, "commitment": 209, "hello": 208, "mpps": 3, "ups": 6}.get(
        name, 2
    )


@pytest.fixture
def two_titles():
    research = Blueprint("research")
    app = App("ARCHIVE", outstanding=4)

    @research.store("CTImageStorage", transfer_syntaxes=["JPEG2000Lossless", PRIVATE])
    @app.store("MRImageStorage", calling_ae="MR1")
    def store(request): ...

    @research.get("StudyRoot", extended=["relational"])
    @app.move("StudyRoot", pending_interval=5)
    @app.find("StudyRoot", extended=["fuzzy"])
    @app.find("Worklist", calling_ae="CT1")
    @app.find(PRIVATE)
    def find(request):
        return []

    @app.n_event_report("StorageCommitment")
    @app.n_create("FilmSession")
    def manage(request): ...

    app.register_blueprint(research, called_ae="RESEARCH")
    return app


def test_statement_has_a_part_for_each_title(two_titles):
    text = statement(two_titles)
    with two_titles.serve(port=0) as server:
        callers = ("", "CT1", "MR1")
        archive = compare(text, 1, "ARCHIVE", server.port, "ARCHIVE", callers)
        research = compare(text, 2, "RESEARCH", server.port, "RESEARCH", callers)
    assert archive["1.2.840.10008.5.1.4.31", "CT1"][1] == {"SCP"}
    assert archive["1.2.840.10008.5.1.4.1.1.4", "MR1"][1] == {"SCP"}
    assert archive["1.2.840.10008.1.20.1", ""][1] == {"SCU"}
    assert research["1.2.840.10008.5.1.4.1.1.4", ""][1] == {"SCU"}
    assert research["1.2.840.10008.5.1.4.1.1.2", ""][1] == {"SCP", "SCU"}
    assert ("1.2.840.10008.5.1.4.31", "CT1") not in research
    parts = sections(text)
    assert any("relational 1" in line for line in parts["5.2.7.3"])
    assert any("every 5 s" in line for line in parts["5.2.7.2"])
    content = tables(parts["1.1"])
    (ct,) = [
        row for row in content if row.get("SOP Class") == "CT Image Storage" and row["SCP"] == "Y"
    ]
    ordered = [row["UID"] for row in content if row.get("Set") == ct["Transfer Syntaxes"]]
    assert ordered == ["1.2.840.10008.1.2.4.90", PRIVATE, "1.2.840.10008.1.2"]
    choice = f"is first in the table is accepted ({ct['Transfer Syntaxes']})"
    assert any(choice in line for line in parts["1.1"])
    roles = {row["Service"]: row for row in tables(parts["5.1"])}
    assert roles["Storage"] == {"Service": "Storage", "ARCHIVE": "SCP, SCU", "RESEARCH": "SCP, SCU"}


# What PS3.2 Annex N has at its first two levels, and some of what is below.
HEADINGS = """
1 Overview | 1.1 Content and Transfer | 1.2 DIMSE Services | 1.2.4 Query/Retrieve
1.3 DICOM Web Services | 1.4 Media Services | 1.5 Real-Time Video Service
1.6 De-identification Profiles | 1.7 Specific Character Sets | 2 Table of Contents
3 Introduction | 3.1 Revision History | 3.2 Audience | 3.3 Remarks | 3.4 Terms and Definitions
3.5 Abbreviations | 3.6 References | 4 Implementation Model
4.1 Application Entities and Data Flow | 4.1.1 Functional Definition of ARCHIVE
5 Service and Interoperability Description | 5.1 Mapping of Services to Application Entities
5.2 DIMSE Services | 5.2.5 Storage Service | 5.2.5.1 SCU of the Storage SOP Classes
5.2.5.1.1 Transcoding of Transfer Syntaxes | 5.2.5.2 SCP of the Storage SOP Classes
5.2.6 Storage Commitment Service | 5.2.7 Query/Retrieve Service Class
5.2.8 Print Management Service | 5.3 DICOM Web Services | 5.4 Media Services
5.5 Real-Time Video Services | 5.6 Cross-Service Considerations | 5.7 Specific Character Sets
6 Configuration | 6.1 General Configuration Parameters | 6.2 Configuration of DIMSE Services
7 Network and Media Communication Details | 7.1 General | 7.1.1 General Association Parameters
7.2 Specifications | 7.2.1 ARCHIVE Application Entity
7.2.1.1 Sequencing of Real-World Activities for ARCHIVE
7.2.1.2 Association Parameters of ARCHIVE | 7.2.1.3 Association Initiation
7.2.1.4 Association Acceptance | 7.3 Status Codes
7.3.1 General Communication and Failure Behavior | 7.3.2 DIMSE Services
7.3.2.5 Storage Service | 7.3.2.7 Query/Retrieve Service Class | 7.3.3 DICOM Web Services
8 Security | 8.1 Introduction | 8.2 External Network Requirements | 8.3 TCP Port Configuration
8.4 DICOM Security Profiles Support | 8.5 User Identity Negotiation Support
8.5.1 Association Initiation | 8.5.2 Association Acceptance | 8.7 Other Security Features
A.A Information Object Definitions (IODs) | A.E Code Set Usage
"""


def test_the_sections_are_those_of_the_template_in_its_order(tmp_path, monkeypatch):
    text = statement(example("archive", tmp_path, monkeypatch))
    found = [heading.removesuffix(" - N/A") for heading in re.findall(r"^##+ (.*)$", text, re.M)]
    wanted = [title.strip() for title in re.split(r"[|\n]", HEADINGS) if title.strip()]
    assert [title for title in found if title in wanted] == wanted
    numbers = [title.split()[0] for title in found]
    assert len(set(numbers)) == len(numbers)
    counted = [[int(n) for n in number.split(".")] for number in numbers if number[0] != "A"]
    assert counted == sorted(counted)
    listed = [line.strip() for line in sections(text)["2"] if line.strip()]
    assert [re.match(r"- \[(.*)\]\(#", line)[1].removesuffix(" - N/A") for line in listed] == found
    for number in re.findall(r"^##+ (\S+) .* - N/A$", text, re.M):
        assert [line for line in sections(text)[number] if line] == ["N/A"]


def test_the_same_app_has_the_same_statement_and_a_date_only_if_asked(tmp_path, monkeypatch):
    first, second = (statement(example("archive", tmp_path, monkeypatch)) for _ in range(2))
    assert first == second
    assert str(tmp_path) not in first
    dated = statement(example("archive", tmp_path, monkeypatch), "2026-11-24")
    assert set(dated.splitlines()) - set(first.splitlines()) == {"| Date | 2026-11-24 |"}


def codes(text, title):
    number = re.search(rf"^##+ (\S+) SCP of .* - {title}$", text, re.M)[1]
    return {int(row["Status Code"], 16) for row in tables(sections(text)[number])}


def test_status_codes_that_are_answered_are_listed(tmp_path, monkeypatch, sample):
    app = example("archive", tmp_path, monkeypatch)
    text = statement(app)
    lost = App("LOST")
    with app.test_client(peers={"LOST": lost}) as client:
        stored = client.store(sample("CT_small.dcm")).code
        assert stored in codes(text, "C-STORE")
        with pytest.raises(RequestFailed) as failure:
            list(client.get({"QueryRetrieveLevel": "STUDY"}))
        assert failure.value.status.code in codes(text, "C-GET")
        with pytest.raises(RequestFailed) as failure:
            list(client.move({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}, "NOBODY"))
        assert failure.value.status.code in codes(text, "C-MOVE")


def test_security_and_limits_are_those_of_the_settings():
    app = App(
        "GATE", allow=["CT1@10.0.0.0/8"], require_called_ae=True, called_ae_titles=["OLD"], port=104
    )
    app.config.max_associations = 12
    app.config.charset = "ISO_IR 144"
    app.authenticate(lambda identity, association: identity)
    parts = {number: "\n".join(lines) for number, lines in sections(statement(app)).items()}
    assert "CT1@10.0.0.0/8" in parts["8.7.2"]
    assert "User identities are checked by GATE;" in parts["8.5.2"]
    assert "It accepts the called AE titles GATE, OLD, and rejects all others." in parts["4.1.1"]
    assert "| 104 | 127.0.0.1 | in |" in parts["8.3"]
    assert "| Associations accepted at the same time | 12 |" in parts["7.1.1"]
    assert "ISO_IR 144, as configured" in parts["5.7"]
    for reason in ("| 1 | 1 | 3 |", "| 1 | 1 | 7 |", "| 1 | 2 | 1 |"):
        assert reason in parts["7.3.1"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [(False, "by the peer."), (True, "by the peer, but not for a C-GET.")],
)
def test_statement_says_whether_a_get_needs_a_role(setting, words):
    app = App(get_without_role=setting)
    app.get(lambda request: [])
    assert f"SCU needs role selection {words}" in statement(app)


def test_statement_has_the_character_set_of_a_peer():
    app = App("WORKLIST", charset="ISO_IR 192")

    @app.find("Worklist")
    @app.find("Worklist", calling_ae="OLD_CT", charset="ISO_IR 100")
    def find(request):
        return []

    text = statement(app)
    assert "encoded in ISO_IR 192, as configured" in text
    assert (
        "If OLD_CT calls WORKLIST for Modality Worklist Information Model - FIND, "
        "that set is ISO_IR 100."
    ) in text


def test_the_character_sets_of_undeclared_text_are_stated():
    app = App("WORKLIST", default_charset=["ISO_IR 192", "CT1=GB18030"])
    words = "Data sets without one are read as ISO_IR 192, GB18030 if they come from CT1."
    assert words in statement(app)
    assert "without one are read" not in statement(App("WORKLIST"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["| 104 | 127.0.0.1 | in | DICOM, without TLS |"]),
        (
            {"tls_certificate": "a.pem"},
            ["| 104 | 127.0.0.1 | in | DICOM over TLS", "| PS3.15 B.12 |", "are not asked for"],
        ),
        (
            {"tls_certificate": "a.pem", "tls_ca": "ca.pem", "tls_port": 2762},
            ["in | DICOM, without TLS |", "| 2762 | 127.0.0.1 | in |", "without a valid"],
        ),
        (
            {"tls_certificate": "a.pem", "tls_profile": "modified", "tls_key_passphrase": "s3cret"},
            ["| PS3.15 B.13 |", "ECDHE-RSA-AES256-GCM-SHA384"],
        ),
    ],
)
def test_statement_has_the_tls_settings(settings, words):
    text = statement(App("GATE", port=104, **settings))
    assert all(word in text for word in words)
    assert not re.search(r"a\.pem|s3cret", text)
    number = "8.4.2 Secure Transport Connection Profiles"
    assert (f"{number} - N/A" in text) is (not settings)


# ---- the command


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pacsroute", "conformance", *map(str, arguments)],
        cwd=folder,
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def test_conformance_command_prints_or_writes_the_statement(tmp_path):
    (tmp_path / "app.py").write_text("from pacsroute import App\n\napp = App('HERE')\n")
    (tmp_path / "site.toml").write_text("port = 104\n")
    printed = command(tmp_path)
    assert printed.returncode == 0
    assert printed.stdout.startswith("# DICOM Conformance Statement: HERE\n")
    written = command(tmp_path, "app.py", "--output", "here.md")
    text = (tmp_path / "here.md").read_text()
    assert text == printed.stdout
    assert written.stdout == f"here.md: {text.count(BLANK)} places must be completed\n"
    dated = command(tmp_path, "--config", "site.toml", "--date", "2026-11-24")
    assert "| Date | 2026-11-24 |" in dated.stdout
    assert "| 104 | 127.0.0.1 | in |" in dated.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py"], "there is no file 'nowhere.py'"),
        (["app.py", "--config", "no.toml"], "no.toml: No such file"),
        (["app.py", "--output", "no/where.md"], "no/where.md: No such file"),
    ],
)
def test_conformance_command_reports_mistakes_in_one_line(tmp_path, arguments, words):
    (tmp_path / "app.py").write_text("from pacsroute import App\n\napp = App('HERE')\n")
    done = command(tmp_path, *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
