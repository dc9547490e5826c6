"""A real S3 server for the tests that need one (docs/s3.md says how to name it)."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError
from s3fs import S3FileSystem

from mer_ray.data.storage import Store

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[None]:
    """The server that the environment names, or one started from the Swift venv that it names."""
    endpoint, swift = os.environ.get("MER_RAY_TEST_S3"), os.environ.get("MER_RAY_TEST_SWIFT")
    if not endpoint and not swift:
        pytest.skip("needs an S3 server: set MER_RAY_TEST_S3=URL with its AWS_* keys, or MER_RAY_TEST_SWIFT=VENV")
    folder = tmp_path_factory.mktemp("swift")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_DEFAULT_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
        if not endpoint:
            port = free_ports()
            endpoint = f"http://127.0.0.1:{port}"
            environment.setenv("AWS_ACCESS_KEY_ID", "mer:ray")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "secretkey")
            subprocess.run(["bash", str(TESTS / "s3_server.sh"), swift, str(folder), str(port)], check=True)
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        S3FileSystem.clear_instance_cache()  # those of another module know its server, which is gone
        try:
            yield
        finally:
            for pid in folder.glob("run/*.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def bucket(server) -> Iterator[Store]:
    """A bucket of its own, gone afterwards."""
    store = Store(f"s3://mer-ray-test-{uuid.uuid4().hex[:8]}")
    deadline = time.time() + 180
    while True:
        try:
            store.filesystem.mkdir(store.root)
            break
        except (OSError, BotoCoreError):  # it is still starting
            assert time.time() < deadline, "the S3 server takes no bucket"
            time.sleep(0.5)
    yield store
    store.filesystem.rm(store.root, recursive=True)


@pytest.fixture
def store(bucket) -> Store:
    return bucket / uuid.uuid4().hex[:8]


def free_ports(first: int = 18100) -> int:
    """A port from ``first`` on that is free with the three above it; Ray's head wants one above those of its workers.

    These are 10002 to 19999.
    """
    for port in range(first, first + 900, 10):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for wanted in range(port, port + 4):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", wanted))
            return port
    raise AssertionError("no free ports")
