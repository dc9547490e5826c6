import made_experiment as made
import pytest
from made_mining import mine

from mer_ray.tune import controller as controllers
from mer_ray.tune.search import fit_here


@pytest.fixture(scope="session")
def done(ray_cluster, tmp_path_factory):
    """Two rounds of mining after round 0, on Ray Tune."""
    experiment, _ = made.make()
    return mine(tmp_path_factory.mktemp("mined"), experiment, made.settings(rounds=2))


@pytest.fixture
def here(monkeypatch):
    """Fit the learners of a round one after another in this process."""
    monkeypatch.setattr(controllers, "run", fit_here)
