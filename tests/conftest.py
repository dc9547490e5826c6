"""Ray for the tests that need it, and which tests run beside each other."""

import os

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")


SHARED = ("ray_cluster", "mined_clips")
"""Fixtures that cost much and serve several files."""


@pytest.hookimpl(wrapper=True)  # before xdist, which reads the groups first of all
def pytest_collection_modifyitems(items):
    """Share the files out between processes (xdist): those of one shared fixture stay together, and begin.

    A file is never parted, so that what it makes for its tests is made once.
    """
    needs = {}
    for item in items:
        needs.setdefault(item.path, set()).update(getattr(item, "fixturenames", ()))
    group = {path: next((name for name in SHARED if name in names), str(path)) for path, names in needs.items()}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group[item.path]))
    order = {name: place for place, name in enumerate(SHARED)}
    items.sort(key=lambda item: order.get(group[item.path], len(order)))
    return (yield)


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
