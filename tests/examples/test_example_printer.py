"""The example of a film printer, as pynetdicom's and DCMTK's print SCUs use it."""

import importlib.util
import queue
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom import sop_class as classes
from support.names import WAIT

from pacsroute import uids

DPI = 40  # a film of 8 by 10 inches has 320 by 400 pixels then, and gaps of 2
EXAMPLE = Path(__file__).parents[2] / "examples" / "printer.py"
GRAY = classes.BasicGrayscalePrintManagementMeta
COLOR = classes.BasicColorPrintManagementMeta
OPTIONAL = (
    classes.PrintJob,
    classes.BasicAnnotationBox,
    classes.PresentationLUT,
    classes.PrinterConfigurationRetrieval,
)


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.setenv("FILMS", str(tmp_path / "films"))
    monkeypatch.setenv("DPI", str(DPI))
    spec = importlib.util.spec_from_file_location("printer", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "printer", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(example):
    with example.app.serve(port=0, grace=1) as server:
        yield server


def dataset(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def reference(sop_class, uid):
    return [dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)]


class Scu:
    """pynetdicom's print SCU on one association, and the events that it was told of."""

    def __init__(self, server, meta=GRAY, others=OPTIONAL, syntax=uids.EXPLICIT_VR_LITTLE_ENDIAN):
        self.meta, self.events = meta, queue.Queue()
        self.others = others
        ae = AE("SCU")
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = WAIT
        for context in (meta, *others):
            ae.add_requested_context(context, syntax)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._on_event)]
        self.association = ae.associate("127.0.0.1", server.port, evt_handlers=handlers)
        assert self.association.is_established
        assert len(self.association.accepted_contexts) == 1 + len(others)

    def _on_event(self, event):
        name = event.request.AffectedSOPClassUID.keyword
        information = event.event_information
        self.events.put((name, event.event_type, information.PrinterName))
        return 0, None

    def _answer(self, answer, expected):
        status, data = answer
        assert f"0x{status.Status:04X}" == f"0x{expected:04X}", status.get("ErrorComment")
        return data

    def _meta(self, sop_class):
        return {} if sop_class in OPTIONAL else {"meta_uid": self.meta}

    def create(self, sop_class, ds=None, uid=None, expected=0):
        uid = uid or generate_uid()
        send = self.association.send_n_create
        self._answer(send(ds, sop_class, uid, **self._meta(sop_class)), expected)
        return uid

    def set(self, sop_class, uid, ds, expected=0):
        send = self.association.send_n_set
        return self._answer(send(ds, sop_class, uid, **self._meta(sop_class)), expected)

    def get(self, sop_class, uid, tags=(), expected=0):
        send = self.association.send_n_get
        return self._answer(send(list(tags), sop_class, uid, **self._meta(sop_class)), expected)

    def print(self, sop_class, uid, expected=0):
        """Print a film or a session, and wait until the job is reported to have ended."""
        send = self.association.send_n_action
        answer = self._answer(send(None, 1, sop_class, uid, **self._meta(sop_class)), expected)
        self.told = []
        if answer is not None and self.others:
            while not self.told or self.told[-1][:2] not in (("PrintJob", 3), ("PrintJob", 4)):
                self.told.append(self.events.get(timeout=WAIT))
            # pynetdicom cannot stand a release that overtakes its answer to an event.
            self.get(classes.Printer, classes.PrinterInstance)
        return answer

    def delete(self, sop_class, uid, expected=0):
        status = self.association.send_n_delete(sop_class, uid, **self._meta(sop_class))
        assert status.Status == expected

    def session(self, **attributes):
        # pynetdicom announces an empty data set and then does not send it.
        ds = dataset(**attributes) if attributes else None
        self.session_uid = self.create(classes.BasicFilmSession, ds)
        return self.session_uid

    def film(self, layout="STANDARD\\1,1", expected=0, **attributes):
        """Create a film; keep the UIDs of its boxes."""
        attributes = {"FilmSizeID": "8INX10IN", "ImageDisplayFormat": layout, **attributes}
        session = reference(classes.BasicFilmSession, self.session_uid)
        ds = dataset(ReferencedFilmSessionSequence=session, **attributes)
        uid = generate_uid()
        send = self.association.send_n_create
        film = self._answer(send(ds, classes.BasicFilmBox, uid, meta_uid=self.meta), expected)
        if not expected:
            self.boxes = list(film.ReferencedImageBoxSequence)
            self.notes = list(film.get("ReferencedBasicAnnotationBoxSequence", ()))
        return uid

    def image(self, item, number=0, expected=0, **attributes):
        box = self.boxes[number]
        kind = "Color" if self.meta == COLOR else "Grayscale"
        ds = dataset(ImageBoxPosition=number + 1, **attributes)
        setattr(ds, f"Basic{kind}ImageSequence", [] if item is None else [item])
        self.set(box.ReferencedSOPClassUID, box.ReferencedSOPInstanceUID, ds, expected)


