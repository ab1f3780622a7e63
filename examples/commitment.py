"""Storage commitment in one file: it stores instances, and commits to them (PS3.4 §J).

    pacsroute run examples/commitment.py --destination CT1=10.0.0.8:11112

Instances are kept in the folder ``committed``, or in the one that the environment variable
COMMITTED names. The result of a request is reported on a new association to the AE title that
asked: a durable job, which is tried again for a while and survives a restart. If that address is
unknown, the result is reported on the association of the request.
"""

import os
from pathlib import Path

from pydicom import Dataset

from pacsroute import App, Failure, Instance, PacsrouteError, uids

FOLDER = Path(os.environ.get("COMMITTED", "committed"))
WAITS = (5, 30, 120, 600)  # seconds between the attempts to report; then it is given up

PROCESSING_FAILURE, NO_SUCH_INSTANCE, CONFLICT = 0x0110, 0x0112, 0x0119  # PS3.3 §C.14.1.1
ALL_ARE_HERE, SOME_FAILED = 1, 2  # the types of event (PS3.4 §J.3.3)

app = App("COMMITMENT", spool=FOLDER / ".spool")


@app.store
def store(request):
    request.save(FOLDER)  # on the disk before it is acknowledged: what is promised is there


@app.n_action("StorageCommitment", action_type=1)
def commit(request):
    if request.sop_instance != uids.sop_instance("StorageCommitmentPushModel"):
        raise Failure(0x0112, "not the well-known SOP instance")
    asked = request.action_information
    for keyword in ("TransactionUID", "ReferencedSOPSequence"):
        if not asked.get(keyword):
            raise Failure(0x0115, f"{keyword} is missing")
    if app.resolve(request.calling_ae) is None:
        request.report(*outcome(asked))
    else:
        report.later(request.calling_ae, asked.to_json_dict(), delay=1)  # after the response


def outcome(asked):
    """Return what to report: the type of the event, and what it says of each reference."""
    kept, failed, reasons = [], [], {}
    for item in asked.ReferencedSOPSequence:
        names = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
        reference = {name: str(item.get(name) or "") for name in names}
        uids_of_it = tuple(reference.values())
        if uids_of_it not in reasons:  # each is looked at once, however often it is named
            reasons[uids_of_it] = why_not(*uids_of_it)
        reason = reasons[uids_of_it]
        if reason is None:
            kept.append(reference)
        else:
            failed.append({**reference, "FailureReason": reason})
    information = {"TransactionUID": asked.TransactionUID}
    if kept:
        information["ReferencedSOPSequence"] = kept
    if failed:
        information["FailedSOPSequence"] = failed
    return (SOME_FAILED if failed else ALL_ARE_HERE), information


def why_not(sop_class, sop_instance):
    """Return why an instance cannot be committed to, or None: it is here."""
    if not uids.is_uid(sop_instance):  # nor is it a name to look for in a folder
        return NO_SUCH_INSTANCE
    name = f"{sop_instance}.dcm"
    try:
        found = Instance(FOLDER / name)
        here = found.sop_class
        found.save(FOLDER, name, duplicate="keep")  # who stores it may not have flushed it yet
    except FileNotFoundError:
        return NO_SUCH_INSTANCE
    except (OSError, PacsrouteError):
        return PROCESSING_FAILURE
    return None if here == sop_class else CONFLICT


@app.job(retry=WAITS)
def report(ae_title, asked):
    """Tell who asked; what is there is looked up now, since a late instance may have come."""
    kind, information = outcome(Dataset.from_json(asked))
    with app.connect(ae_title) as client:
        client.n_event_report("StorageCommitment", "StorageCommitmentPushModel", kind, information)
