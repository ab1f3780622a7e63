"""The same with pynetdicom, as its users write it."""

import os
import sys
from pathlib import Path

from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

FOLDER = os.environ["BENCH_FOLDER"]


def store(event):
    path = f"{FOLDER}/{event.request.AffectedSOPInstanceUID}.dcm"
    with open(path, "wb") as file:
        file.write(event.encoded_dataset())
    return 0


def find(event):
    for number in range(int(event.identifier.PatientID)):
        row = Dataset()
        row.QueryRetrieveLevel = "STUDY"
        row.PatientName = "Doe^John"
        row.PatientID = f"ID{number:06}"
        row.StudyInstanceUID = f"1.2.826.0.1.{number}"
        row.StudyDate = "20240115"
        row.StudyTime = "103000"
        row.ModalitiesInStudy = "CT"
        row.AccessionNumber = f"A{number}"
        row.StudyDescription = "Thorax"
        yield 0xFF00, row


def get(event):
    paths = list(Path(FOLDER, "kept", event.identifier.StudyInstanceUID).iterdir())
    yield len(paths)
    for path in paths:
        yield 0xFF00, dcmread(path)


def move(event):
    context = build_context(CTImageStorage, "1.2.840.10008.1.2.1")
    yield "127.0.0.1", int(os.environ["BENCH_SINK"]), {"contexts": [context]}
    yield from get(event)


ae = AE("BENCH")
ae.maximum_pdu_size = int(os.environ["BENCH_PDU"])
ae.maximum_associations = 2000
for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, scu_role=True, scp_role=True)
ae.add_supported_context(Verification)
ae.add_supported_context(PatientRootQueryRetrieveInformationModelFind)
ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
ae.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
handlers = [
    (evt.EVT_C_STORE, store),
    (evt.EVT_C_FIND, find),
    (evt.EVT_C_GET, get),
    (evt.EVT_C_MOVE, move),
]
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=handlers)
