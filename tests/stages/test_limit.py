"""Time limits, in a process of its own, which they end."""

import subprocess
import sys
import time

import pytest

from mer_ray.stages.limit import one_by_one, time_limit

SCRIPT = """
import time
from mer_ray.stages.limit import one_by_one, time_limit
print("ready", flush=True)
with time_limit(30.0, 0.5):
    {body}
print("done")
"""


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        ("[time.sleep(0.3) for clip in one_by_one('abcd')]", True),
        ("[time.sleep(9 if clip == 'c' else 0.01) for clip in one_by_one('abcd')]", False),
        ("[None for clip in one_by_one('abcd')]; time.sleep(1.0)", True),
    ],
    ids=["each in time", "one hangs", "what comes after them"],
)
def test_each_clip_has_its_own_limit(body, ends):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(body=body)], capture_output=True, text=True, check=False)
    assert (done.returncode == 0, "done" in done.stdout) == (ends, ends)
    assert ("Timeout" in done.stderr) != ends
    assert time.monotonic() - started < 9


def test_the_batch_has_its_limit_however_its_clips_share_it():
    script = SCRIPT.replace("time_limit(30.0, 0.5)", "time_limit(1.0, 0.5)")
    body = "[time.sleep(0.4) for clip in one_by_one('abcdefgh')]"
    done = subprocess.run([sys.executable, "-c", script.format(body=body)], capture_output=True, text=True, check=False)
    assert done.returncode != 0


WAITS = """
import threading, time
from mer_ray.data.alarm import ALARM
from mer_ray.stages.limit import one_by_one, time_limit

def wait(seconds):
    with ALARM.standing_still():
        time.sleep(seconds)

with time_limit(1.9, 0.9):
    for clip in one_by_one("ab"):
        thread = threading.Thread(target=wait, args=(0.8,))
        thread.start()
        wait(1.2)
        thread.join()
        time.sleep(0.2)
    print("waited", flush=True)
    {body}
print("done")
"""


@pytest.mark.parametrize(("body", "ends"), [("pass", True), ("time.sleep(9)", False)])
def test_what_the_storage_takes_counts_neither_for_a_clip_nor_for_the_batch(body, ends):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WAITS.format(body=body)], capture_output=True, text=True, check=False)
    assert "waited" in done.stdout, done.stderr
    assert (done.returncode == 0) == ends
    assert time.monotonic() - started < 9


def test_without_a_limit_it_is_a_plain_loop():
    assert list(one_by_one("abc")) == ["a", "b", "c"]
    with time_limit(60.0, 60.0):
        assert list(one_by_one("abc")) == ["a", "b", "c"]
