"""OHIF, a viewer in the browser, below /viewer: it lists, shows, scrolls and uploads."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.archives import image
from support.places import ROOT as CHECKOUT
from support.programs import missing, program
from support.samples import FILES
from support.web import CT, MR_RLE, read

from pacsroute import App, Archive, connect, uids

OHIF = "@ohif/app@3.12.10"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pacsroute-tests"


@pytest.fixture(scope="module")
def viewer():
    """Return the folder of OHIF's build, which is fetched once, with playwright beside it."""
    folder = CACHE / OHIF.rpartition("@")[2]
    npm = program("npm")
    try:
        if not (folder / "package" / "dist" / "index.html").exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run([npm, "pack", OHIF], cwd=folder, check=True, timeout=300)
            (archive,) = folder.glob("*.tgz")
            subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True, timeout=300)
        if not (folder / "node_modules").exists():
            command = [npm, "install", "--prefix", str(folder), "playwright-core"]
            subprocess.run(command, check=True, timeout=300)
    except (subprocess.SubprocessError, OSError):
        missing("OHIF")
    return folder / "package" / "dist"


@pytest.fixture
def served(tmp_path, viewer):
    """Return an archive with the viewer, and what drives the viewer."""
    program("chromium")
    app = App("ARCHIVE", web_viewer=viewer)
    app.register_blueprint(Archive(tmp_path / "archive"))
    with app.serve(port=0, web_port=0) as server:
        yield Served(f"http://127.0.0.1:{server.web_port}", viewer.parents[1] / "node_modules")


class Served:
    """A server with the viewer.

    Parameters
    ----------
    base : str
        Its URL.
    modules : path
        Where playwright is.
    """

    def __init__(self, base, modules):
        self._base, self._modules = base, modules

    def store(self, *datasets):
        with connect(f"{self._base}/dicom-web") as client:
            for dataset in datasets:
                client.store(dataset)

    def find(self, **keys):
        with connect(f"{self._base}/dicom-web") as client:
            return list(client.find({"QueryRetrieveLevel": "STUDY"} | keys))

    def drive(self, what, *arguments):
        """Do something in the viewer."""
        script = CHECKOUT / "tests" / "support" / "ohif.js"
        done = subprocess.run(
            [program("node"), str(script), what, self._base, *map(str, arguments)],
            env={**os.environ, "NODE_PATH": str(self._modules)},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def shown(path):
    """Return the grey values of the middle of a picture."""
    grey = np.asarray(Image.open(path).convert("L")).astype(float)
    height, width = grey.shape
    half = height * 3 // 8
    rows, columns = slice(height // 2 - half, height // 2 + half), width // 2
    return grey[rows, columns - half : columns + half]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [CT, MR_RLE])
def test_ohif_lists_a_study_and_shows_it(tmp_path, served, name):
    dataset, picture = read(name), tmp_path / "viewport.png"
    served.store(dataset)
    patient = str(dataset.PatientName).partition("^")[0]
    served.drive("show", patient, dataset.StudyInstanceUID, picture)
    middle = shown(picture)
    assert middle.std() > 15  # an image, and no empty viewport
    assert len(np.unique(middle)) > 50


def corners():
    """Return four frames of noise, each with another corner that is bright."""
    frames = np.random.default_rng(1).integers(0, 60, (4, 128, 128), dtype=np.uint8)
    for number, frame in enumerate(frames):
        row, column = divmod(number, 2)
        frame[64 * row : 64 * row + 64, 64 * column : 64 * column + 64] += 180
    return frames


def grey(sop_class, pixels, number=1, **values):
    dataset = image(number, sop_class=sop_class, InstanceNumber=number, **values)
    dataset.Rows = dataset.Columns = 128
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.PixelData = pixels.tobytes()
    return dataset


def slices():
    for number, frame in enumerate(corners(), 1):
        yield grey(
            uids.sop_class("CTImageStorage", "store"),
            frame,
            number,
            ImagePositionPatient=[0, 0, number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1],
            SliceThickness=1,
            FrameOfReferenceUID="1.4",
        )


def loop():
    sop_class = uids.sop_class("UltrasoundMultiFrameImageStorage", "store")
    yield grey(sop_class, corners(), NumberOfFrames=4, Modality="US")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("images", [slices, loop])
def test_ohif_scrolls_through_instances_and_frames(tmp_path, served, images):
    datasets = list(images())
    served.store(*datasets)
    served.drive("scroll", datasets[0].StudyInstanceUID, 4, tmp_path)
    bright = []
    for number in range(4):
        middle = shown(tmp_path / f"{number}.png")
        half = len(middle) // 2
        rows = (middle[:half], middle[half:])
        means = [part.mean() for row in rows for part in (row[:, :half], row[:, half:])]
        bright.append(int(np.argmax(means)))
    assert bright in ([0, 1, 2, 3], [3, 2, 1, 0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ohif_uploads_a_file(served):
    dataset = read(CT)
    name = str(dataset.PatientName).partition("^")[0]
    served.drive("upload", FILES / CT, name)
    (study,) = served.find(StudyInstanceUID="", NumberOfStudyRelatedInstances="")
    assert study.StudyInstanceUID == dataset.StudyInstanceUID
    assert study.NumberOfStudyRelatedInstances == 1
