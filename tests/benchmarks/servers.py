"""The servers that are measured, each at its best and with the same work to do.

`pydcm` may be in another interpreter: the variable ``BENCH_PYDCM`` names that.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_APPS = Path(__file__).parent / "apps"
_PDU = ("-pdu", "131072")  # the largest that DCMTK's tools take

_QRSCP = """
MaxPDUSize = 131072
MaxAssociations = 16
HostTable BEGIN
sink = (SINK, 127.0.0.1, {sink})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
BENCH {folder} RW (200, 1024mb) ANY
AETable END
"""


class Server:
    """A server process: ``with Server("storescp", folder, sink_port) as server:``."""

    def __init__(self, name, folder, sink):
        self.name, self.folder, self.sink = name, Path(folder), sink
        self.port = 0
        self.process = None
        self.sent = 0  # instances, which have their numbers in their UIDs and in their pixels
        self._checked = set()

    def another(self):
        """Return one of the same kind with the same folder, that does not run yet."""
        return Server(self.name, self.folder, self.sink)

    def unchecked(self, what):
        """Tell whether something is to be checked, which is so once."""
        first = what not in self._checked
        self._checked.add(what)
        return first

    @property
    def kept(self):
        """Where what a C-GET sends is, in a folder for each study."""
        return self.folder / "kept"

    @property
    def keeps_files(self):
        """Whether what it stores is in its folder, as it came."""
        return self.name != "Orthanc"

    def __enter__(self):
        self.folder.mkdir(exist_ok=True)
        self.launch()
        self.wait_until_listening()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # storescp --fork has children
        self.process.wait()

    def launch(self):
        self.port = _free_port()
        self.process = subprocess.Popen(
            self._command(),
            env=environment()
            | {
                "TCP_NODELAY": "1",  # DCMTK at its best
                "BENCH_FOLDER": str(self.folder),
                "BENCH_SINK": str(self.sink.port) if self.sink else "",
                "BENCH_DURABLE": "1" if self.name.endswith(", durable") else "0",
                "BENCH_PDU": "0" if "without limit" in self.name else "131072",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_listening(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.001)
        raise RuntimeError(f"{self.name} did not start")

    def _command(self):
        port, folder = str(self.port), str(self.folder)
        match self.name.split(",")[0]:
            case "pacsroute" | "pacsroute --workers 2":
                app = str(_APPS / "pacsroute_app.py")
                level = "info" if "INFO" in self.name else "warning"
                options = ["--log-level", level]
                for limit in ("", "-per-host", "-per-ae"):
                    options += (f"--max-associations{limit}", "2000")
                if "--workers" in self.name:
                    options += self.name.split()[1:]
                return [sys.executable, "-m", "pacsroute", "run", app, "--port", port, *options]
            case "pynetdicom":
                return [sys.executable, str(_APPS / "pynetdicom_app.py"), port]
            case "pydcm":
                return [_pydcm(), str(_APPS / "pydcm_app.py"), port]
            case "bare server":
                return [sys.executable, str(_APPS / "bare.py"), port]
            case "raw sockets":
                return [sys.executable, str(_APPS / "raw.py"), port]
            case "storescp":
                fork = ["--fork"] if "on disk" in self.name else []
                return [dcmtk("storescp"), *fork, *_PDU, "-od", folder, port]
            case "storescp --fork":
                return [dcmtk("storescp"), "--fork", *_PDU, "-od", folder, port]
            case "dcmqrscp":
                config = self.folder.with_suffix(".cfg")
                config.write_text(_QRSCP.format(folder=self.folder, sink=self.sink.port))
                return [dcmtk("dcmqrscp"), "-c", str(config), port]
            case "Orthanc":
                path = self.folder.with_suffix(".json")
                path.write_text(json.dumps(_orthanc(self.folder, self.port)))
                return [shutil.which("Orthanc"), str(path)]
        raise ValueError(self.name)


def on_disk(name):
    """Tell whether a server's folder has to be on a disk, for what it flushes."""
    return name.endswith((", durable", ", on disk"))


def _orthanc(folder, port):
    return {
        "StorageDirectory": str(folder / "files"),
        "IndexDirectory": str(folder / "files"),
        "HttpServerEnabled": False,
        "DicomAet": "BENCH",
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomCheckModalityHost": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
    }


def _pydcm():
    """Return the interpreter that has pydcm, or None."""
    own = sys.executable if importlib.util.find_spec("pydcm") else None
    return os.environ.get("BENCH_PYDCM", own)


def environment():
    """Return what processes run in: with compiled modules, as installed packages have them."""
    kept = dict(os.environ)
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


def installed(name):
    """Tell whether a server can be started here."""
    if name.startswith("pynetdicom"):
        return importlib.util.find_spec("pynetdicom") is not None
    if name == "pydcm":
        return _pydcm() is not None
    if name == "Orthanc":
        return shutil.which(name) is not None
    if "--workers" in name:
        return importlib.util.find_spec("gunicorn") is not None
    if name.startswith(("pacsroute", "raw", "bare")):
        return True
    return dcmtk(name.split(",")[0].split()[0]) is not None


def dcmtk(tool):
    """Return the path of a tool of DCMTK, or None; pynetdicom installs some of the same names."""
    own = Path(sys.executable).parent
    folders = [part for part in os.get_exec_path() if Path(part) != own]
    return shutil.which(tool, path=os.pathsep.join(folders))


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
