"""Every service class that pynetdicom can serve, answered to its own SCU."""

import inspect

import pynetdicom.sop_class as classes
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role, evt
from support.names import EXPLICIT, IMPLICIT

from pacsroute import App, Instance, Peer, uids
from pacsroute.dataset.encoding import encode
from pacsroute.instances.without_bulk_data import without_bulk_data


def keyed(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


KEYS = keyed(QueryRetrieveLevel="IMAGE", PatientID="1", SOPInstanceUID="1.2.3")


def associated(server, *contexts, fetched=(), handlers=()):
    ae = AE("SCU")
    ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = 30
    for context in contexts:
        ae.add_requested_context(context, [EXPLICIT, IMPLICIT])
    for context in fetched:
        ae.add_requested_context(context, EXPLICIT)
    roles = [build_role(context, scp_role=True) for context in fetched]
    association = ae.associate("127.0.0.1", server.port, ext_neg=roles, evt_handlers=list(handlers))
    assert association.is_established
    return association


def of(command):
    """Return the short names of a command's classes that pynetdicom knows, too."""
    known = {str(uid) for name, uid in inspect.getmembers(classes) if hasattr(uid, "is_valid")}
    found = {
        uids.sop_class(name, command): name
        for name in uids.short_names(command)
        if uids.sop_class(name, command) in known
    }
    return sorted(found.values())


def test_every_pynetdicom_sop_class_has_a_short_name():
    """A class that pynetdicom serves is stored, or has a short name under some command."""
    named = {
        uids.sop_class(name, command)
        for command in ("find", "get", "move", *uids.N_COMMANDS)
        for name in uids.short_names(command)
    }
    everything = {
        str(uid)
        for name, members in inspect.getmembers(classes)
        if name.endswith("_CLASSES") and isinstance(members, dict)
        for uid in members.values()
        if uids.is_uid(str(uid))
    }
    metas = {str(uid) for name, uid in inspect.getmembers(classes) if name.endswith("Meta")}
    missing = {
        uid
        for uid in everything - named - metas - uids.UPS
        if not uids.is_storage(uid) and uid != uids.VERIFICATION
    }
    assert {uids.name(uid) for uid in missing} == {"Media Storage Directory Storage"}


@pytest.mark.parametrize("name", of("find"))
def test_pynetdicom_uses_every_class_with_find(name):
    app = App()

    @app.find(name)
    def find(request):
        assert request.sop_class == uid
        yield {"PatientID": "1", "SOPInstanceUID": "1.2.3"}

    uid = "1.2.840.10008.5.1.4.34.6.3" if name == "UPS" else uids.sop_class(name, "find")
    with app.serve(port=0, grace=1) as server:
        association = associated(server, uid)
        answers = list(association.send_c_find(keyed(PatientID="", SOPInstanceUID=""), uid))
        association.release()
    assert [status.Status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].PatientID == "1"


def test_instance_availability_is_returned_unasked():
    app = App()
    row = {"PatientID": "1", "InstanceAvailability": "NEARLINE", "StorageMediaFileSetID": "TAPE"}
    app.find("StudyRoot")(lambda request: [row])
    app.find("Worklist")(lambda request: [row])
    with app.test_client() as client:
        (found,) = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""})
        assert (found.InstanceAvailability, found.StorageMediaFileSetID) == ("NEARLINE", "TAPE")
        assert list(client.find({"PatientID": ""}, "Worklist")) == [keyed(PatientID="1")]


@pytest.mark.parametrize("name", of("get"))
def test_pynetdicom_uses_every_class_with_get(name, sample):
    app, came = App(), []
    app.get(name)(lambda request: [sample("CT_small.dcm")])
    uid = uids.sop_class(name, "get")

    def store(event):
        came.append(event.dataset)
        return 0

    with app.serve(port=0, grace=1) as server:
        association = associated(
            server, uid, fetched=[classes.CTImageStorage], handlers=[(evt.EVT_C_STORE, store)]
        )
        answers = list(association.send_c_get(KEYS, uid))
        association.release()
    assert answers[-1][0].Status == 0
    assert [ds.SOPInstanceUID for ds in came] == [dcmread(sample("CT_small.dcm")).SOPInstanceUID]
    assert ("PixelData" in came[0]) is ("WithoutBulkData" not in name)


def test_without_bulk_data_icons_keep_their_pixels():
    icon = keyed(Rows=1, Columns=2, BitsAllocated=8, PixelData=b"\1\2")
    waveform = keyed(WaveformBitsAllocated=8, WaveformData=b"\3\4", NumberOfWaveformSamples=2)
    ds = keyed(
        SOPClassUID=classes.CTImageStorage,
        SOPInstanceUID="1.2.3",
        BitsAllocated=8,
        IconImageSequence=[icon],
        WaveformSequence=[waveform],
        PixelData=b"\5\6",
        PatientID="1",
    )
    bare = without_bulk_data(Instance(encode(ds, EXPLICIT), transfer_syntax=EXPLICIT)).dataset
    assert "PixelData" not in bare
    assert bare.IconImageSequence[0].PixelData == b"\1\2"
    assert "WaveformData" not in bare.WaveformSequence[0]
    assert bare.WaveformSequence[0].NumberOfWaveformSamples == 2


