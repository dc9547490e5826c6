"""A real S3 server for the tests that need one (docs/s3.md says how to name it), and a small disk."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError
from s3_proxy import Proxy
from s3fs import S3FileSystem

from mer_ray.data.storage import Store

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Path | None]:
    """The server that the environment names, or one started from the Swift venv that it names, in this folder."""
    endpoint, swift = os.environ.get("MER_RAY_TEST_S3"), os.environ.get("MER_RAY_TEST_SWIFT")
    if not endpoint and not swift:
        pytest.skip("needs an S3 server: set MER_RAY_TEST_S3=URL with its AWS_* keys, or MER_RAY_TEST_SWIFT=VENV")
    folder, own = tmp_path_factory.mktemp("swift"), not endpoint
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_DEFAULT_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
        if own:
            port = free_ports()
            endpoint = f"http://127.0.0.1:{port}"
            environment.setenv("AWS_ACCESS_KEY_ID", "mer:ray")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "secretkey")
            subprocess.run(["bash", str(TESTS / "s3_server.sh"), swift, str(folder), str(port)], check=True)
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        S3FileSystem.clear_instance_cache()  # those of another module know its server, which is gone
        try:
            yield folder if own else None
        finally:
            for pid in folder.glob("run/*.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture
def restart(server) -> Callable[[float], None]:
    """Kills what answers S3's protocol, and starts it again after so many seconds."""
    if server is None:
        pytest.skip("the server that the environment names is not the tests' own")

    def restart(away_seconds: float) -> None:
        pid = server / "run/proxy.pid"
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        time.sleep(away_seconds)
        command = [f"{os.environ['MER_RAY_TEST_SWIFT']}/bin/swift-proxy-server", str(server / "etc/proxy-server.conf")]
        started = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        pid.write_text(str(started.pid))

    return restart


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
    for name in [*store.folders(), *store.files()]:
        store.remove(name)
    store.filesystem.rmdir(store.root.removeprefix("s3://"))


@pytest.fixture
def store(bucket) -> Store:
    return bucket / uuid.uuid4().hex[:8]


@pytest.fixture
def proxy(bucket) -> Iterator[Proxy]:
    """In front of the server, for the stores made from here on and what is started; ``behind`` it is one of them."""
    with pytest.MonkeyPatch.context() as environment, Proxy(os.environ["AWS_ENDPOINT_URL"]).serving() as proxy:
        environment.setenv("AWS_ENDPOINT_URL", proxy.url)
        S3FileSystem.clear_instance_cache()
        yield proxy
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def behind(proxy, store) -> Store:
    return Store(store.root)


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB, and what makes it larger."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
    subprocess.run(["umount", "-l", place], check=True)
