"""A film printer in one file: it renders each film to a PNG (PS3.4 §H).

    pip install 'pacsroute[print]'
    pacsroute run examples/printer.py

Films are written to the folder ``films``, or to the one that the environment variable FILMS names,
a file for each copy. DPI sets the dots per inch of film; the default is 300. A film is complete
when the request to print it is answered. A peer that negotiated the Print Job class gets
events for it; another peer gets a failure as the response.
"""

import io
import logging
import os
import weakref
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import generate_uid

from pacsroute import App, Failure, SetupError, uids

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont
except ImportError:
    raise SetupError("it needs numpy and Pillow: pip install 'pacsroute[print]'") from None

FOLDER = Path(os.environ.get("FILMS", "films"))
DPI = int(os.environ.get("DPI", "300"))
GAP = 0.05  # inches around an image box
LINE = 0.25  # inches that an annotation takes, at the bottom of the film
MAX_COPIES, MAX_FILMS, MAX_BOXES = 100, 100, 200

SIZES = {  # in inches
    **{"8INX10IN": (8, 10), "8_5INX11IN": (8.5, 11), "10INX12IN": (10, 12), "10INX14IN": (10, 14)},
    **{"11INX14IN": (11, 14), "11INX17IN": (11, 17), "14INX14IN": (14, 14), "14INX17IN": (14, 17)},
    **{"24CMX24CM": (9.45, 9.45), "24CMX30CM": (9.45, 11.81), "A4": (8.27, 11.69)},
    "A3": (11.69, 16.54),
}
RESAMPLING = {
    "REPLICATE": Image.Resampling.NEAREST,
    "BILINEAR": Image.Resampling.BILINEAR,
    "CUBIC": Image.Resampling.BICUBIC,
    "NONE": Image.Resampling.BILINEAR,  # for what is too large
}
ANNOTATIONS = {"ANNOTATION": 1, "ANNOTATION2": 2, "ANNOTATION3": 3}  # formats, and their lines

SESSION, GRAY_BOX, COLOR_BOX, ANNOTATION_BOX, LUT, JOB, PRINTER = (
    uids.sop_class(name, "n_get")
    for name in (
        *("FilmSession", "GrayscaleImageBox", "ColorImageBox", "AnnotationBox"),
        *("PresentationLUT", "PrintJob", "Printer"),
    )
)
COLOR = uids.sop_class("BasicColorPrintManagementMeta", "n_get")
JOB_SEQUENCE = "ReferencedPrintJobSequencePullStoredPrint"  # pydicom's name for (2100,0500)

INVALID_VALUE, PROCESSING_FAILURE, DUPLICATE = 0x0106, 0x0110, 0x0111
NO_SUCH_INSTANCE, CONFLICT, MISSING, NO_ROOM = 0x0112, 0x0119, 0x0120, 0x0213
EMPTY_SESSION, EMPTY_FILM, NO_FILMS = 0xB602, 0xB603, 0xC600
DEMAGNIFIED, CROPPED, DECIMATED, TOO_LARGE = 0xB604, 0xB609, 0xB60A, 0xC603

logger = logging.getLogger("pacsroute")
app = App("PRINTER")
app.state.printer = {"PrinterStatus": "NORMAL", "PrinterStatusInfo": "NORMAL"}


# ---------------------------------------------------------------- what a peer has created


@dataclass(eq=False)
class Thing:
    """A SOP instance, what it is a part of, and what it consists of."""

    sop_class: str
    uid: str
    attributes: Dataset
    whole: "Thing | None" = None
    parts: "list[Thing]" = field(default_factory=list)
    lut: "Thing | None" = None  # the presentation LUT of a film or of an image

    @property
    def reference(self):
        return filled(ReferencedSOPClassUID=self.sop_class, ReferencedSOPInstanceUID=self.uid)


@dataclass(eq=False)
class Film(Thing):
    areas: "list[tuple[int, int, int, int]]" = field(default_factory=list)  # of images, in pixels


@dataclass(eq=False)
class ImageBox(Thing):
    image: Dataset | None = None
    pixels: "np.ndarray | None" = None


