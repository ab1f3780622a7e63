"""A gateway to a model: it analyses each complete series, and sends the result back.

    pip install 'pacsroute[pixels]'
    pacsroute run gateway.py --destination CT1=10.0.0.9:11112

A series waits on the disk until no instance of it has arrived for a minute, also over a restart.
The model runs in its own process, so that a crash or a hang does not affect the server.
"""

import shutil
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from pacsroute import App, uids

app = App("GATEWAY", jobs="incoming/jobs.db")
INCOMING = Path("incoming")
REPORT = uids.sop_class("BasicTextSRStorage", "store")
KEPT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID")


@app.store
def store(request):
    """Keep an instance with the others of its series."""
    request.save(INCOMING / UID(request.dataset.SeriesInstanceUID))


@app.quiet("SERIES", after=60)
def complete(series):
    """Queue the analysis, once for each time that a series has become quiet."""
    analyse.later(series.uid, to=series.calling_ae, key=series.uid)


@app.job(retry=[60, 600], timeout=600, process=True)
def analyse(series, to):
    """Run the model on a series, and queue its result for the sender of the series."""
    slices = [dcmread(path) for path in sorted((INCOMING / series).glob("*.dcm"))]
    mean = sum(float(one.pixel_array.mean()) for one in slices) / len(slices)  # the model
    app.forward(report(slices[0], f"{len(slices)} slices, mean {mean:.1f}"), to=to, key=series)
    shutil.rmtree(INCOMING / series)


def report(source, text):
    """Return a text report on a series; the same one, if it is made again."""
    found = Dataset()
    for keyword in KEPT:
        setattr(found, keyword, source.get(keyword))
    found.SOPClassUID, found.Modality = REPORT, "SR"
    found.SeriesInstanceUID = f"{source.SeriesInstanceUID[:60]}.1"
    found.SOPInstanceUID = f"{source.SeriesInstanceUID[:58]}.1.1"
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
    found.ValueType, found.ContinuityOfContent = "CONTAINER", "SEPARATE"
    found.ContentSequence = [item]
    return found
