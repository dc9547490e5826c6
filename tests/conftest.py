"""Ray for the tests that need it, and which tests run beside each other."""

import os

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Share the files out between processes (xdist): those with a test on the session's Ray stay together, and begin.

    A file is never parted, so that what it makes for its tests is made once.
    """
    on_ray = {item.path for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in on_ray else str(item.path)))
    items.sort(key=lambda item: item.path not in on_ray)


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