# By association: what is created lives no longer than that (PS3.4 §H.4.1.2.1.3).
created = weakref.WeakKeyDictionary()


def add(request, thing):
    things = created.setdefault(request.association, {})
    if thing.uid in things:
        raise Failure(DUPLICATE, "it is there already")
    things[thing.uid] = thing
    if thing.whole is not None:
        thing.whole.parts.append(thing)
    return thing


def remove(request, thing):
    for part in list(thing.parts):
        remove(request, part)
    if thing.whole is not None:
        thing.whole.parts.remove(thing)
    del created[request.association][thing.uid]


def find(request):
    """Return what a request is about."""
    thing = created.get(request.association, {}).get(request.sop_instance)
    if thing is None:
        raise Failure(NO_SUCH_INSTANCE, "this association has not created it, or deleted it")
    if thing.sop_class != request.sop_class:
        raise Failure(CONFLICT, f"it is a {uids.name(thing.sop_class)}")
    return thing


def referred(request, attributes, keyword, sop_class):
    """Return what the item of a sequence refers to; None without an item."""
    for item in attributes.get(keyword) or ():
        uid = item.get("ReferencedSOPInstanceUID")
        thing = created.get(request.association, {}).get(uid)
        if thing is None or thing.sop_class != sop_class:
            raise Failure(INVALID_VALUE, f"{keyword}: no such UID")
        return thing
    return None


def filled(*datasets, **defaults):
    """Return attributes: the last of each, and defaults for what has no value."""
    attributes = Dataset()
    for dataset in datasets:
        attributes.update(dataset)
    for keyword, value in defaults.items():
        if attributes.get(keyword) in (None, ""):
            setattr(attributes, keyword, value)
    return attributes


def check(attributes, keyword, known):
    if attributes.get(keyword) not in known:
        raise Failure(INVALID_VALUE, f"{keyword} is not of {', '.join(map(str, known))}")


# ---------------------------------------------------------------- sessions, films, boxes


@app.n_create("FilmSession")
def create_session(request):
    if any(thing.sop_class == SESSION for thing in created.get(request.association, {}).values()):
        raise Failure(NO_ROOM, "an association has one film session at a time")
    attributes = session_attributes(request.attribute_list)
    add(request, Thing(request.sop_class, request.sop_instance, attributes))
    return attributes


@app.n_set("FilmSession")
def set_session(request):
    session = find(request)
    session.attributes = session_attributes(session.attributes, request.modification_list)
    return session.attributes


def session_attributes(*datasets):
    attributes = filled(
        *datasets,
        NumberOfCopies=1,
        PrintPriority="MED",
        MediumType="PAPER",
        FilmDestination="PROCESSOR",
    )
    if not 1 <= attributes.NumberOfCopies <= MAX_COPIES:
        raise Failure(INVALID_VALUE, f"NumberOfCopies is 1 to {MAX_COPIES}")
    return attributes


@app.n_create("FilmBox")
def create_film(request):
    attributes = film_attributes(request.attribute_list)
    session = referred(request, attributes, "ReferencedFilmSessionSequence", SESSION)
    if session is None:
        raise Failure(MISSING, "ReferencedFilmSessionSequence is missing")
    if len(session.parts) >= MAX_FILMS:
        raise Failure(NO_ROOM, f"a session has {MAX_FILMS} films at most")
    lut = referred(request, attributes, "ReferencedPresentationLUTSequence", LUT)
    lines = 0
    if attributes.get("AnnotationDisplayFormatID"):
        check(attributes, "AnnotationDisplayFormatID", ANNOTATIONS)
        lines = ANNOTATIONS[attributes.AnnotationDisplayFormatID]
    areas = layout(attributes, lines)
    film = Film(request.sop_class, request.sop_instance, attributes, session, [], lut, areas)
    add(request, film)
    of_images = COLOR_BOX if request.abstract_syntax == COLOR else GRAY_BOX
    for number in range(1, len(areas) + 1):
        position = filled(ImageBoxPosition=number)
        add(request, ImageBox(of_images, generate_uid(prefix=None), position, film))
    for number in range(1, lines + 1):
        position = filled(AnnotationPosition=number)
        add(request, Thing(ANNOTATION_BOX, generate_uid(prefix=None), position, film))
    images, notes = film.parts[: len(areas)], film.parts[len(areas) :]
    attributes.ReferencedImageBoxSequence = [box.reference for box in images]
    if notes:
        attributes.ReferencedBasicAnnotationBoxSequence = [note.reference for note in notes]
    return attributes