@pytest.fixture
def scu(server):
    made = []

    def associate(*arguments, **options):
        made.append(Scu(server, *arguments, **options))
        return made[-1]

    yield associate
    for one in made:
        one.association.release()


def image(pixels, photometric="MONOCHROME2", stored=8, planar=None, **attributes):
    pixels = np.asarray(pixels, np.uint8 if stored == 8 else "<u2")
    samples = 1 if pixels.ndim == 2 else 3
    item = dataset(
        SamplesPerPixel=samples,
        PhotometricInterpretation=photometric,
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        BitsAllocated=8 if stored == 8 else 16,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=0,
        **attributes,
    )
    if samples == 3:
        item.PlanarConfiguration = planar
        pixels = np.moveaxis(pixels, 2, 0) if planar else pixels
    item.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    item["PixelData"].VR = "OB" if stored == 8 else "OW"
    return item


def flat(value, rows=8, columns=8, **options):
    return image(np.full((rows, columns), value), **options)


def films(example):
    return [Image.open(path) for path in sorted(example.FOLDER.glob("*.png"))]


def printed(example):
    """Return the pixels of the one film that there is, by column and row."""
    (film,) = films(example)
    pixels = np.asarray(film)
    film.close()
    return pixels.swapaxes(0, 1)


def test_a_film_has_its_images_in_their_places(example, scu):
    peer = scu()
    peer.session()
    film = peer.film("STANDARD\\2,2", BorderDensity="WHITE", EmptyImageDensity="BLACK")
    assert len(peer.boxes) == 4
    peer.image(image([[10, 20], [30, 40]]), 0, MagnificationType="REPLICATE")
    peer.image(flat(100, 4, 2), 3)
    reply = peer.print(classes.BasicFilmBox, film)
    (job,) = reply[0x21000500].value
    assert job.ReferencedSOPClassUID == classes.PrintJob
    (picture,) = films(example)
    assert (picture.size, picture.mode) == ((320, 400), "L")
    assert [round(dots) for dots in picture.info["dpi"]] == [DPI, DPI]
    picture.close()
    pixels = printed(example)
    # The boxes are 156 by 196 pixels; the first image is square, and so 156 by 156.
    assert pixels[1, 100] == pixels[159, 100] == 255  # the gap
    assert pixels[79, 21] == 255  # above the image
    assert pixels[79, 22] == 10
    assert pixels[2, 99] == 10
    assert pixels[157, 99] == 20
    assert pixels[2, 177] == 30
    assert pixels[157, 177] == 40
    assert pixels[79, 178] == 255
    assert (pixels[162:318, 2:198] == 0).all()  # nothing is in the second and the third
    assert (pixels[2:158, 202:398] == 0).all()
    assert (pixels[191:289, 202:398] == 100).all()  # the fourth is twice as high as wide
    assert pixels[189, 300] == pixels[290, 300] == 255


