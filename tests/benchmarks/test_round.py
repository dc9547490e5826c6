import numpy as np
import pytest
import torch
from made_clips import clips
from rich.console import Console

from mer_ray.benchmarks import planted
from mer_ray.benchmarks import round as bench
from mer_ray.benchmarks.plain_fit import fit_plainly
from mer_ray.config import FitConfig
from mer_ray.learners import folds as folding
from mer_ray.learners.spec import fusion_config, resolve

KEYS = {
    "fit_seconds", "predict_seconds", "vote_seconds", "split_seconds", "write_seconds", "predict_matrix_rate_share",
    "matrix_flops_per_s", "peak_memory_bytes", "adopted", "clips", "ours_seconds", "ours_waf", "peer_seconds",
    "peer_waf", "peer_best_epoch_waf", "refit_seconds", "final_seconds", "lda_em_seconds", "lda_em_matrix_rate_share",
    "lda_em_peak_memory_bytes", "put_bytes",
}  # fmt: skip


def test_planted_clips_are_the_seeds_and_can_be_told(tmp_path):
    labels = planted.make(tmp_path, 600, {"audio": 40, "text": 30}, 3, seed=1)
    features = planted.read(tmp_path, {"text": "text", "audio": "audio"}, slice(200, 600))
    assert [feature.values.shape for feature in features.features] == [(400, 30), (400, 40)]
    assert all(f.values.dtype == np.float16 and isinstance(f.values, np.memmap) for f in features.features)
    assert features.clip_ids[0] == "clip_000200"
    values, own = features.features[1].values.astype(np.float32), labels[200:]
    centres = np.stack([values[own == c].mean(axis=0) for c in range(3)])
    nearest = ((values[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.5 < (nearest == own).mean() < 1
    first = features.features[0].values.copy()
    planted.make(tmp_path, 600, {"audio": 40, "text": 30}, 3, seed=1)
    np.testing.assert_array_equal(planted.read(tmp_path, {"text": "text"}, slice(200, 600)).features[0].values, first)


def test_the_peer_learns_and_its_best_epoch_flatters_it():
    features, labels = clips(absent=0)
    fit = FitConfig(hidden=16, dropout=0.0, modality_dropout=0.0)
    learner = resolve("auto", features, fit, 3)[0]
    folds = folding.make(labels, [None] * 90, 3, 0)
    config = fusion_config(learner, features, fit, 3)
    short, long = (fit_plainly(features, labels, folds, "attention", config, epochs) for epochs in (2, 25))
    assert long.last_epoch > 0.8 > short.last_epoch
    assert long.best_epoch >= long.last_epoch


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_small_round_is_measured(workers, ray_cluster):
    settings = bench.Config(
        labelled=60, pools=[50, 120], audio=16, video=12, text=20, classes=3, workers=workers, peer_epochs=2,
        fit=FitConfig(folds=2, epochs=2, hidden=8),
    )  # fmt: skip
    threads = torch.get_num_threads()
    try:
        figures = list(bench.run(settings, Console(quiet=True)))[-1]
    finally:
        torch.set_num_threads(threads)
    assert figures.keys() == KEYS
    assert figures["clips"].keys() == {"50", "120"}
    assert figures["predict_seconds"] == figures["clips"]["120"]["predict_seconds"]
    for pool, one in figures["clips"].items():
        assert one["seconds_per_clip"] == pytest.approx(one["seconds"] / (60 + int(pool)))
        phases = sum(one[f"{phase}_seconds"] for phase in ("predict", "vote", "split", "write"))
        assert one["seconds"] == pytest.approx(phases)
    assert 0 <= figures["ours_waf"] <= 1
    for name in ("refit_seconds", "final_seconds", "lda_em_seconds", "lda_em_matrix_rate_share"):
        assert figures[name] > 0
    features_bytes = 2 * (16 + 12 + 20) * (60 + 120)
    assert features_bytes < figures["put_bytes"] < features_bytes + 2**18
    assert figures["peak_memory_bytes"] > 2**26
