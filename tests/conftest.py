"""Ray for the tests that need it, and which tests run beside each other."""

import os
import random
import sys

import numpy as np
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOGETHER = {
    "ray_cluster": (
        "benchmarks/test_mining", "benchmarks/test_round", "e2e/test_demo", "e2e/test_train", "faults/test_machine",
        "faults/test_materialise", "pipelines/test_extract", "pipelines/test_metrics", "pipelines/test_retries",
        "pipelines/test_train_encoder", "pipelines/test_train_rounds", "pipelines/test_tune", "runtime/test_session",
        "runtime/test_sight", "test_hostile", "tune/test_controller", "tune/test_mining_options", "tune/test_search",
    ),
    "mined_clips": ("pipelines/test_noise_track", "pipelines/test_why", "test_commands"),
}  # fmt: skip
"""Files by the fixture that they share and that costs much: one of several processes runs them, and first."""
SHARE_OF = {f"tests/{file}.py": fixture for fixture, files in TOGETHER.items() for file in files}


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_make_scheduler(config, log):
    """A file is never parted, so that what it makes for its tests is made once; those of ``TOGETHER`` stay together.

    By ``--dist loadgroup`` the tests themselves would say so; xdist 3.8 and pytest 9.2 do not agree on how.
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - not there where tests run in one process

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return SHARE_OF.get(file, file)

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Those of ``TOGETHER`` first; a file that is not in it and should be is told of."""
    places = {fixture: place for place, fixture in enumerate(TOGETHER)}
    for item in items:
        file = item.nodeid.partition("::")[0]
        for fixture in TOGETHER.keys() & set(getattr(item, "fixturenames", ())):
            if SHARE_OF.get(file) != fixture:
                raise pytest.UsageError(f"{file} uses {fixture}: add it to TOGETHER in tests/conftest.py")
    items.sort(key=lambda item: places.get(SHARE_OF.get(item.nodeid.partition("::")[0]), len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With ``MER_RAY_TEST_ALL`` a test that is skipped has failed: what CI names it is to run."""
    report = yield
    if report.skipped and os.environ.get("MER_RAY_TEST_ALL"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and MER_RAY_TEST_ALL is set: {report.longrepr[-1]}"
    return report


@pytest.fixture(autouse=True)
def unnamed_seeds():
    """Numbers that a test draws without naming a seed are the same ones in every run, alone and among other tests."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def ray_cluster():
    """One small Ray for all tests that need it; its start takes seconds."""
    from mer_ray.config import RuntimeConfig  # noqa: PLC0415 - after the environment is set
    from mer_ray.runtime.session import session  # noqa: PLC0415

    with session(RuntimeConfig(num_cpus=2, object_store_bytes=150 * 2**20)):
        yield


@pytest.fixture(scope="session")
def mined_clips(tmp_path_factory):
    """The run directory of a finished run from clips, see ``made_runs.of_clips``: read it, and write elsewhere."""
    import made_runs  # noqa: PLC0415 - after the environment is set

    return made_runs.of_clips(tmp_path_factory.mktemp("mined_clips"))


@pytest.fixture(scope="session")
def mined_vectors(tmp_path_factory):
    """A folder with ``clips.csv``, ``features`` and their finished ``run``: read it, and write elsewhere."""
    import made_runs  # noqa: PLC0415 - after the environment is set

    return made_runs.of_vectors(tmp_path_factory.mktemp("mined_vectors"))
