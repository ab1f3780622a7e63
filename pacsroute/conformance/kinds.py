"""The kinds of service in a statement (PS3.2 Annex N)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from pydicom.uid import UID

from pacsroute import uids

# Services, numbered as in sections 5.2 and 7.3.2; the template has no section for the last.
VERIFICATION, WORKLIST, PROCEDURE_STEP, UPS, AVAILABILITY, STORAGE, COMMITMENT, QUERY = range(8)
PRINT, OTHER = 8, 9
NAMES = {
    VERIFICATION: "Verification",
    WORKLIST: "Basic Worklist Management",
    PROCEDURE_STEP: "Modality Performed Procedure Step",
    UPS: "Unified Worklist and Procedure Step",
    AVAILABILITY: "Instance Availability Notification",
    STORAGE: "Storage",
    COMMITMENT: "Storage Commitment",
    QUERY: "Query/Retrieve",
    PRINT: "Print Management",
    OTHER: "Other",
}
_KEYWORDS = (
    (VERIFICATION, "Verification$"),
    (WORKLIST, "ModalityWorklist"),
    (PROCEDURE_STEP, "ModalityPerformedProcedureStep"),
    (UPS, "UnifiedProcedureStep"),
    (AVAILABILITY, "InstanceAvailability"),
    (COMMITMENT, "StorageCommitment"),
    (QUERY, ".*(Find|Get|Move)$|RepositoryQuery"),
    (PRINT, "Basic(Film|.*Box|.*Print)|Print|.*(PrintManagementMeta|ImageBox)$|.*LUT|PullPrint"),
)


def kind_of(sop_class: str, commands: Collection[str]) -> int:
    """Return the kind of service of a SOP class that is accepted for some commands."""
    if "store" in commands or (uids.is_storage(sop_class) and not commands):
        return STORAGE
    if sop_class not in uids.SOP_CLASSES:
        return OTHER
    word = UID(sop_class).keyword
    return next((kind for kind, words in _KEYWORDS if re.match(words, word)), OTHER)


def title(service: int, names: Sequence[str]) -> str:
    """Return the heading for a service's SOP classes: their names, or the service's."""
    if service == STORAGE or len(names) > 2:
        return f"the {NAMES[service]} SOP Classes"
    return " and ".join(f"the {name}" for name in names)
