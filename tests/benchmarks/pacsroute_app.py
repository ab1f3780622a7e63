"""The app that is measured: what a user would write."""

import os

from pacsroute import App

FOLDER = os.environ["BENCH_FOLDER"]
app = App("BENCH", spool=FOLDER)


@app.store
def store(request):
    request.save(FOLDER, durable=os.environ.get("BENCH_DURABLE") == "1")


@app.find("StudyRoot")
def find(request):
    for number in range(1000):
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