@pytest.mark.parametrize("syntax", [uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN])
@pytest.mark.parametrize(
    ("photometric", "stored", "polarity", "value", "expected"),
    [
        ("MONOCHROME2", 8, "NORMAL", 200, 200),
        ("MONOCHROME2", 8, "REVERSE", 200, 55),
        ("MONOCHROME1", 8, "NORMAL", 200, 55),
        ("MONOCHROME1", 8, "REVERSE", 200, 200),
        ("MONOCHROME2", 12, "NORMAL", 4095, 255),
        ("MONOCHROME2", 12, "NORMAL", 1606, 100),
        ("MONOCHROME1", 12, "NORMAL", 1606, 155),
        ("MONOCHROME2", 12, "NORMAL", 0x1000 | 1606, 100),  # a bit that is not stored
    ],
)
def test_gray_images_are_printed(
    example, scu, syntax, photometric, stored, polarity, value, expected
):
    peer = scu(syntax=syntax)
    peer.session()
    film = peer.film()
    peer.image(flat(value, photometric=photometric, stored=stored), Polarity=polarity)
    peer.print(classes.BasicFilmBox, film)
    assert printed(example)[160, 200] == expected


@pytest.mark.parametrize("planar", [0, 1])
def test_color_images_are_printed(example, scu, planar):
    peer = scu(COLOR)
    peer.session()
    film = peer.film("STANDARD\\1,2", BorderDensity="WHITE", EmptyImageDensity="BLACK")
    pixels = np.zeros((6, 4, 3))
    pixels[:, :2] = (200, 100, 50)
    pixels[:, 2:] = (1, 2, 3)
    item = image(pixels, "RGB", planar=planar)
    peer.image(item, MagnificationType="REPLICATE")
    peer.print(classes.BasicFilmBox, film)
    pixels = printed(example)
    assert pixels.shape == (320, 400, 3)
    assert pixels[120, 100].tolist() == [200, 100, 50]
    assert pixels[200, 100].tolist() == [1, 2, 3]
    assert pixels[1, 1].tolist() == [255, 255, 255]
    assert pixels[160, 300].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("layout", "corners"),
    [
        ("STANDARD\\2,1", [(2, 2), (162, 2)]),
        ("ROW\\1,2", [(2, 2), (2, 202), (162, 202)]),
        ("COL\\1,2", [(2, 2), (162, 2), (162, 202)]),
    ],
)
def test_film_layouts(example, scu, layout, corners):
    peer = scu()
    peer.session()
    film = peer.film(layout, BorderDensity="WHITE")
    assert len(peer.boxes) == len(corners)
    for number in range(len(corners)):
        peer.image(flat(10 * number + 10), number)
    peer.print(classes.BasicFilmBox, film)
    pixels = printed(example)
    for number, (x, y) in enumerate(corners):
        right = next((left - 4 for left, top in corners if left > x and top == y), 318)
        bottom = next((top - 4 for left, top in corners if top > y and left == x), 398)
        assert pixels[(x + right) // 2, (y + bottom) // 2] == 10 * number + 10


def test_a_film_may_lie_on_its_side_and_have_a_frame(example, scu):
    peer = scu()
    peer.session()
    film = peer.film(FilmOrientation="LANDSCAPE", FilmSizeID="14INX17IN", Trim="YES")
    peer.image(flat(100))
    peer.print(classes.BasicFilmBox, film)
    pixels = printed(example)
    assert pixels.shape == (680, 560)
    assert pixels[62, 280] == 100
    assert pixels[61, 280] == 255
    assert pixels[60, 280] == 0


@pytest.mark.parametrize(
    ("size", "attributes", "status", "left", "width"),
    [
        ((8, 8), {"MagnificationType": "NONE"}, 0, 156, 8),
        ((8, 8), {"RequestedImageSize": "25.4"}, 0, 140, 40),
        ((400, 400), {}, 0xB604, 2, 316),
        ((400, 400), {"MagnificationType": "NONE"}, 0xB60A, 2, 316),
        ((8, 8), {"RequestedImageSize": "300"}, 0xB60A, 2, 316),
        (
            (8, 8),
            {"RequestedImageSize": "300", "RequestedDecimateCropBehavior": "CROP"},
            *(0xB609, 2, 316),
        ),
        (
            (8, 8),
            {"RequestedImageSize": "300", "RequestedDecimateCropBehavior": "FAIL"},
            *(0xC603, None, 0),
        ),
    ],
)
def test_the_size_of_an_image(example, scu, size, attributes, status, left, width):
    peer = scu()
    peer.session()
    film = peer.film()
    peer.image(flat(100, *size), expected=status, **attributes)
    peer.print(classes.BasicFilmBox, film, 0 if width else 0xB603)
    row = printed(example)[:, 200]
    assert (row > 0).sum() == width
    if width:
        assert (row[left : left + width] == 100).all()


def test_images_are_cropped_at_both_sides(example, scu):
    peer = scu()
    peer.session()
    film = peer.film()
    stripes = image([[50, 100, 150, 200]] * 4)
    crop = {"RequestedImageSize": "400", "RequestedDecimateCropBehavior": "CROP"}
    peer.image(stripes, 0, 0xB609, MagnificationType="REPLICATE", **crop)
    peer.print(classes.BasicFilmBox, film)
    row = printed(example)[:, 200]
    assert (row[4:158] == 100).all()  # 630 pixels would show them all
    assert (row[162:316] == 150).all()


def test_pixels_need_not_be_square(example, scu):
    peer = scu()
    peer.session()
    film = peer.film()
    peer.image(flat(100, 8, 8, PixelAspectRatio=[1, 2]))  # twice as wide as high
    peer.print(classes.BasicFilmBox, film)
    column = printed(example)[160]
    assert (column == 100).sum() == 158


def test_annotations_are_at_the_bottom(example, scu):
    peer = scu()
    peer.session()
    film = peer.film(AnnotationDisplayFormatID="ANNOTATION2")
    peer.image(flat(100, 94, 79))
    assert len(peer.notes) == 2
    uid = peer.notes[1].ReferencedSOPInstanceUID
    note = dataset(AnnotationPosition=2, TextString="Doe^John")
    peer.set(classes.BasicAnnotationBox, uid, note)
    peer.print(classes.BasicFilmBox, film)
    pixels = printed(example)
    assert (pixels[160, 2:378] == 100).all()  # the image makes room
    assert (pixels[:, 378:390] == 0).all()  # the first line is empty
    assert (pixels[:100, 390:] > 128).sum() > 30
    assert (pixels[200:, 390:] == 0).all()
    peer.set(classes.BasicAnnotationBox, uid, dataset(AnnotationPosition=3), 0x0106)


def lut(values, bits):
    table = dataset(LUTDescriptor=[len(values), 0, bits], LUTData=np.array(values, "<u2").tobytes())
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    return dataset(PresentationLUTSequence=[table])


@pytest.mark.parametrize("syntax", [uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN])
def test_presentation_luts_of_films_and_images(example, scu, syntax):
    peer = scu(syntax=syntax)
    peer.session()
    half = peer.create(classes.PresentationLUT, lut(np.arange(256) * 128, 16))
    dense = peer.create(classes.PresentationLUT, dataset(PresentationLUTShape="LIN OD"))
    film = peer.film(
        "STANDARD\\2,1",
        ReferencedPresentationLUTSequence=reference(classes.PresentationLUT, half),
        MinDensity=20,
        MaxDensity=300,
    )
    peer.image(flat(200), 0)
    of_image = reference(classes.PresentationLUT, dense)
    peer.image(flat(128), 1, ReferencedPresentationLUTSequence=of_image)
    peer.delete(classes.PresentationLUT, half)  # the film keeps it
    peer.delete(classes.PresentationLUT, half, 0x0112)
    peer.print(classes.BasicFilmBox, film)
    pixels = printed(example)
    assert pixels[80, 200] == 100
    # A density of 1.6 shows 0.232 of the light in sRGB's gamma; 3.0 would show 0.053.
    assert pixels[240, 200] == round(255 * (10 ** (-1.395 / 2.2) - 0.053) / (1 - 0.053))


def test_film_densities(example, scu):
    peer = scu()
    peer.session()
    film = peer.film(BorderDensity="20", EmptyImageDensity="BLACK")
    peer.set(classes.BasicFilmBox, film, dataset(EmptyImageDensity="300", BorderDensity="130"))
    peer.print(classes.BasicFilmBox, film, 0xB603)
    pixels = printed(example)
    assert pixels[160, 200] == 0
    assert 60 < pixels[0, 0] < 90


def test_copies_of_a_session_are_collated(example, scu):
    peer = scu()
    session = peer.session(NumberOfCopies="3", PrintPriority="LOW")
    for gray in (50, 100):
        peer.film()
        peer.image(flat(gray))
    peer.set(classes.BasicFilmSession, session, dataset(NumberOfCopies="2"))
    peer.print(classes.BasicFilmSession, session)
    grays = []
    for film in films(example):
        grays.append(film.getpixel((160, 200)))
        film.close()
    assert grays == [50, 100, 50, 100]


def test_the_job_is_reported_on_the_association_of_the_request(example, scu):
    peer = scu()
    peer.session(PrintPriority="HIGH")
    film = peer.film()
    peer.image(flat(100))
    (job,) = peer.print(classes.BasicFilmBox, film)[0x21000500].value
    attributes = peer.get(classes.PrintJob, job.ReferencedSOPInstanceUID)
    assert peer.told == [("PrintJob", number, "PRINTER") for number in (1, 2, 3)]
    assert (attributes.ExecutionStatus, attributes.ExecutionStatusInfo) == ("DONE", "NORMAL")
    assert (attributes.PrintPriority, attributes.Originator) == ("HIGH", "SCU")
    asked = peer.get(classes.PrintJob, job.ReferencedSOPInstanceUID, [0x21000020])
    assert (asked.ExecutionStatus, len(asked)) == ("DONE", 1)
    peer.get(classes.PrintJob, "1.2.3", expected=0x0112)


def test_a_failure_is_reported_and_the_printer_comes_back(example, scu):
    example.FOLDER.write_text("not a folder")
    peer = scu()
    peer.session()
    film = peer.film()
    peer.image(flat(100))
    (job,) = peer.print(classes.BasicFilmBox, film)[0x21000500].value
    attributes = peer.get(classes.PrintJob, job.ReferencedSOPInstanceUID)
    assert attributes.ExecutionStatus == "FAILURE"
    assert peer.told == [
        ("Printer", 3, "PRINTER"),
        ("PrintJob", 1, "PRINTER"),
        ("PrintJob", 4, "PRINTER"),
    ]
    status = peer.get(classes.Printer, classes.PrinterInstance, [0x21100010, 0x21100020])
    assert (status.PrinterStatus, status.PrinterStatusInfo) == ("FAILURE", "CHECK PRINTER")
    example.FOLDER.unlink()
    peer.print(classes.BasicFilmBox, film)
    status = peer.get(classes.Printer, classes.PrinterInstance)
    assert status.PrinterStatus == "NORMAL"
    assert peer.told[0] == ("Printer", 1, "PRINTER")


def test_failure_without_print_jobs_is_in_the_response(example, scu):
    example.FOLDER.write_text("not a folder")
    peer = scu(others=())
    peer.session()
    film = peer.film()
    peer.print(classes.BasicFilmBox, film, 0x0110)
    assert peer.events.get(timeout=WAIT) == ("Printer", 3, "PRINTER")
    status = peer.get(classes.Printer, classes.PrinterInstance)
    assert status.PrinterStatus == "FAILURE"


def test_deleting_a_film_deletes_its_parts(example, scu):
    peer = scu()
    session = peer.session()
    first, boxes = peer.film(), peer.boxes
    box = boxes[0].ReferencedSOPInstanceUID
    peer.delete(classes.BasicFilmBox, first)
    peer.set(classes.BasicGrayscaleImageBox, box, dataset(ImageBoxPosition=1), 0x0112)
    peer.print(classes.BasicFilmBox, first, 0x0112)
    peer.print(classes.BasicFilmSession, session, 0xC600)
    second = peer.film()
    peer.delete(classes.BasicFilmSession, session)
    peer.delete(classes.BasicFilmBox, second, 0x0112)
    peer.session()  # there is room for another


def test_print_sessions_belong_to_their_association(example, scu):
    one, other = scu(), scu()
    one.session()
    film = one.film()
    other.print(classes.BasicFilmBox, film, 0x0112)
    other.session_uid = one.session_uid
    other.film(expected=0x0106)
    one.create(classes.BasicFilmSession, expected=0x0213)


def test_an_image_can_be_taken_back(example, scu):
    peer = scu()
    session = peer.session()
    peer.film(EmptyImageDensity="WHITE")
    peer.image(flat(100))
    peer.image(None)
    peer.print(classes.BasicFilmSession, session, 0xB602)
    assert printed(example)[160, 200] == 255


@pytest.mark.parametrize(
    "attributes",
    [
        {"layout": "SLIDE"},
        {"layout": "STANDARD\\2"},
        {"layout": "STANDARD\\0,1"},
        {"layout": "ROW\\a"},
        {"layout": "STANDARD\\100000,100000"},
        {"layout": "STANDARD\\1,200"},
        {"FilmSizeID": "POSTCARD"},
        {"FilmOrientation": "DIAGONAL"},
        {"MagnificationType": "LENS"},
        {"BorderDensity": "PINK"},
        {"AnnotationDisplayFormatID": "FOOTNOTE"},
        {"MinDensity": 300},
    ],
)
def test_impossible_films_are_refused(scu, attributes):
    peer = scu()
    peer.session()
    peer.film(expected=0x0106, **attributes)


def test_impossible_values_are_refused(scu):
    peer = scu()
    peer.create(classes.BasicFilmSession, dataset(NumberOfCopies="0"), expected=0x0106)
    peer.session()
    missing = dataset(ImageDisplayFormat="STANDARD\\1,1")
    peer.create(classes.BasicFilmBox, missing, expected=0x0120)
    film = peer.film()
    peer.set(classes.BasicFilmBox, film, dataset(ImageDisplayFormat="STANDARD\\2,2"), 0x0106)
    peer.set(classes.BasicFilmSession, film, dataset(NumberOfCopies="2"), 0x0119)
    peer.image(flat(100), Polarity="SIDEWAYS", expected=0x0106)
    short = flat(100)
    short.Rows = 100
    peer.image(short, expected=0x0106)
    peer.image(flat(100, photometric="YBR_FULL"), expected=0x0106)
    peer.image(flat(100, PixelAspectRatio=[0, 1]), expected=0x0106)
    signed = flat(100, stored=12)
    signed.PixelRepresentation = 1
    peer.image(signed, expected=0x0106)
    frames = flat(100, 8, 8, NumberOfFrames=2)
    frames.Rows = 4
    peer.image(frames, expected=0x0106)
    shape = dataset(PresentationLUTShape="SIGMOID")
    peer.create(classes.PresentationLUT, shape, expected=0x0106)
    broken = lut([1, 2, 3], 12)
    broken.PresentationLUTSequence[0].LUTDescriptor = [256, 0, 12]
    peer.create(classes.PresentationLUT, broken, expected=0x0106)
    uid = peer.create(classes.PresentationLUT, dataset(PresentationLUTShape="IDENTITY"))
    again = dataset(PresentationLUTShape="IDENTITY")
    peer.create(classes.PresentationLUT, again, uid, expected=0x0111)


def test_the_printer_and_its_configuration(scu):
    peer = scu()
    printer = peer.get(classes.Printer, classes.PrinterInstance)
    assert (printer.PrinterStatus, printer.PrinterName) == ("NORMAL", "PRINTER")
    peer.get(classes.Printer, "1.2.3", expected=0x0112)
    configuration = peer.get(
        classes.PrinterConfigurationRetrieval, classes.PrinterConfigurationRetrievalInstance
    )
    (item,) = configuration.PrinterConfigurationSequence
    assert classes.BasicColorImageBox in item.SOPClassesSupported
    assert "14INX17IN" in [medium.FilmSizeID for medium in item.MediaInstalledSequence]


def test_missing_print_extra_is_one_line():
    code = (
        "import sys; sys.modules['PIL'] = None; from pacsroute.cli import main; "
        f"main(['run', {str(EXAMPLE)!r}])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert result.returncode != 0
    assert "pip install 'pacsroute[print]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


CONFIGURATION = r"""
[[GENERAL]]
[NETWORK]
Aetitle = DCMTK
[PRINT]
Directory = spool
[DATABASE]
Directory = database
[[COMMUNICATION]]
[FILMS]
Type = PRINTER
Hostname = 127.0.0.1
Port = {port}
Aetitle = PRINTER
DisplayFormat = 1,1\2,2
FilmSizeID = 8INX10IN
MediumType = PAPER
MagnificationType = REPLICATE\CUBIC
BorderDensity = BLACK\WHITE
EmptyImageDensity = BLACK\WHITE
MaxDensity = 300
Annotation = 1\ANNOTATION
SupportsPresentationLUT = true
Supports12Bit = {deep}
SupportsImageSize = true
"""


@pytest.fixture
def spooled(tmp_path, dcmtk, server):
    """Return a function that has DCMTK make a print job of images, and print it."""

    def spool(*images, deep=True, layout=(1, 1), options=(), session=()):
        for folder in ("spool", "database"):
            (tmp_path / folder).mkdir()
        text = CONFIGURATION.format(port=server.port, deep=str(deep).lower())
        # The folders of a configuration are looked up from where the tools are run.
        text = text.replace("= spool", f"= {tmp_path}/spool")
        text = text.replace("= database", f"= {tmp_path}/database")
        configuration = tmp_path / "dcmpstat.cfg"
        configuration.write_text(text)
        common = ["-c", configuration, "-p", "FILMS"]
        made = dcmtk(
            *("dcmpsprt", *common, "--filmsize", "8INX10IN", "--layout", *layout),
            *("--magnification", "REPLICATE", *options, *images),
        )
        assert made.returncode == 0, made.stdout
        jobs = (tmp_path / "database").glob("SP_*.dcm")
        sent = dcmtk("dcmprscu", *common, *session, *jobs)
        assert sent.returncode == 0, sent.stdout
        assert "E:" not in sent.stdout

    return spool


def file_of(path, pixels):
    """Write an image as any modality has it, for DCMTK to print."""
    ds = image(pixels, stored=8)
    ds.SOPClassUID, ds.SOPInstanceUID = classes.SecondaryCaptureImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientID, ds.Modality = "1", "OT"
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    ds.file_meta = Dataset()
    ds.file_meta.TransferSyntaxUID = uids.EXPLICIT_VR_LITTLE_ENDIAN
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("polarity", ["NORMAL", "REVERSE"])
def test_dcmtk_prints(example, spooled, tmp_path, deep, polarity):
    left = file_of(tmp_path / "left.dcm", [[0, 255], [255, 0]])
    right = file_of(tmp_path / "right.dcm", [[255, 255], [0, 0]])
    spooled(
        *(left, right),
        deep=deep,
        layout=(2, 2),
        options=[
            *("--border", "WHITE", "--empty-image", "BLACK"),
            *("--img-polarity", polarity, "--annotation", "Doe^John"),
        ],
        session=["--copies", "2"],
    )
    pictures = films(example)
    assert [picture.size for picture in pictures] == [(320, 400)] * 2
    pixels = np.asarray(pictures[0]).swapaxes(0, 1)
    assert (np.asarray(pictures[1]).swapaxes(0, 1) == pixels).all()
    for picture in pictures:
        picture.close()
    black, white = (0, 255) if polarity == "NORMAL" else (255, 0)
    # The last 10 rows are the annotation's, and the boxes 156 by 191 pixels.
    assert (pixels[4:78, 22:96] == black).all()
    assert (pixels[82:156, 22:96] == white).all()
    assert (pixels[4:78, 100:174] == white).all()
    assert (pixels[82:156, 100:174] == black).all()
    assert (pixels[164:316, 22:96] == white).all()
    assert (pixels[164:316, 100:174] == black).all()
    assert (pixels[2:158, 197:388] == 0).all()
    assert (pixels[158:162] == 255)[:, :390].all()
    assert (pixels[:, 390:] < 128).any()  # it says something


def test_dcmtk_prints_a_session_in_monochrome1(example, spooled, tmp_path):
    picture = file_of(tmp_path / "one.dcm", [[0, 255]] * 2)
    spooled(picture, session=["--session-print", "--monochrome1"])
    pixels = printed(example)
    assert (pixels[4:158, 44:356] == 0).all()
    assert (pixels[162:316, 44:356] == 255).all()