@pytest.mark.parametrize("name", of("move"))
def test_pynetdicom_uses_every_class_with_move(name, sample):
    app, sink, came = App(), App("SINK"), []
    app.move(name)(lambda request: [sample("CT_small.dcm")])
    sink.store(lambda request: came.append(request.sop_instance))
    uid = uids.sop_class(name, "move")
    with app.serve(port=0, grace=1) as server, sink.serve(port=0, grace=1) as other:
        app.destinations["SINK"] = Peer("127.0.0.1", other.port)
        association = associated(server, uid)
        answers = list(association.send_c_move(KEYS, "SINK", uid))
        association.release()
    assert answers[-1][0].Status == 0
    assert came == [dcmread(sample("CT_small.dcm")).SOPInstanceUID]


CONTEXT = {
    "FilmSession": "BasicGrayscalePrintManagementMeta",
    "FilmBox": "BasicColorPrintManagementMeta",
    "GrayscaleImageBox": "BasicGrayscalePrintManagementMeta",
    "ColorImageBox": "BasicColorPrintManagementMeta",
    "Printer": "BasicGrayscalePrintManagementMeta",
    "UPS": "UnifiedProcedureStepPull",
}

# The operations of each class of the N-services (PS3.4), as its SCU may ask for them.
OPERATIONS = {
    "MPPS": "create set",
    "MPPSRetrieve": "get",
    "MPPSNotification": "event_report",
    "StorageCommitment": "action event_report",
    "InstanceAvailability": "create",
    "UPS": "create set get action event_report",
    "FilmSession": "create set delete action",
    "FilmBox": "create set delete action",
    "GrayscaleImageBox": "set",
    "ColorImageBox": "set",
    "AnnotationBox": "set",
    "PrintJob": "get event_report",
    "PresentationLUT": "create delete",
    "VOILUTBox": "create set delete",
    "Printer": "get event_report",
    "PrinterConfiguration": "get",
    "MediaCreation": "create action get",
    "DisplaySystem": "get",
    "ProceduralEventLogging": "action",
    "SubstanceAdministration": "action",
    "RTConventionalMachineVerification": "create set get action delete event_report",
    "RTIonMachineVerification": "create set get action delete event_report",
    "InventoryCreation": "action event_report",
    "StudyComponentManagement": "create set get",
}


@pytest.mark.parametrize(
    ("name", "operation"),
    [(name, operation) for name, all_ in OPERATIONS.items() for operation in all_.split()],
)
def test_pynetdicom_uses_every_class_with_n_service(name, operation):
    app, seen = App(), []

    def handler(request):
        seen.append((request.command, request.sop_class, request.sop_instance))
        return {"PatientID": "1"} if operation != "delete" else None

    getattr(app, f"n_{operation}")(name)(handler)
    uid = uids.sop_class(name, f"n_{operation}")
    context = CONTEXT.get(name)
    context = uid if context is None else getattr(classes, context)
    reports = operation == "event_report"
    some = keyed(PatientID="1")
    with app.serve(port=0, grace=1) as server:
        if reports:
            association = associated(server, fetched=[context])
        else:
            association = associated(server, context)
        meta = {} if context == uid else {"meta_uid": context}
        arguments = {
            "create": (some, uid, "1.2.3"),
            "set": (some, uid, "1.2.3"),
            "get": ([], uid, "1.2.3"),
            "action": (some, 1, uid, "1.2.3"),
            "delete": (uid, "1.2.3"),
            "event_report": (some, 1, uid, "1.2.3"),
        }[operation]
        answer = getattr(association, f"send_n_{operation}")(*arguments, **meta)
        association.release()
    status = answer if operation == "delete" else answer[0]
    assert status.Status == 0
    assert seen == [(f"n_{operation}", uid, "1.2.3")]
    if operation != "delete":
        assert answer[1].PatientID == "1"


@pytest.mark.parametrize(
    "keyword",
    [
        "HangingProtocolStorage",
        "ColorPaletteStorage",
        "GenericImplantTemplateStorage",
        "ImplantAssemblyTemplateStorage",
        "ImplantTemplateGroupStorage",
        "CTDefinedProcedureProtocolStorage",
        "ProtocolApprovalStorage",
        "InventoryStorage",
    ],
)
def test_non_patient_objects_are_stored(keyword):
    app, came = App(), []
    app.store(lambda request: came.append(request.sop_class))
    ds = keyed(SOPClassUID=uids.sop_class(keyword, "store"), SOPInstanceUID="1.2.3")
    with app.test_client() as client:
        client.store(Instance(ds))
    assert came == [ds.SOPClassUID]