@app.n_set("FilmBox")
def set_film(request):
    film, changes = find(request), request.modification_list
    for keyword in ("ImageDisplayFormat", "FilmOrientation", "FilmSizeID"):
        if changes.get(keyword, film.attributes[keyword].value) != film.attributes[keyword].value:
            raise Failure(INVALID_VALUE, f"{keyword}: the image boxes are there already")
    attributes = film_attributes(film.attributes, changes)
    film.lut = referred(request, attributes, "ReferencedPresentationLUTSequence", LUT)
    film.attributes = attributes
    return attributes


def film_attributes(*datasets):
    attributes = filled(
        *datasets,
        FilmOrientation="PORTRAIT",
        FilmSizeID="14INX17IN",
        MagnificationType="CUBIC",
        BorderDensity="BLACK",
        EmptyImageDensity="BLACK",
        MinDensity=20,
        MaxDensity=300,
        Trim="NO",
    )
    check(attributes, "FilmOrientation", ("PORTRAIT", "LANDSCAPE"))
    check(attributes, "FilmSizeID", SIZES)
    check(attributes, "MagnificationType", RESAMPLING)
    check(attributes, "Trim", ("YES", "NO"))
    if not attributes.MinDensity < attributes.MaxDensity:
        raise Failure(INVALID_VALUE, "MinDensity is below MaxDensity")
    for keyword in ("BorderDensity", "EmptyImageDensity"):
        area_gray(attributes, keyword)
    return attributes


def layout(attributes, lines):
    """Return where an image display format has its image boxes, by position (PS3.3 §C.13.3)."""
    kind, _, numbers = str(attributes.get("ImageDisplayFormat", "")).partition("\\")
    try:
        counts = [int(number) for number in numbers.split(",")]
    except ValueError:
        counts = []
    if kind == "STANDARD" and len(counts) == 2:
        columns, rows = counts
        counts = [columns] * min(rows, MAX_BOXES)
    elif kind not in ("ROW", "COL"):
        counts = []
    if not counts or min(counts) < 1 or sum(counts) > MAX_BOXES:
        raise Failure(INVALID_VALUE, r"ImageDisplayFormat is not STANDARD\C,R, ROW\… or COL\…")
    width, height = page_size(attributes)
    height -= round(lines * LINE * DPI)
    across, down = (height, width) if kind == "COL" else (width, height)
    gap = round(GAP * DPI)
    areas = []
    for row, columns in enumerate(counts):
        top, bottom = row * down // len(counts) + gap, (row + 1) * down // len(counts) - gap
        for column in range(columns):
            left, right = column * across // columns + gap, (column + 1) * across // columns - gap
            if right <= left or bottom <= top:
                raise Failure(INVALID_VALUE, "ImageDisplayFormat: the image boxes are too small")
            area = (left, top, right, bottom)
            areas.append((top, left, bottom, right) if kind == "COL" else area)
    return areas


def page_size(attributes):
    width, height = (round(inches * DPI) for inches in SIZES[attributes.FilmSizeID])
    return (height, width) if attributes.FilmOrientation == "LANDSCAPE" else (width, height)


@app.n_set("GrayscaleImageBox")
@app.n_set("ColorImageBox")
def set_image(request):
    box = find(request)
    attributes = filled(box.attributes, request.modification_list, Polarity="NORMAL")
    check(attributes, "Polarity", ("NORMAL", "REVERSE"))
    check(attributes, "ImageBoxPosition", range(1, len(box.whole.areas) + 1))
    if attributes.get("MagnificationType"):
        check(attributes, "MagnificationType", RESAMPLING)
    lut = referred(request, attributes, "ReferencedPresentationLUTSequence", LUT)
    changed = replace(box, attributes=attributes, lut=lut)
    for keyword in ("BasicGrayscaleImageSequence", "BasicColorImageSequence"):
        if keyword in attributes:
            images = attributes[keyword].value
            changed.image = images[0] if images else None  # none: the box stays empty
            changed.pixels = read_pixels(images[0], request.transfer_syntax) if images else None
            del attributes[keyword]
    status = 0 if changed.pixels is None else size_of(changed)[1]
    vars(box).update(vars(changed))
    return status


