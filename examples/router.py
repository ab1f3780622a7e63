"""A router: it forwards instances by rules, and to research without names.

    pip install pacsroute dicognito
    PSEUDONYM_KEY=… pacsroute run router.py --destination PACS=10.0.0.7:11112 \
        --destination RESEARCH=10.0.0.8:11112

Each instance is on the disk before it is acknowledged, and delivered at least once. A destination
that cannot be reached delays no other. `pacsroute jobs router.py` shows the queue.
"""

import copy
import os

from dicognito.anonymizer import Anonymizer
from pydicom import Dataset

from pacsroute import App, Failure, Instance

app = App("ROUTER", jobs="queue/jobs.db")

RULES = [  # where an instance goes; each rule that holds adds its destination
    ("PACS", lambda dataset: True),
    ("RESEARCH", lambda dataset: dataset.get("Modality") in ("CT", "MR")),
]
WITHOUT_NAMES = {"RESEARCH"}
PROFILE = Dataset()  # PS3.16 CID 7050
PROFILE.CodeValue, PROFILE.CodingSchemeDesignator = "113100", "DCM"
PROFILE.CodeMeaning = "Basic Application Confidentiality Profile"


@app.store
def store(request):
    """Queue an instance for its destinations; the modality's own title calls the PACS."""
    for destination, holds in RULES:
        if not holds(request.dataset):
            continue
        if destination in WITHOUT_NAMES:
            app.forward(anonymised(request.dataset), to=destination)
        else:
            app.forward(request.instance, to=destination, calling_ae=request.calling_ae)


def anonymised(dataset):
    """Return a copy without names; the same original gets the same UIDs, in every process."""
    if dataset.get("BurnedInAnnotation", "NO") != "NO":
        raise Failure(0xC000, "names may be burned into the pixels")  # the original never goes
    dataset = copy.deepcopy(dataset)
    Anonymizer(seed=os.environ["PSEUDONYM_KEY"]).anonymize(dataset)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethodCodeSequence = [PROFILE]
    return Instance(dataset)


@app.gave_up
def tell(job, error):
    """Say what could not be delivered: it is kept until somebody retries or drops it."""
    print(f"job {job.id} for {job.lane} was given up: {error}")
