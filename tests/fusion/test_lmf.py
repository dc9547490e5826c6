import fusion_golden
import numpy as np
import torch

from mer_ray import registry

GOLDEN_LOGITS = [[10.9992876, 5.6692429], [4.8100872, 3.3070202]]
GOLDEN_WEIGHTS = [[0.4489981, 0.5510019], [1.0, 0.0]]


def test_it_is_tensor_fusion_with_a_weight_of_that_rank():
    h_BMD, state = fusion_golden.embedded("lmf")
    h_BMD[1, 1] = 0
    maps = [
        np.concatenate([state["ones"][m][:, :, None], state[f"factors.{m}.weight"].reshape(4, 2, 2)], axis=2)
        for m in (0, 1)
    ]
    weight_OIJ = np.einsum("roi,roj->oij", *maps)  # of the outer product of [1; h] of the two features
    products_BIJ = np.einsum("bi,bj->bij", *(np.hstack([np.ones((2, 1)), h_BMD[:, m]]) for m in (0, 1)))
    mixed = np.einsum("oij,bij->bo", weight_OIJ, products_BIJ) + state["bias"]
    logits = np.maximum(mixed, 0) @ state["classify.2.weight"].T + state["classify.2.bias"]
    with_first = np.einsum("oij,bij->bo", weight_OIJ[:, 1:], products_BIJ[:, 1:])
    with_second = np.einsum("oij,bij->bo", weight_OIJ[:, :, 1:], products_BIJ[:, :, 1:])
    norms = np.linalg.norm(np.stack([with_first, with_second], axis=1), axis=2)
    got = fusion_golden.result("lmf")
    np.testing.assert_allclose(got[0], logits, rtol=1e-5)
    np.testing.assert_allclose(got[1], norms / norms.sum(axis=1, keepdims=True), rtol=1e-4)


def test_golden_values():
    logits, weights = fusion_golden.result("lmf")
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)
    np.testing.assert_allclose(weights, GOLDEN_WEIGHTS, rtol=1e-5)


def test_many_features_neither_vanish_nor_explode():
    torch.manual_seed(0)
    model = registry.build("fusion", "lmf", {"dims": (6,) * 18, "num_classes": 3}).eval()
    features = [torch.randn(50, 6, requires_grad=True) for _ in range(18)]
    logits, weights = model(features, torch.ones(50, 18, dtype=torch.bool))
    logits.square().sum().backward()
    assert logits.abs().max() < 10
    assert min(x.grad.abs().max() for x in features) > 1e-4
    assert weights.min() > 0.01
