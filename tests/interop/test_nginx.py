"""nginx before the port for HTTP, with the configuration of the deployment guide."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from support.names import WAIT
from support.places import GUIDES
from support.programs import program
from support.web import CT, ROOT, content

from pacsroute import App, Archive

pytestmark = pytest.mark.slow

AROUND = """
daemon off;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """Return the URL of an archive behind nginx."""
    nginx, folder = program("nginx"), tmp_path_factory.mktemp("nginx")
    app = App("ARCHIVE", web_trust_proxy=1)
    app.register_blueprint(Archive(folder / "archive"))

    @app.authenticate
    def who(identity, association):
        return "doe" if identity and identity.proves("doe", "secret") else None

    (location,) = re.findall(
        r"```nginx\n(.*?)```", (GUIDES / "deployment.md").read_text(), re.DOTALL
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with app.serve(port=0, web_port=0) as server:
        location = location.replace("8042", str(server.web_port))
        (folder / "nginx.conf").write_text(AROUND.format(port=port, location=location))
        with subprocess.Popen(
            [nginx, "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.DEVNULL
        ) as process:
            try:
                deadline = time.monotonic() + WAIT
                while time.monotonic() < deadline and process.poll() is None:
                    try:
                        socket.create_connection(("127.0.0.1", port), timeout=WAIT).close()
                        break
                    except OSError:
                        time.sleep(0.02)
                yield f"http://127.0.0.1:{port}{ROOT}"
            finally:
                process.terminate()


def ask(url, data=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Authorization", "Basic ZG9lOnNlY3JldA==")
    with urllib.request.urlopen(urllib.request.Request(url, data, named), timeout=WAIT) as response:
        return response.read()


def test_instances_go_and_come_back_and_urls_are_the_proxys(proxied):
    stored = json.loads(ask(f"{proxied}/studies", content(CT), Content_Type="application/dicom"))
    (one,) = stored["00081199"]["Value"]
    (url,) = one["00081190"]["Value"]
    assert url.startswith(f"{proxied}/studies/")
    chunks = iter([content(CT)[:1000], content(CT)[1000:]])
    again = json.loads(ask(f"{proxied}/studies", chunks, Content_Type="application/dicom"))
    assert again == stored
    data = ask(url, Accept="application/dicom")
    assert content(CT)[-1000:] in data
    (row,) = json.loads(ask(f"{proxied}/studies"))
    assert row["00081190"]["Value"] == stored["00081190"]["Value"]


def test_nobody_is_local_behind_a_proxy(proxied):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{proxied}/studies", Authorization="Basic ZG9lOndyb25n")
    assert refused.value.code == 403
    refused.value.close()
