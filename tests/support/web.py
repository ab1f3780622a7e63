"""An archive over HTTP, and what is sent to it."""

from email import message_from_bytes
from io import BytesIO

import pydicom
from pydicom.data import get_testdata_file
from support.samples import FILES

from pacsroute.instances import part10

CT, MR_RLE, BIG_ENDIAN = "CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"
ROOT = "/dicom-web"


def content(name):
    """Return the bytes of one of pydicom's files."""
    return (FILES / name).read_bytes()


def read(name):
    """Return the data set of one of pydicom's files."""
    return pydicom.dcmread(get_testdata_file(name))


def path_of(dataset):
    """Return the path of an instance."""
    study, series = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    return f"{ROOT}/studies/{study}/series/{series}/instances/{dataset.SOPInstanceUID}"


def multipart(*parts, kind="application/dicom", boundary="b"):
    """Return a body and its media type; a part is bytes, or its headers and bytes."""
    body = b""
    for part in parts:
        headers, data = part if isinstance(part, tuple) else ({"Content-Type": kind}, part)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body += f"--{boundary}\r\n{head}\r\n".encode() + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="{kind}"; boundary={boundary}'


def parts(response):
    """Return the parts of a response as pairs of media type and bytes."""
    return [(head["Content-Type"], data) for head, data in whole_parts(response)]


def whole_parts(response):
    """Return the parts of a response as pairs of headers and bytes."""
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + response.data)
    boundary = message.get_boundary().encode()
    assert response.data.endswith(b"--" + boundary + b"--\r\n")
    found = []
    for part in response.data.split(b"\r\n--" + boundary)[1:-1]:
        headers, _, data = part.lstrip(b"\r\n").partition(b"\r\n\r\n")
        found.append((message_from_bytes(headers + b"\r\n\r\n"), data))
    return found


def store(client, *names):
    """Store some of pydicom's files; return the response."""
    body, kind = multipart(*map(content, names))
    return client.post(f"{ROOT}/studies", data=body, content_type=kind)


def data_set(data):
    """Return the bytes behind the File Meta Information of a file."""
    file = BytesIO(data)
    part10.head_of(file)
    return file.read()
