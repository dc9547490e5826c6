import made_experiment as made
import pytest
from made_mining import mine

from mer_ray.tune import controller as controllers


@pytest.fixture(scope="session")
def done(ray_cluster, tmp_path_factory):
    """Two rounds of mining after round 0, on Ray Tune."""
    experiment, _ = made.make()
    return mine(tmp_path_factory.mktemp("mined"), experiment, made.settings(rounds=2))


@pytest.fixture
def here(monkeypatch):
    """Fit the learners of a round one after another in this process."""

    def run(bench, trials, on_done):
        for trial in trials:
            if bench.finished(trial) is None:
                bench.work(trial)
                on_done(trial.folder)
        return {trial.folder: bench.finished(trial) for trial in trials}, {}

    monkeypatch.setattr(controllers, "run", run)
