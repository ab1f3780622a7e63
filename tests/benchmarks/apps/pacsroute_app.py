"""The app that is measured: what a user would write."""

import os
from pathlib import Path

from pacsroute import App, Instance, Peer

FOLDER = os.environ["BENCH_FOLDER"]
DURABLE = os.environ.get("BENCH_DURABLE") == "1"
app = App("BENCH")  # with all defaults, as the one for the spool
app.destinations["SINK"] = Peer("127.0.0.1", int(os.environ["BENCH_SINK"]))


@app.store
def store(request):
    request.save(FOLDER, durable=DURABLE)


def rows(request):
    for number in range(int(request.identifier.PatientID)):
        yield {
            "PatientName": "Doe^John",
            "PatientID": f"ID{number:06}",
            "StudyInstanceUID": f"1.2.826.0.1.{number}",
            "StudyDate": "20240115",
            "StudyTime": "103000",
            "ModalitiesInStudy": "CT",
            "AccessionNumber": f"A{number}",
            "StudyDescription": "Thorax",
        }


@app.find("StudyRoot")
def find(request):
    return rows(request)


@app.find("PatientRoot")
def find_datasets(request):
    from pydicom import Dataset  # here: an app that answers with dicts starts without pydicom

    for row in rows(request):
        ds = Dataset()
        for keyword, value in row.items():
            setattr(ds, keyword, value)
        yield ds


@app.get("StudyRoot")
@app.move("StudyRoot")
def retrieve(request):
    return [
        Instance(  # the hints are what an index knows
            path,
            sop_class="1.2.840.10008.5.1.4.1.1.2",
            sop_instance=path.stem,
            transfer_syntax="1.2.840.10008.1.2.1",
        )
        for path in Path(FOLDER, "kept", request.identifier.StudyInstanceUID).iterdir()
    ]
