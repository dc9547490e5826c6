import numpy as np
import pytest
import torch
from made_clips import clips

from mer_ray import registry
from mer_ray.fusion import attention
from mer_ray.learners.model import FoldModel, tensors
from mer_ray.learners.predict import Predictor

DIMS = (6, 5, 4)


def models(features, fusion="attention", valence=False):
    torch.manual_seed(0)
    config = registry.configure("fusion", fusion, {"dims": DIMS, "num_classes": 3, "hidden": 16})
    made = [FoldModel(fusion, config, valence=valence).eval() for _ in range(3)]
    for fold, model in enumerate(made):
        model.learn_scales(features, np.arange(20 * fold, 20 * fold + 30))
    return made


def seen_clips():
    features, _ = clips()
    return features.take(np.flatnonzero(features.present.any(axis=1)))


def agree(found, made, features):
    values, present = tensors(features)
    for fold, model in enumerate(made):
        logits, weights = model(values, present)
        torch.testing.assert_close(found.logits[fold], logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.weights[fold], weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", registry.names("fusion"))
@pytest.mark.parametrize("wild", [False, True])
def test_shared_first_layers_predict_what_the_models_do(fusion, wild):
    features = seen_clips()
    made = models(features, fusion)
    if wild:  # beyond what standardised values are held to
        features.features[0].values[::7] *= 1e4
    values, present = tensors(features)
    predictor = Predictor(made, [x[:5] for x in values], present[:5])
    assert len(predictor.first) == 3
    with torch.no_grad():
        agree(predictor(values, present), made, features)


def test_a_model_that_reads_its_features_elsewhere_too_is_run_as_it_is(monkeypatch):
    class Model(attention.Model):
        def forward(self, features, present):
            logits, weights = super().forward(features, present)
            return logits + sum(x.nan_to_num().sum(dim=1, keepdim=True) for x in features) * torch.arange(3), weights

    monkeypatch.setattr(attention, "Model", Model)
    features = seen_clips()
    made = models(features)
    values, present = tensors(features)
    predictor = Predictor(made, [x[:5] for x in values], present[:5])
    assert predictor.first == []
    with torch.no_grad():
        agree(predictor(values, present), made, features)


def test_valence_comes_in_the_unit_that_was_learnt():
    features = seen_clips()
    made = models(features, valence=True)
    for model in made:
        model.learn_valence(np.array([np.nan, 10.0, 14.0], np.float32))
        assert model.valence.tolist() == [12.0, 2.0]
    values, present = tensors(features)
    found = Predictor(made, values, present)(values, present)
    assert found.logits.shape[2] == 3
    raw = made[1].fusion(made[1].prepare(tensors(features)[0]), present)[0]
    torch.testing.assert_close(found.valence[1], raw[:, 3] * 2 + 12, rtol=1e-4, atol=1e-4)
