from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mer_ray.benchmarks import voting
from mer_ray.errors import ConfigError, FeatureFileError


def write(folder: Path, num_clips: int = 900) -> None:
    """A rater who is mostly right, one who often is, one who guesses; all of them shy away from class 2."""
    rng = np.random.default_rng(0)
    truth = np.arange(num_clips) % 3
    counts = []
    for right in (0.75, 0.55, 1 / 3):
        chances = np.full((num_clips, 3), (1 - right) / 2)
        chances[np.arange(num_clips), truth] = right
        chances *= [1.0, 1.0, 0.5]
        counts.append([rng.multinomial(5, row / row.sum()) for row in chances])
    np.savez(
        folder / voting.FILE,
        votes=np.transpose(counts, (1, 0, 2)).astype(np.int16),
        intended=truth,
        modes=np.array(["both", "face", "voice"]),
    )


def test_unequal_raters_are_pooled_better_than_by_counting_and_than_the_best_of_them(tmp_path: Path) -> None:
    write(tmp_path)
    told = voting.run(voting.Config(data=str(tmp_path), labelled=120, draws=3), Console(quiet=True))
    assert told["weighted"] > max(told["plurality"], told["mean"], told["best_view"]) + 0.01
    assert told["rater_weights"]["both"] > told["rater_weights"]["face"] > told["rater_weights"]["voice"]
    assert sum(told["rater_weights"].values()) == pytest.approx(1)
    assert told["best_view"] == told["views"]["both"]
    assert abs(told["weighted_cv"] - told["weighted"]) < 0.1
    assert (told["num_clips"], told["num_labelled"], told["num_scored"], told["num_draws"]) == (900, 120, 780, 3)


def test_plurality_is_the_class_that_most_people_named() -> None:
    counts = np.array([[[3, 0], [0, 2], [2, 2]] * 10, [[0, 2], [0, 1], [0, 1]] * 10], dtype=float)
    rated = voting.Rated(counts, np.array([0, 1, 1] * 10), ("a", "b"))
    assert voting.draw(rated, 10, seed=0)["plurality"] == 1.0


def test_a_file_that_is_not_there_and_too_many_labels_are_told(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match=voting.FILE):
        voting.run(voting.Config(data=str(tmp_path)), Console(quiet=True))
    write(tmp_path, num_clips=60)
    with pytest.raises(ConfigError, match="labelled=400: give 3 to 57"):
        voting.run(voting.Config(data=str(tmp_path)), Console(quiet=True))


def test_weights_are_those_of_greatest_likelihood() -> None:
    """Against a search over all mixtures of three raters: a good one, its noisy copy, and one that guesses."""
    rng = np.random.default_rng(0)
    good = rng.dirichlet(np.full(3, 0.3), size=600)
    labels = (good.cumsum(axis=1) > rng.random((600, 1))).argmax(axis=1)
    copy = good * rng.uniform(0.2, 1, good.shape)
    stacked = np.stack([good, copy / copy.sum(axis=1, keepdims=True), rng.dirichlet(np.ones(3), size=600)])
    steps = np.linspace(0, 1, 51)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]).clip(1e-9)
    likelihood = np.log(grid @ stacked[:, np.arange(600), labels]).sum(axis=1) + 5 * np.log(grid).sum(axis=1)
    found = voting.mixture(stacked, labels)
    np.testing.assert_allclose(found, grid[likelihood.argmax()], atol=0.03)
    assert found[0] > 0.6
    np.testing.assert_allclose(voting.mixture(np.stack([good] * 4), labels), 0.25)