def read_pixels(image, transfer_syntax):
    check(image, "PhotometricInterpretation", ("MONOCHROME1", "MONOCHROME2", "RGB"))
    check(image, "BitsStored", range(1, 17))
    check(image, "PixelRepresentation", (0,))
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = transfer_syntax
    try:
        pixels = image.pixel_array
        if pixels.shape[:2] != (image.Rows, image.Columns):
            raise ValueError("more than one frame")
        if min(image.get("PixelAspectRatio") or (1, 1)) < 1:
            raise ValueError("a pixel aspect ratio below 1")
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        logger.warning("an image cannot be read: %s", error)
        raise Failure(INVALID_VALUE, "the image's pixels do not fit their description") from None
    del image.PixelData
    return pixels & ((1 << image.BitsStored) - 1)


@app.n_set("AnnotationBox")
def set_annotation(request):
    note = find(request)
    attributes = filled(note.attributes, request.modification_list)
    check(attributes, "AnnotationPosition", range(1, lines_of(note.whole) + 1))
    note.attributes = attributes


def lines_of(film):
    return sum(part.sop_class == ANNOTATION_BOX for part in film.parts)


@app.n_create("PresentationLUT")
def create_lut(request):
    attributes = request.attribute_list
    if attributes.get("PresentationLUTSequence"):
        table_of(attributes)
    else:
        check(attributes, "PresentationLUTShape", ("IDENTITY", "LIN OD"))
    add(request, Thing(request.sop_class, request.sop_instance, attributes))
    return attributes


@app.n_delete("FilmSession")
@app.n_delete("FilmBox")
@app.n_delete("PresentationLUT")  # the films that refer to it keep it
def delete(request):
    remove(request, find(request))


# ---------------------------------------------------------------- from boxes to a picture


def render(film):
    """Return the film as a picture."""
    attributes = film.attributes
    color = any(part.sop_class == COLOR_BOX for part in film.parts)
    border = area_gray(attributes, "BorderDensity")
    page = Image.new("RGB" if color else "L", page_size(attributes), ink(border, color))
    draw = ImageDraw.Draw(page)
    visible = ink(0 if border > 127 else 255, color)
    for part in film.parts:
        if part.sop_class == ANNOTATION_BOX:
            annotate(draw, part, visible)
            continue
        left, top, right, bottom = area(part)
        if part.pixels is None:
            gray = ink(area_gray(attributes, "EmptyImageDensity"), color)
            draw.rectangle((left, top, right - 1, bottom - 1), gray)
            continue
        picture = scaled(part)
        left += (right - left - picture.width) // 2
        top += (bottom - top - picture.height) // 2
        page.paste(picture, (left, top))
        if attributes.Trim == "YES":
            frame = (left - 1, top - 1, left + picture.width, top + picture.height)
            draw.rectangle(frame, outline=visible)
    return page


def area(box):
    return box.whole.areas[box.attributes.ImageBoxPosition - 1]


def ink(gray, color):
    return (gray, gray, gray) if color else gray


def annotate(draw, note, fill):
    line = lines_of(note.whole) - note.attributes.AnnotationPosition + 1  # from below
    top = draw.im.size[1] - line * LINE * DPI
    font = ImageFont.load_default(LINE * DPI * 0.7)
    text = str(note.attributes.get("TextString") or "")
    draw.text((GAP * DPI, top), text, fill, font)


