"""What must hold for any bytes at all: a function for each kind, which raises where it does not.

The coverage-guided fuzzer calls them (``python -m tests.fuzz``), and the suite with mutated
recordings.
"""

import atexit
import contextlib
import logging
import os
import socket
import sqlite3
import tempfile
from pathlib import Path

import pydicom
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from pacsroute import App, Archive, Config, Instance, Peer, matching, uids
from pacsroute.dataset import parsing
from pacsroute.dataset.encoding import RowEncoder, encode
from pacsroute.dimse import command_set, commands
from pacsroute.dimse.messages import fragment
from pacsroute.errors import (
    AssociationAborted,
    AssociationRejected,
    DataSetError,
    ProtocolError,
)
from pacsroute.framework.requests import FindRequest, StoreRequest
from pacsroute.instances import part10, peek
from pacsroute.instances.decoding.wall import Decoders
from pacsroute.net.association import Association
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.trace.files import read
from pacsroute.upper_layer import pdu

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "recordings"
CT = uids.sop_class("CTImageStorage", "store")
STUDY = {command: uids.sop_class("StudyRoot", command) for command in ("find", "get", "move")}
MPPS = uids.sop_class("MPPS", "n_create")
IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN
SYNTAXES = (
    IMPLICIT,
    EXPLICIT,
    uids.EXPLICIT_VR_BIG_ENDIAN,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
STREAMS = tuple(
    map(
        uids.transfer_syntax,
        (
            "JPEGBaseline8Bit",
            "JPEGLSLossless",
            "JPEG2000Lossless",
            "RLELossless",
            "JPEGLosslessSV1",
        ),
    )
)
IMAGE = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 100,
    "Columns": 100,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}
WAIT = 5
STREAM = 16_384  # bytes: the answers to more do not fit a socket that nobody reads

IDENTIFIER = (
    bytes.fromhex("0800520006000000") + b"STUDY " + bytes.fromhex("20000d0004000000") + (b"1.2\0")
)
DATA_SET = b"\x08\0\x16\0UI" + bytes((len(CT), 0)) + CT.encode() + b"\x08\0\x18\0UI\x06\x001.2.3\0"
COLUMNS = {
    "PatientName": "name",
    "StudyDate": "date",
    "StudyTime": "time",
    "PatientID": "id",
    "PatientWeight": "weight",
    "ModalitiesInStudy": "modalities",
    "StudyInstanceUID": "uid",
    "RequestAttributesSequence": {"AcquisitionDateTime": "moment", "StudyComments": "comments"},
}
ROWS = [
    {
        "PatientName": "Doe^John=山田^太郎",
        "StudyDate": "20240131",
        "StudyTime": "10:30",
        "PatientID": "A[1]*",
        "PatientWeight": 70.5,
        "ModalitiesInStudy": ["CT", "MR"],
        "StudyInstanceUID": "1.2",
        "RequestAttributesSequence": [
            {"AcquisitionDateTime": "20240131103000+0100", "StudyComments": "a*b\nc"}
        ],
    },
    dict.fromkeys(COLUMNS),
]


# ----------------------------------------------------------------------------- the targets


def pdus(data):
    """A PDU is refused with a ProtocolError, or is the same when written and read again."""
    try:
        read = pdu.decode(data)
    except ProtocolError:
        return
    assert pdu.decode(pdu.encode(read)) == read


def command_sets(data):
    """A command set is refused with a ProtocolError, or is the same when written and read."""
    try:
        read = command_set.decode(data)
    except ProtocolError:
        return
    assert command_set.decode(command_set.encode(read)) == read


def data_sets(data):
    """A data set is refused with a DataSetError; an identifier can be read, matched, answered."""
    syntax, data = SYNTAXES[data[0] % len(SYNTAXES) if data else 0], data[1:]
    for uid in peek.sop_uids(data, syntax):
        assert isinstance(uid, str)
    with contextlib.suppress(DataSetError):
        parsing.parse(data, syntax)
    try:
        keys = parsing.identifier(data, syntax)
    except DataSetError:
        return
    for element in keys.iterall():
        str(element.value)
    with contextlib.suppress(DataSetError):
        where = matching.where(keys, COLUMNS)
        assert where.sql.count("?") == len(where.parameters)
    with contextlib.suppress(DataSetError):
        RowEncoder(syntax, keys).encode({"PatientName": "Doe^John", "PatientID": None})


