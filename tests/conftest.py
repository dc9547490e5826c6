import os

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster():
    """One small Ray for all tests that need it; its start takes seconds."""
    from mer_ray.config import RuntimeConfig  # noqa: PLC0415 - after the environment is set
    from mer_ray.runtime.session import session  # noqa: PLC0415

    with session(RuntimeConfig(num_cpus=2, object_store_bytes=150 * 2**20)):
        yield
