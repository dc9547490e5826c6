"""S3 fails while workers read, write and commit. Each test asserts that its fault happened; no clip is blamed."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from s3_proxy import Proxy

from mer_ray.data.storage import Store

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.faults]
TESTS = Path(__file__).parent.parent
TEXTS = {f"c{i:02}": "x" * i for i in range(1, 13)}
PART = r"/[0-9a-f]{24,}\.parquet"
PHASES = {
    "read": ("double", "GET", rf"length/[^/]*{PART}"),
    "write": ("length", "PUT", r"length/[^/]*/_attempts/"),
    "commit": ("length", "PUT", rf"length/[^/]*{PART}"),
}
"""The step that is made when it fails, and which of its workers' requests do."""


class Driver:
    """``s3_steps.py`` in a process of its own."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "s3_steps.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(marks / "log").open("w"),
            env=environment,
            text=True,
        )

    def start(self, root: Store, step: str, texts: dict[str, str] = TEXTS) -> Callable[[], dict]:
        """Give a command; what is returned waits for the answer."""
        told = {"root": root.root, "marks": str(self.marks), "step": step, "texts": texts}
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        return lambda: json.loads(self.line())

    def make(self, root: Store, step: str, texts: dict[str, str] = TEXTS) -> dict:
        return self.start(root, step, texts)()

    def line(self) -> str:
        line = self.process.stdout.readline()
        assert line, (self.marks / "log").read_text()[-3000:]
        return line


@contextmanager
def driving(marks: Path) -> Iterator[Driver]:
    marks.mkdir(exist_ok=True)
    driver = Driver(marks)
    try:
        assert driver.line() == "ready\n"
        yield driver
        driver.process.stdin.close()
        assert driver.process.wait(60) == 0
    finally:
        driver.process.kill()


@pytest.fixture(scope="module")
def proxy(bucket) -> Iterator[Proxy]:
    """In front of the server, for what is started; this process asks the server itself."""
    with pytest.MonkeyPatch.context() as environment, Proxy(os.environ["AWS_ENDPOINT_URL"]).serving() as proxy:
        bucket.files()  # it has its client
        environment.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture(scope="module")
def driver(proxy, tmp_path_factory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture(autouse=True)
def whole(proxy) -> Iterator[None]:
    yield
    proxy.heal()


def parts_of(root: Store, step: str) -> list[str]:
    return [name for name in root.details(step, deep=True) if name.endswith(".parquet") and "/_" not in name]


def rows_of(root: Store, step: str) -> dict[str, dict]:
    """The rows of a step by clip, read as a stranger would; fails on a doubled clip."""
    rows = [
        row
        for part in parts_of(root, step)
        for row in pq.read_table(io.BytesIO(root.read(f"{step}/{part}"))).to_pylist()
    ]
    assert len({row["clip_id"] for row in rows}) == len(rows), "a clip stands twice"
    return {row["clip_id"]: row for row in rows}


def assert_whole(root: Store, step: str, texts: dict[str, str] = TEXTS) -> None:
    column, times = {"length": ("letters", 1), "double": ("doubled", 2)}[step]
    rows = rows_of(root, step)
    assert {c: row["error"] for c, row in rows.items()} == dict.fromkeys(texts), "a clip is blamed"
    assert {c: row[column] for c, row in rows.items()} == {c: times * len(text) for c, text in texts.items()}


@pytest.mark.parametrize("phase", PHASES)
def test_a_refusal_ends_the_step_blames_no_clip_and_the_same_command_finishes(proxy, driver, store, phase):
    step, method, path = PHASES[phase]
    if step == "double":
        driver.make(store, "length")
    fault = proxy.fail(403, method, path)
    told = driver.make(store, step)
    assert fault.hits, "nothing was refused"
    assert "AccessDenied" in told["fault"] or "by the proxy" in told["fault"]
    assert not any(row["error"] for row in rows_of(store, step).values())
    proxy.heal()
    told = driver.make(store, step)
    assert (told["rows"], told["errors"]) == (len(TEXTS), {})
    assert_whole(store, step)


@pytest.mark.parametrize(("what", "times"), [(503, 3), ("slow", 1), ("drop", 3)])
def test_what_passes_is_waited_for_in_read_write_and_commit(proxy, driver, store, what, times):
    faults = [proxy.fail(what, method, path, times=times, seconds=17) for _, method, path in PHASES.values()]
    assert driver.make(store, "length") == {"rows_made": len(TEXTS), "rows": len(TEXTS), "errors": {}}
    assert driver.make(store, "double") == {"rows_made": len(TEXTS), "rows": len(TEXTS), "errors": {}}
    assert [fault.hits for fault in faults] == [times] * len(PHASES)
    for step in ("length", "double"):
        assert_whole(store, step)
        assert driver.make(store, step) == {"rows_made": 0, "rows": len(TEXTS), "errors": {}}


def sleeping(seconds: float) -> dict[str, str]:
    return {f"c{i:02}": f"sleep {seconds}" + " " * i for i in range(12)}


def test_a_server_that_is_started_again_in_the_middle_of_a_step_costs_nothing(proxy, driver, store, restart):
    texts = sleeping(1.0)
    answer = driver.start(store, "length", texts)
    await_part(store)
    unanswered_before = proxy.unanswered
    restart(away_seconds=5.0)
    told = answer()
    assert proxy.unanswered > unanswered_before, "nobody missed the server"
    assert told == {"rows_made": len(texts), "rows": len(texts), "errors": {}}
    assert_whole(store, "length", texts)


def await_part(root: Store) -> None:
    """Until the first part is there."""
    deadline = time.monotonic() + 120
    while not parts_of(root, "length"):
        assert time.monotonic() < deadline, "no part is made"
        time.sleep(0.1)


def test_two_drivers_on_one_table_lose_and_double_nothing(proxy, driver, store, tmp_path):
    texts = sleeping(0.5)
    with driving(tmp_path / "other") as other:
        puts_before = proxy.count(PHASES["commit"][2])["PUT"]
        answers = [one.start(store, "length", texts) for one in (driver, other)]
        told = [answer() for answer in answers]
    assert [(one["rows"], one["errors"]) for one in told] == [(len(texts), {})] * 2
    puts = proxy.count(PHASES["commit"][2])["PUT"] - puts_before
    assert puts > len(parts_of(store, "length")), "they never met at a part"
    assert_whole(store, "length", texts)