def size_of(box):
    """Return how large an image would be, in pixels of the film, and the status that this has."""
    attributes = box.attributes
    left, top, right, bottom = area(box)
    rows, columns = box.pixels.shape[:2]
    down, across = box.image.get("PixelAspectRatio") or (1, 1)
    height = rows * down / across
    fitting = min((right - left) / columns, (bottom - top) / height)
    scale, status = fitting, 0
    if attributes.get("RequestedImageSize"):
        scale = float(attributes.RequestedImageSize) / 25.4 * DPI / columns  # it is in mm
    elif magnification(box) == "NONE":
        scale = 1.0
    if scale > fitting:
        behavior = attributes.get("RequestedDecimateCropBehavior") or "DECIMATE"
        if behavior == "FAIL":
            raise Failure(TOO_LARGE)
        status = CROPPED if behavior == "CROP" else DECIMATED
        scale = scale if behavior == "CROP" else fitting
    elif scale < 1:
        status = DEMAGNIFIED
    return (max(1, round(columns * scale)), max(1, round(height * scale))), status


def magnification(box):
    return box.attributes.get("MagnificationType") or box.whole.attributes.MagnificationType


def scaled(box):
    """Return the image of a box as it is printed, or its middle if it is cropped."""
    left, top, right, bottom = area(box)
    size, _ = size_of(box)
    width, height = min(size[0], right - left), min(size[1], bottom - top)
    picture = Image.fromarray(grays(box)[box.pixels])
    x = picture.width * (1 - width / size[0]) / 2
    y = picture.height * (1 - height / size[1]) / 2
    middle = (x, y, picture.width - x, picture.height - y)
    return picture.resize((width, height), RESAMPLING[magnification(box)], middle)


def grays(box):
    """Return what each value of a pixel is printed as, 0 (black) to 255."""
    levels = np.linspace(0.0, 1.0, 1 << box.image.BitsStored)
    if box.image.PhotometricInterpretation == "MONOCHROME1":
        levels = levels[::-1]
    if box.attributes.Polarity == "REVERSE":
        levels = levels[::-1]
    lut = box.lut or box.whole.lut
    if lut is not None and box.sop_class == GRAY_BOX:
        levels = presented(levels, lut.attributes, box.whole.attributes)
    return np.round(levels * 255).astype(np.uint8)


def presented(levels, lut, film):
    """Return gray levels after a presentation LUT (PS3.3 §C.11.4)."""
    if lut.get("PresentationLUTSequence"):
        values = table_of(lut)
        return np.interp(levels, np.linspace(0.0, 1.0, len(values)), values)
    if lut.PresentationLUTShape == "LIN OD":
        least, most = film.MinDensity, film.MaxDensity
        return lightness(most - levels * (most - least), least, most)
    return levels


def table_of(lut):
    """Return the entries of a presentation LUT, from 0 to 1."""
    (table,) = lut.PresentationLUTSequence
    values, descriptor = table.get("LUTData", b""), table.get("LUTDescriptor")
    if isinstance(values, bytes):
        values = np.frombuffer(values, "<u2")
    if not descriptor or len(descriptor) != 3 or len(values) != (descriptor[0] or 65_536):
        raise Failure(INVALID_VALUE, "LUTData does not fit its LUTDescriptor")
    return np.minimum(np.asarray(values) / ((1 << descriptor[2]) - 1), 1.0)


def lightness(density, least, most):
    """Return how light a density looks, 0 to 1, of those that the film has, in hundredths."""
    darkest = 10 ** ((least - most) / 220)  # light as 10 to the -density, shown at a gamma of 2.2
    return np.clip((10 ** ((least - density) / 220) - darkest) / (1 - darkest), 0, 1)


def area_gray(attributes, keyword):
    """Return the gray of a density: BLACK, WHITE, or hundredths of optical density."""
    value = str(attributes.get(keyword))
    if value in ("BLACK", "WHITE"):
        return 0 if value == "BLACK" else 255
    if not value.isdecimal():
        raise Failure(INVALID_VALUE, f"{keyword} is BLACK, WHITE or a number")
    return round(255 * float(lightness(int(value), attributes.MinDensity, attributes.MaxDensity)))


# ---------------------------------------------------------------- printing, and the printer


@app.n_action("FilmSession", action_type=1)
def print_session(request):
    session = find(request)
    if not session.parts:
        raise Failure(NO_FILMS)
    return print_films(request, session, session.parts, EMPTY_SESSION)


@app.n_action("FilmBox", action_type=1)
def print_film(request):
    film = find(request)
    return print_films(request, film.whole, [film], EMPTY_FILM)


