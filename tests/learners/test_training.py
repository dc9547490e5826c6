import numpy as np
import pytest
import torch
from made_clips import clips, training

from mer_ray import registry
from mer_ray.config import FitConfig
from mer_ray.learners import training as training_module
from mer_ray.learners.fit import fit_folds

RAGGED = [np.arange(20, 90), np.concatenate([np.arange(20), np.arange(30, 90)]), np.arange(72)]
"""Of 70, 80 and 72 clips: as many batches of 16 each, so that alone a fold takes the same steps."""
STILL = FitConfig(epochs=3, batch_size=16, hidden=12, learning_rate=1e-3)
STOPPING = STILL.model_copy(
    update={"epochs": 40, "learning_rate": 0.02, "patience": 3, "inner_share": 0.3, "inner_least": 5}
)


def fit(fusion, settings, *, together):
    features, labels = clips()
    options = {"dims": (6, 5, 4), "num_classes": 3, "hidden": 12, "dropout": 0.0, "modality_dropout": 0.0}
    config = registry.configure("fusion", fusion, options)
    pairs = [(training(rows, labels), seed) for rows, seed in zip(RAGGED, [3, 4, 5], strict=True)]
    groups = [pairs] if together else [[pair] for pair in pairs]
    return [
        model
        for group in groups
        for model in fit_folds(
            features, [rows for rows, _ in group], fusion, config, settings, [seed for _, seed in group]
        )
    ]


@pytest.mark.parametrize("fusion", registry.names("fusion"))
def test_folds_in_one_program_are_fitted_as_one_by_one(fusion):
    together, alone = (fit(fusion, STILL, together=how) for how in (True, False))
    for one, other in zip(together, alone, strict=True):
        for (name, tensor), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-5, msg=name)


def test_each_fold_stops_by_itself_and_the_others_go_on(monkeypatch):
    scored = []
    score = training_module._score

    def spy(logits, inner):
        scored.append((inner.clip.tobytes(), round(score(logits, inner)[0], 6)))
        return score(logits, inner)

    monkeypatch.setattr(training_module, "_score", spy)
    by_fold = []
    for together in (True, False):
        scored.clear()
        fit("attention", STOPPING, together=together)
        by_fold.append({clip: [waf for one, waf in scored if one == clip] for clip, _ in scored})
    assert by_fold[0] == by_fold[1]
    assert len({len(epochs) for epochs in by_fold[0].values()}) > 1