def matches(data):
    """An identifier is refused with a DataSetError, or Python and SQLite give one answer to it."""
    try:
        keys = parsing.identifier(data[1:], SYNTAXES[data[0] % len(SYNTAXES)] if data else IMPLICIT)
    except DataSetError:
        return
    for empty_matches in (True, False):
        found = matching.matcher(keys, empty_matches=empty_matches)
        for number, row in enumerate(ROWS):
            in_sql = _outcome(_in_sql, keys, number, empty_matches)
            assert in_sql in (_outcome(found, row), "a wrong key of an item")


def _outcome(function, *arguments):
    try:
        return bool(function(*arguments))
    except DataSetError as error:
        # Python looks into the items of a key only where a row has items, too.
        nested = str(error).startswith(("AcquisitionDateTime:", "StudyComments:"))
        return "a wrong key of an item" if nested else str(error)


def _in_sql(keys, number, empty_matches):
    where = matching.where(keys, COLUMNS, empty_matches=empty_matches)
    query = f"SELECT 1 FROM study WHERE number = ? AND {where.sql}"
    return _DATABASE.execute(query, (number, *where.parameters)).fetchall()


def index(data):
    """An archive takes a data set into its index, or refuses it, and answers any query."""
    syntax, data = SYNTAXES[data[0] % len(SYNTAXES)] if data else IMPLICIT, data[1:]
    hints = {"sop_class": CT, "sop_instance": "1.4", "transfer_syntax": syntax}
    stored = _ARCHIVE.handle(StoreRequest(app=_ARCHIVE, instance=Instance(data, **hints)))
    assert stored.status.code in (0x0000, 0x0111, 0xA900, 0xC000), stored
    try:
        keys = parsing.identifier(data, syntax)
    except DataSetError:
        return
    request = FindRequest(app=_ARCHIVE, sop_class=STUDY["find"], identifier=keys)
    encoder = RowEncoder(syntax, keys)
    *found, final = _ARCHIVE.handle(request)
    for answer in found:
        encoder.encode(answer.row)
    assert final.outcome.status.code in (0x0000, 0xA900), final


def associations(data):
    """Whatever a peer sends, its association ends in good order, and hurts nobody else.

    It is the real association, over a socket that holds all that the peer ever sends.
    """
    folder = Path(_FOLDER.name)
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data[:STREAM])
        theirs.shutdown(socket.SHUT_WR)
        with _APP.running():
            serve(_APP, ours)
        theirs.settimeout(WAIT)
        sent = b"".join(iter(lambda: theirs.recv(1 << 16), b""))
    for answer in cut(sent):
        pdu.decode(answer)
    for path in folder.iterdir():
        assert uids.is_uid(path.stem), path
        assert path.suffix == ".dcm", path
        dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        path.unlink()
    assert not LOGGED.wrong, LOGGED.wrong


def code_streams(data):
    """A code stream is refused with a DataSetError, or is a frame; it hurts its decoder at most."""
    syntax, data = STREAMS[data[0] % len(STREAMS) if data else 0], data[1:]
    row = IMAGE | {"PixelData": encapsulate([data.ljust(2)], has_bot=False)}
    instance = Instance(part10.head(CT, "1.2.3", syntax) + encode(row, syntax))
    with (
        contextlib.suppress(DataSetError),
        _DECODERS.frame(instance.open(), syntax, 1).file as file,
    ):
        assert len(file.read()) == 100 * 100
    with (
        contextlib.suppress(DataSetError),
        _DECODERS.convert(instance.open(), syntax, EXPLICIT) as file,
    ):
        assert len(parsing.parse(file.read(), EXPLICIT).PixelData) == 100 * 100


TARGETS = {
    target.__name__: target
    for target in (pdus, command_sets, data_sets, matches, index, associations, code_streams)
}


def cut(stream):
    """Return the PDUs of a stream."""
    while stream:
        length = pdu.HEADER.unpack_from(stream)[1] + 6
        yield stream[:length]
        stream = stream[length:]


def serve(app, sock):
    """Serve an association to its end, as the server does; other exceptions are bugs."""
    association = Association(sock, app, config=app.config)
    try:
        association.negotiate()
        Dispatcher(app, association).run()
    except (AssociationAborted, AssociationRejected):
        pass
    finally:
        association.close()