def print_films(request, session, films, empty):
    """Print films; answer with the job that this was, and report how it went."""
    now = datetime.now()
    job = Thing(JOB, generate_uid(prefix=None), Dataset())
    job.attributes = filled(
        PrintPriority=session.attributes.PrintPriority,
        CreationDate=f"{now:%Y%m%d}",
        CreationTime=f"{now:%H%M%S}",
        PrinterName=app.ae_title,
        Originator=request.calling_ae,
    )
    try:
        write(films, session.attributes.NumberOfCopies, f"{now:%Y%m%d-%H%M%S}-{job.uid}")
        report_printer(request, 1, "NORMAL", "NORMAL")
        steps = [(1, "PENDING", "QUEUED"), (2, "PRINTING", "NORMAL"), (3, "DONE", "NORMAL")]
    except OSError as error:
        logger.error("%s cannot be written to: %s", FOLDER, error)
        report_printer(request, 3, "FAILURE", "CHECK PRINTER")
        contexts = request.association.contexts.values()
        if not any(context.abstract_syntax == JOB for context in contexts):
            raise Failure(PROCESSING_FAILURE, "the film cannot be written") from None
        steps = [(1, "PENDING", "QUEUED"), (4, "FAILURE", "UNKNOWN")]
    for event_type, status, info in steps:
        job.attributes.ExecutionStatus, job.attributes.ExecutionStatusInfo = status, info
        event = {"ExecutionStatusInfo": info, "PrinterName": app.ae_title}
        request.report(event_type, event, sop_class=JOB, sop_instance=job.uid)
    add(request, job)  # kept beyond its end (§H.4.5.2.1.2): some peers only ask for it, later
    pages = [
        any(getattr(part, "pixels", None) is not None for part in film.parts) for film in films
    ]
    return (0 if all(pages) else empty), {JOB_SEQUENCE: [job.reference]}


def write(films, copies, name):
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, film in enumerate(films, 1):
        png = io.BytesIO()
        render(film).save(png, "PNG", dpi=(DPI, DPI))
        for copy in range(1, copies + 1):
            path = FOLDER / f"{name}-{copy:03}-{number:03}.png"  # in order of their names: collated
            path.with_suffix(".part").write_bytes(png.getbuffer())
            path.with_suffix(".part").replace(path)


def report_printer(request, event_type, status, info):
    """Tell of a change of the printer's status."""
    if app.state.printer["PrinterStatus"] != status:
        app.state.printer = {"PrinterStatus": status, "PrinterStatusInfo": info}
        event = {"PrinterStatusInfo": info, "PrinterName": app.ae_title}
        printer = uids.sop_instance("PrinterInstance")
        request.report(event_type, event, sop_class=PRINTER, sop_instance=printer)


@app.n_get("PrintJob")
def job(request):
    return find(request).attributes


def check_well_known(request, name):
    if request.sop_instance != uids.sop_instance(name):
        raise Failure(NO_SUCH_INSTANCE, "not the well-known SOP instance")


@app.n_get("Printer")
def printer(request):
    check_well_known(request, "PrinterInstance")
    names = {"PrinterName": app.ae_title, "Manufacturer": "pacsroute", "SoftwareVersions": "1"}
    return app.state.printer | names | {"ManufacturerModelName": "PNG"}


@app.n_get("PrinterConfiguration")
def configuration(request):
    check_well_known(request, "PrinterConfigurationRetrievalInstance")
    return {
        "PrinterConfigurationSequence": [
            {
                "SOPClassesSupported": sorted({route.sop_class for route in app.routes}),
                "MemoryBitDepth": 16,
                "PrintingBitDepth": 8,
                "MediaInstalledSequence": [
                    {"ItemNumber": number, "MediumType": "PAPER", "FilmSizeID": size}
                    for number, size in enumerate(SIZES, 1)
                ],
                "DefaultPrinterResolutionID": "STANDARD",
                "DefaultMagnificationType": "CUBIC",
                "OtherMagnificationTypesAvailable": [
                    name for name in RESAMPLING if name != "CUBIC"
                ],
                "MaximumCollatedFilms": MAX_FILMS,
                "PrinterName": app.ae_title,
            }
        ]
    }
