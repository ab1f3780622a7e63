"""The servers that are measured, each at its best and with the same work to do."""

import contextlib
import importlib.util
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
        """Where what a C-GET sends is."""
        return self.folder / "kept"

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
                "BENCH_DURABLE": "1" if self.name == "pacsroute, durable" else "0",
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
        port = str(self.port)
        match self.name:
            case "pacsroute" | "pacsroute, durable" | "pacsroute --workers 2":
                app = str(_APPS / "pacsroute_app.py")
                options = ["--log-level", "warning"]
                for limit in ("", "-per-host", "-per-ae"):
                    options += (f"--max-associations{limit}", "2000")
                if "--workers" in self.name:
                    options += self.name.split()[1:]
                return [sys.executable, "-m", "pacsroute", "run", app, "--port", port, *options]
            case "pynetdicom":
                return [sys.executable, str(_APPS / "pynetdicom_app.py"), port]
            case "raw sockets":
                return [sys.executable, str(_APPS / "raw.py"), port]
            case "storescp":
                return [dcmtk("storescp"), *_PDU, "-od", str(self.folder), port]
            case "storescp --fork":
                return [dcmtk("storescp"), "--fork", *_PDU, "-od", str(self.folder), port]
            case "dcmqrscp":
                config = self.folder.with_suffix(".cfg")
                config.write_text(_QRSCP.format(folder=self.folder, sink=self.sink.port))
                return [dcmtk("dcmqrscp"), "-c", str(config), port]
        raise ValueError(self.name)


def environment():
    """Return what processes run in: with compiled modules, as installed packages have them."""
    kept = dict(os.environ)
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


def installed(name):
    """Tell whether a server can be started here."""
    if name == "pynetdicom":
        return importlib.util.find_spec("pynetdicom") is not None
    if "--workers" in name:
        return importlib.util.find_spec("gunicorn") is not None
    if name.startswith(("pacsroute", "raw")):
        return True
    return dcmtk(name.split()[0]) is not None


def dcmtk(tool):
    """Return the path of a tool of DCMTK, or None; pynetdicom installs some of the same names."""
    own = Path(sys.executable).parent
    folders = [part for part in os.get_exec_path() if Path(part) != own]
    return shutil.which(tool, path=os.pathsep.join(folders))


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
