import numpy as np
import pytest
import torch
from torch.nn import functional

from mer_ray.learners.loss import Balance, class_weights, classes_loss, valence_loss

NONE = Balance(torch.ones(2, 3), torch.zeros(2, 3))


def made(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 3, generator=generator, requires_grad=True)
    target = torch.rand(2, 5, 3, generator=generator)
    return logits, target / target.sum(dim=2, keepdim=True), torch.rand(2, 5, generator=generator)


def test_gradients_with_soft_weighted_targets_by_hand():
    logits, target, weight = made()
    balance = Balance(torch.tensor([[1.0, 2.0, 0.5], [1.0, 1.0, 3.0]]), torch.tensor([[0.1, 0, 0], [0, -1.0, 0]]))
    classes_loss(logits, target, weight, balance, 0.1).sum().backward()
    for g in range(2):
        z, q, w = (x[g].detach().numpy().astype(np.float64) for x in (logits, target, weight))
        shifted = np.exp(z + balance.shift_GC[g].numpy())
        p = shifted / shifted.sum(axis=1, keepdims=True)
        counts = w * (q @ balance.weight_GC[g].numpy())
        by_hand = (p - (0.9 * q + 0.1 / 3)) * counts[:, None] / counts.sum()
        np.testing.assert_allclose(logits.grad[g], by_hand, atol=1e-6)


def test_hard_labels_of_weight_one_are_the_usual_cross_entropy():
    logits, _, _ = made()
    labels = torch.tensor([[0, 1, 2, 1, 1], [2, 2, 0, 0, 1]])
    found = classes_loss(logits, functional.one_hot(labels, 3).float(), torch.ones(2, 5), NONE, 0.1)
    for g in range(2):
        assert found[g].item() == pytest.approx(
            functional.cross_entropy(logits[g], labels[g], label_smoothing=0.1).item()
        )


def test_clips_that_weigh_nothing_do_not_count_and_of_none_the_loss_is_0():
    logits, target, weight = made()
    weight[:, 3:] = 0
    found = classes_loss(logits, target, weight, NONE, 0.0)
    torch.testing.assert_close(found, classes_loss(logits[:, :3], target[:, :3], weight[:, :3], NONE, 0.0))
    assert classes_loss(logits, target, torch.zeros(2, 5), NONE, 0.1).tolist() == [0, 0]


def test_rare_classes_weigh_more_but_less_than_in_proportion():
    (weights,) = class_weights(torch.tensor([[16.0, 0, 4, 0]]))
    assert weights[2] / weights[0] == pytest.approx(2)
    assert weights[[1, 3]].tolist() == [0, 0]
    assert (16 * weights[0] + 4 * weights[2]) / 20 == pytest.approx(1)


def test_logits_are_shifted_by_the_log_of_each_class_share_even_of_one_that_does_not_occur():
    balance = Balance.of("logits", torch.tensor([[7.0, 1, 0]]))
    np.testing.assert_allclose(balance.shift_GC[0], np.log(np.array([8, 2, 1]) / 11), rtol=1e-6)
    assert balance.weight_GC.tolist() == [[1, 1, 1]]
    assert Balance.of("none", torch.ones(1, 3)).shift_GC.tolist() == [[0, 0, 0]]


def test_valence_error_is_over_the_clips_whose_valence_is_known():
    predicted = torch.tensor([[1.0, 5.0, 2.0], [0.0, 0.0, 0.0]], requires_grad=True)
    valence = torch.tensor([[3.0, float("nan"), 2.5], [float("nan")] * 3])
    loss = valence_loss(predicted, valence, torch.tensor([[1.0, 9.0, 3.0], [1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(loss.detach(), [(1 * 4 + 3 * 0.25) / 4, 0])
    loss.sum().backward()
    assert torch.isfinite(predicted.grad).all()
