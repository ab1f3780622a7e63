"""UIDs, identifiers and a patience that tests share."""

from pacsroute import uids

CT, MR = (uids.sop_class(f"{modality}ImageStorage", "store") for modality in ("CT", "MR"))
FIND, GET, MOVE = (uids.sop_class("StudyRoot", command) for command in ("find", "get", "move"))
MPPS = uids.sop_class("MPPS", "n_create")

IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN
BIG_ENDIAN, DEFLATED = uids.EXPLICIT_VR_BIG_ENDIAN, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

_STUDY_LEVEL = bytes.fromhex("0800520006000000") + b"STUDY "
ALL_STUDIES = _STUDY_LEVEL + bytes.fromhex("1000200000000000")  # an empty Patient ID
ONE_STUDY = _STUDY_LEVEL + bytes.fromhex("20000d0004000000") + b"1.2\0"

STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}  # the same for a client

WAIT = 30  # seconds: a bound against hanging, ten times and more what anything takes
