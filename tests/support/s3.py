"""An S3 server (moto) in a process of its own on the loopback interface."""

import re
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from histodiff.cluster.environment import environment
from histodiff.storage import StoragePath, storage_path
from histodiff.storage.s3 import LiteralS3

_VARIABLES = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of a running server; ``AWS_*`` point to it for the whole session."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        endpoint = _announced(server)
        # a full pipe would block the server: its log is read to the end, and dropped
        drain = threading.Thread(target=deque, args=(server.stderr, 0), daemon=True)
        drain.start()
        with aws_environment(endpoint, key="testing", secret="testing"):
            yield endpoint
        server.terminate()
        drain.join()
        server.stderr.close()


@contextmanager
def aws_environment(endpoint: str, *, key: str, secret: str) -> Iterator[None]:
    """``AWS_*`` point to a server for the time of the block."""
    values = {
        **_VARIABLES,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": endpoint,
    }
    with environment(values):
        LiteralS3.clear_instance_cache()
        try:
            yield
        finally:
            LiteralS3.clear_instance_cache()


@pytest.fixture
def s3_root(s3_endpoint: str) -> StoragePath:
    """An empty bucket."""
    del s3_endpoint
    root = storage_path(f"s3://histodiff-{uuid.uuid4().hex}/runs")
    root.fs.mkdir(root.path.split("/", 1)[0])
    return root


def _announced(server: "subprocess.Popen[str]") -> str:
    """The address that the server prints when it listens."""
    for line in server.stderr:
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", line)
        if found:
            return found.group(1)
    raise RuntimeError("the S3 server did not start")