class OneLine(logging.Handler):
    """Notes each record that is not one line of printable ASCII: a peer could forge others."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    def emit(self, record):
        text = record.getMessage()
        if not (text.isascii() and text.isprintable()):
            self.wrong.append(text)


LOGGED = OneLine()


def app_of_everything(folder):
    """Return an app that has a handler for each service, and looks at all that it gets."""
    app = App("FUZZ", spool=folder, artim=WAIT, idle_timeout=WAIT, network_timeout=WAIT)
    app.destinations["WS"] = Peer("127.0.0.1", 1)  # where nobody listens

    def answer(request):
        if request.command == "store":
            request.save(folder, durable=False)
            str(request.dataset)
        elif request.command in ("get", "move"):
            return [
                Instance(DATA_SET, sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT)
            ]
        elif request.command == "find":
            matching.where(request.identifier, COLUMNS)
            return [{"PatientName": "Doe^John", "StudyInstanceUID": "1.2"}] * 2
        elif request.command == "n_get":
            return {"PatientName": "Doe^John"}
        return None

    for register in (app.echo, app.store, app.find, app.get, app.move):
        register(answer)
    for name in uids.N_COMMANDS:
        getattr(app, name)("MPPS")(answer)
    return app


def database_of_rows():
    """Return a database that has the rows as they are matched, with a number each."""
    flat = {name: column for name, column in COLUMNS.items() if isinstance(column, str)}
    (nested,) = COLUMNS.keys() - flat.keys()
    columns = [*flat.items(), *COLUMNS[nested].items()]
    database = sqlite3.connect(":memory:")
    names = ", ".join(column for _, column in columns)
    database.execute(f"CREATE TABLE study (number, {names})")
    for number, row in enumerate(ROWS):
        values = row | (row[nested] or [{}])[0]
        stored = [matching.stored(name, values.get(name)) for name, _ in columns]
        marks = ", ".join("?" * (len(stored) + 1))
        database.execute(f"INSERT INTO study VALUES ({marks})", [number, *stored])
    return database


_DATABASE = database_of_rows()
atexit.register(_DATABASE.close)
_FOLDER = tempfile.TemporaryDirectory(
    prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
)
_APP = app_of_everything(_FOLDER.name)


def running_archive(folder):
    """Return an app with an archive, which runs for as long as this process."""
    app = App("ARCHIVE")
    app.register_blueprint(Archive(folder, conflict="replace", mismatch="accept"))
    running = app.running()
    running.__enter__()
    atexit.register(running.__exit__, None, None, None)
    return app


_INDEXED = tempfile.TemporaryDirectory(prefix="fuzz-")
_ARCHIVE = running_archive(_INDEXED.name)
_DECODERS = Decoders(Config(decode_seconds=1, decode_memory=256 << 20, spool=_FOLDER.name))


# ----------------------------------------------------------------------------- the seeds

ASKED = [
    {"PatientName": "doe^*=*\\D?E*", "PatientID": "A[1]*\\*[\\?*"},
    {"PatientID": "**", "StudyInstanceUID": "1.2\\1.3", "PatientWeight": "70.50\\1e3"},
    {"StudyDate": "2024.01.01-20240201\\20230101", "StudyTime": "-1030", "PatientName": "=山田*"},
    {"RequestAttributesSequence": [{"AcquisitionDateTime": "2024-", "StudyComments": "a*?c"}]},
]


def recorded(name):
    """Return the PDUs that another implementation has sent."""
    chunks = [chunk for _, chunk in read(RECORDINGS / f"{name}.rec") if chunk is not None]
    requestor = name not in ("dcmtk_storescp", "orthanc")
    sent = b"".join(bytes(chunk.data) for chunk in chunks if chunk.by_requestor == requestor)
    return list(cut(sent))


def everything_recorded():
    """Return all PDUs of all recordings."""
    return [data for path in sorted(RECORDINGS.glob("*.rec")) for data in recorded(path.stem)]


def message(context_id, command, data=None):
    """Return a message as it stands on the wire."""
    return b"".join(map(bytes, fragment(context_id, command, data, 16_384)))


def conversations():
    """Return whole streams of a peer: recorded ones, and one for each service."""
    end = pdu.encode(pdu.ReleaseRQ())
    for peer in ("dcmtk_echoscu", "dcmtk_storescu", "pynetdicom_echo"):
        yield b"".join(recorded(peer))

    abstract = (uids.VERIFICATION, CT, *STUDY.values(), MPPS)
    contexts = tuple(
        pdu.PresentationContext(2 * i + 1, uid, (EXPLICIT if uid == CT else IMPLICIT,))
        for i, uid in enumerate(abstract)
    )
    roles = (pdu.RoleSelection(CT, True, True),)
    information = pdu.UserInformation(16_384, "1.2.3", roles=roles)
    begin = pdu.encode(pdu.AssociateRQ("FUZZ", "PEER", contexts, information))
    names = {"affected_sop_class": MPPS, "affected_sop_instance": "1.2.3"}
    asked = {"requested_sop_class": MPPS, "requested_sop_instance": "1.2.3"}
    one = {"message_id": 1}
    answered = commands.CStoreRSP(message_id_responded_to=1, affected_sop_class=CT)
    for text in (
        message(3, commands.CStoreRQ(**one, affected_sop_class=CT, affected_sop_instance="1.2.3"),
                DATA_SET),
        message(5, commands.CFindRQ(**one, affected_sop_class=STUDY["find"]), IDENTIFIER)
        + message(5, commands.CCancelRQ(message_id_responded_to=1)),
        message(7, commands.CGetRQ(**one, affected_sop_class=STUDY["get"]), IDENTIFIER)
        + message(3, answered),
        message(9, commands.CMoveRQ(**one, affected_sop_class=STUDY["move"],
                                    move_destination="WS"), IDENTIFIER),
        message(11, commands.NCreateRQ(**one, **names), IDENTIFIER),
        message(11, commands.NSetRQ(**one, **asked), IDENTIFIER),
        message(11, commands.NGetRQ(**one, **asked, attribute_identifiers=(0x00100010,))),
        message(11, commands.NActionRQ(**one, **asked, action_type=1), IDENTIFIER),
        message(11, commands.NDeleteRQ(**one, **asked)),
        message(11, commands.NEventReportRQ(**one, **names, event_type=1), IDENTIFIER),
        pdu.encode(pdu.Abort(0)),
    ):  # fmt: skip
        yield begin + text + end


def code_stream_seeds():
    """Yield a frame of each kind, as samples of pydicom have it, behind the number of its kind."""
    for path in sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")):
        with contextlib.suppress(Exception):  # some are broken on purpose
            image = dcmread(path)
            number = STREAMS.index(image.file_meta.TransferSyntaxUID)
            frame = next(generate_frames(image.PixelData, number_of_frames=1))
            if len(frame) < STREAM:
                yield bytes((number,)) + frame


def seeds(target):
    """Return what the fuzzer begins with."""
    if target == "code_streams":
        return list(code_stream_seeds())
    streams = list(conversations())
    if target == "associations":
        return streams
    whole = everything_recorded()
    whole += [data for stream in streams for data in cut(stream)]
    if target == "pdus":
        return whole
    if target == "command_sets":
        pdvs = [pdv for data in whole if data[0] == 4 for pdv in pdu.decode(data).pdvs]
        return [bytes(pdv.fragment) for pdv in pdvs if pdv.is_command]
    keys = {"PatientName": "Doe*", "StudyDate": "20240101-", "ModalitiesInStudy": "CT"}
    item = {"ScheduledProcedureStepSequence": [{"Modality": "CT"}], "SpecificCharacterSet": ""}
    found = [bytes((i,)) + encode(keys | item, syntax) for i, syntax in enumerate(SYNTAXES)]
    if target == "matches":
        found += [bytes((i % 2,)) + encode(one, SYNTAXES[i % 2]) for i, one in enumerate(ASKED)]
    if target == "index":
        study = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4"}
        ct = {"SOPClassUID": CT, "PatientName": "Müller^Ute", "Rows": 512, "InstanceNumber": "1"}
        at = [{"QueryRetrieveLevel": level} for level in ("PATIENT", "STUDY", "SERIES", "IMAGE")]
        kept = [study | ct | level | {"Modality": "CT", "StudyDate": "20240131"} for level in at]
        found += [bytes((i,)) + encode(row, SYNTAXES[i]) for i, row in enumerate(kept)]
    return [*found, b"\0" + IDENTIFIER, b"\1" + DATA_SET]
