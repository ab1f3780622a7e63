"""A bucket in a server of S3's protocol that runs in this process."""

from __future__ import annotations

import contextlib
import os
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def bucket(name="bucket"):
    """Start a server with a bucket; yield the variables that lead to it, which are set."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_REGION": "us-east-1",
    }
    try:
        with mock.patch.dict(os.environ, variables):
            client = boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT"])
            client.create_bucket(Bucket=name)
            client.close()
            yield variables
    finally:
        server.stop()
