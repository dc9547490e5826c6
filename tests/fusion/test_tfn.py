import fusion_golden
import numpy as np
import pytest
import torch

from mer_ray import registry
from mer_ray.errors import ConfigError
from mer_ray.fusion.tfn import Config

GOLDEN_LOGITS = [[4.4897389, -1.1305246], [2.1376207, -0.6039402]]
GOLDEN_WEIGHTS = [[0.0949686, 0.9050314], [1.0, 0.0]]


def test_it_is_a_perceptron_over_the_outer_product_and_its_weights_are_what_products_without_a_feature_lack():
    h_BMD, state = fusion_golden.embedded("tfn")
    z = [np.maximum(h_BMD[:, m] @ state[f"compress.{m}.0.weight"].T + state[f"compress.{m}.0.bias"], 0) for m in (0, 1)]
    z[1][1] = 0
    one = np.ones((2, 1))
    none = np.array([[1.0, 0.0, 0.0]] * 2)
    full = [np.hstack([one, x]) for x in z]

    def mixed(first, second):
        products = np.stack([np.outer(a, b).ravel() for a, b in zip(first, second, strict=True)])
        return products @ state["mix.weight"].T + state["mix.bias"]

    lacks = [mixed(*full) - mixed(none, full[1]), mixed(*full) - mixed(full[0], none)]
    norms = np.linalg.norm(np.stack(lacks, axis=1), axis=2)
    logits = np.maximum(mixed(*full), 0) @ state["classify.2.weight"].T + state["classify.2.bias"]
    got = fusion_golden.result("tfn")
    np.testing.assert_allclose(got[0], logits, rtol=1e-5)
    np.testing.assert_allclose(got[1], norms / norms.sum(axis=1, keepdims=True), rtol=1e-4)


def test_golden_values():
    logits, weights = fusion_golden.result("tfn")
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)
    np.testing.assert_allclose(weights, GOLDEN_WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize(("num_features", "width"), [(1, 64), (2, 63), (3, 15), (4, 7)])
def test_the_product_is_kept_small(num_features, width):
    dims = (3,) * num_features
    config = Config(dims=dims, num_classes=2, hidden=64)
    assert config.width == width
    model = registry.build("fusion", "tfn", config)
    assert model.mix.in_features == (1 + width) ** num_features <= config.most_products
    logits, _ = model([torch.ones(2, 3)] * num_features, torch.ones(2, num_features, dtype=torch.bool))
    assert logits.shape == (2, 2)


def test_more_features_than_a_product_takes_are_refused():
    with pytest.raises(ConfigError, match=r"at most 4 features, 5 are given.*lmf"):
        registry.configure("fusion", "tfn", {"dims": (2,) * 5, "num_classes": 2})
