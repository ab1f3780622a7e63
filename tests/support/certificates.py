"""Certificates of a hospital and of a stranger, and what a test asks of a server that uses them."""

import contextlib
import datetime
import ssl

import trustme
from support.names import WAIT

import pacsroute
from pacsroute.tls import TLS

LOCALHOST = "127.0.0.1"


class Made:
    """A certificate and its key as files."""

    def __init__(self, folder, name, leaf):
        self.leaf = leaf
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self.write(leaf)

    def write(self, leaf):
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        self.certificate.write_bytes(chain)
        self.key.write_bytes(leaf.private_key_pem.bytes())

    @property
    def files(self):
        return self.certificate, self.key


class PKI:
    """A hospital's CA with what it signed, and somebody else's."""

    def __init__(self, folder):
        self.folder = folder
        self.hospital, self.stranger = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other_ca.pem"
        self.hospital.cert_pem.write_to_path(self.ca)
        self.stranger.cert_pem.write_to_path(self.other_ca)
        past = datetime.datetime(2020, 1, 1)
        self.server = self.made("server", "pacs.example", common_name="PACS")
        self.client = self.made("client", "ct1.example", common_name="CT1")
        self.foreign = self.made("foreign", "ct1.example", ca=self.stranger)
        self.expired = self.made("expired", "ct2.example", not_before=past, not_after=past)

    def made(self, name, *identities, ca=None, **options):
        # DCMTK at its defaults speaks with RSA only.
        options["key_type"] = trustme.KeyType.RSA
        return Made(self.folder, name, (ca or self.hospital).issue_cert(*identities, **options))

    @property
    def serving(self):
        """The settings of a server with a certificate."""
        return {"tls_certificate": self.server.certificate, "tls_key": self.server.key}

    def trusting(self, who=None, **options):
        """What a client speaks TLS with that trusts the hospital."""
        return TLS(*(who.files if who else ()), ca=self.ca, **options)


def secured(server, tls, **options):
    return pacsroute.connect(LOCALHOST, server.tls_port, tls=tls, **options)


def echoes(server, tls):
    with secured(server, tls) as client:
        return client.echo().code == 0


def gone(sock):
    """Tell whether the other side closes the connection without a word."""
    sock.settimeout(WAIT)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def logged(caplog, text, server=None):
    """Return what was logged with a text in it, once the server, if given, has stopped."""
    if server is not None:
        server.stop()
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def hello(context):
    """Return a ClientHello."""
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="pacs.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()
