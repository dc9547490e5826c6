"""Processes are killed at random while features are extracted: what the benchmark tells of it, and how it kills."""

import itertools
import json
import subprocess
import sys
import uuid
from collections import Counter

import psutil
import pytest
from rich.console import Console

from mer_ray.benchmarks import chaos, harness
from mer_ray.benchmarks.killable import Killable, wait_until
from mer_ray.errors import ConfigError

CHILDREN = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
print("started", flush=True)
time.sleep(600 if sys.argv[2] == "stays" else 0)
"""


def of_mark(mark):
    return [process for process in psutil.process_iter() if mark in cmdline(process)]


def cmdline(process):
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("parent", ["stays", "ends"])
def test_a_kill_takes_what_left_the_group_or_lost_its_parent(parent, tmp_path):
    mark = uuid.uuid4().hex
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"not {mark}"])
    one = Killable([sys.executable, "-c", CHILDREN, mark, parent], tmp_path / "log")
    try:
        one.start()
        assert wait_until(lambda: "started" in one.printed(), 60)
        assert wait_until(lambda: one.is_running == (parent == "stays"), 60)
        assert len(of_mark(mark)) >= 2
        one.kill()
        assert of_mark(mark) == []
        assert one.code == (-9 if parent == "stays" else 0), "a killed driver would count as one that is done"
        assert bystander.poll() is None
        one.start()
        assert wait_until(lambda: "started" in one.printed(), 60), "it cannot be started again"
    finally:
        one.kill()
        bystander.kill()
        bystander.wait()


def test_kinds_come_in_the_same_order_for_a_seed_and_each_once_before_any_again():
    kinds = list(chaos._BAG)
    first, again, other = (list(itertools.islice(chaos._sequence(kinds, seed), 25)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first[:5]) == sorted(kinds)
    assert Counter(first[5:17]) == chaos._BAG


def test_a_server_for_no_bucket_is_refused():
    with pytest.raises(ConfigError, match="name the bucket"):
        list(chaos.run(chaos.Config(server="sleep 1"), Console(quiet=True)))


@pytest.mark.slow
@pytest.mark.faults
def test_whatever_is_killed_nothing_is_lost_doubled_or_blamed(tmp_path):
    told = ["minutes=1", "clips=8", "mean_seconds=1"]
    assert harness.main(["chaos", "--json", str(tmp_path / "out.json"), *told]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["rows_found"] == figures["rows_expected"] > 0
    assert figures["rows_expected"] % 8 == 0
    assert (figures["duplicates"], figures["blamed"], figures["hung"]) == (0, 0, 0)
    assert figures["features_equal"]
    assert figures["kills"] == sum(figures["kills_by_kind"].values()) > 0, "nothing was killed"
    assert figures["kills_by_kind"]["server"] == 0
