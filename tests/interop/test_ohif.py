"""OHIF, a viewer in the browser, below /viewer: it lists studies and shows their pixels."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import ROOT as CHECKOUT
from support.programs import missing, program
from support.web import CT, MR_RLE, read

from pacsroute import App, Archive, connect

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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [CT, MR_RLE])
def test_ohif_lists_a_study_and_shows_it(tmp_path, viewer, name):
    program("chromium")
    dataset, picture = read(name), tmp_path / "viewport.png"
    app = App("ARCHIVE", web_viewer=viewer)
    app.register_blueprint(Archive(tmp_path / "archive"))
    with app.serve(port=0, web_port=0) as server:
        base = f"http://127.0.0.1:{server.web_port}"
        with connect(f"{base}/dicom-web") as client:
            client.store(dataset)
        script = CHECKOUT / "tests" / "support" / "ohif.js"
        patient, study = str(dataset.PatientName).partition("^")[0], dataset.StudyInstanceUID
        done = subprocess.run(
            [program("node"), str(script), base, patient, study, str(picture)],
            env={**os.environ, "NODE_PATH": str(viewer.parents[1] / "node_modules")},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    shown = np.asarray(Image.open(picture).convert("L")).astype(float)
    middle = shown[shown.shape[0] // 4 : -shown.shape[0] // 4]
    across = middle[:, shown.shape[1] // 4 : -shown.shape[1] // 4]
    assert across.std() > 15  # an image, and no empty viewport
    assert len(np.unique(across)) > 50
