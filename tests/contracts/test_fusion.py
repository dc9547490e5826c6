"""What every fusion model must hold (fusion/base.py), over every file of the kind."""

import pickle
from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from mer_ray import registry
from mer_ray.errors import ConfigError, ShapeError

DIMS = (5, 3, 4)
CLASSES = 3
STILL = {"dropout": 0.0, "modality_dropout": 0.0}


@pytest.fixture(params=registry.names("fusion"))
def name(request):
    return request.param


def make(name, seed=0, **options):
    torch.manual_seed(seed)
    return registry.build("fusion", name, {"dims": DIMS, "num_classes": CLASSES, "hidden": 16, **options})


def batch(num_clips=24, dims=DIMS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(num_clips, dim, generator=generator) for dim in dims]
    present = torch.rand(num_clips, len(dims), generator=generator) < 0.6
    present[torch.arange(num_clips), torch.arange(num_clips) % len(dims)] = True
    return features, present


def with_absent(features, present, value):
    """The same clips, with ``value`` wherever a feature is absent."""
    return [torch.where(here[:, None], x, value) for x, here in zip(features, present.unbind(1), strict=True)]


def outcome(model, features, present, seed=1):
    """Logits, weights and the gradient of every parameter, as bytes."""
    model.zero_grad()
    torch.manual_seed(seed)
    logits, weights = model(features, present)
    (logits.square().sum() + logits[:, 0].sum()).backward()
    results = [logits, weights, *(parameter.grad for parameter in model.parameters())]
    return [tensor.detach().numpy().tobytes() for tensor in results]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_clips", [1, 24])
def test_shapes_and_types(name, training, num_clips):
    logits, weights = make(name).train(training)(*batch(num_clips))
    assert logits.shape == (num_clips, CLASSES)
    assert weights.shape == (num_clips, len(DIMS))
    assert logits.dtype == weights.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_a_wrong_number_of_features_is_refused(name):
    features, present = batch()
    with pytest.raises(ShapeError, match=r"\[5, 3\].*\[5, 3, 4\]"):
        make(name)(features[:2], present[:, :2])


def test_a_wrong_width_is_refused(name):
    features, present = batch()
    with pytest.raises(ShapeError, match=r"\[3, 5, 4\].*\[5, 3, 4\]"):
        make(name)([features[1], features[0], features[2]], present)


@pytest.mark.parametrize("shape", [(24, 2), (23, 3)])
def test_a_presence_that_does_not_fit_is_refused(name, shape):
    with pytest.raises(ShapeError, match="clips x features"):
        make(name)(batch()[0], torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("training", [True, False])
def test_what_stands_in_an_absent_feature_is_never_read(name, training, value):
    features, present = batch()
    assert not present.all()
    model = make(name).train(training)
    expected = outcome(model, with_absent(features, present, 0.0), present)
    assert outcome(model, with_absent(features, present, value), present) == expected


def test_every_present_feature_is_read_and_absence_is_told_from_zeros(name):
    model = make(name).eval()
    features, _ = batch(seed=2)
    everything = torch.ones(24, len(DIMS), dtype=torch.bool)
    logits, _ = model(features, everything)
    for m, x in enumerate(features):
        changed = [*features[:m], x + 1.0, *features[m + 1 :]]
        assert not torch.allclose(model(changed, everything)[0], logits)
        zeros = [*features[:m], torch.zeros_like(x), *features[m + 1 :]]
        without = everything.clone()
        without[:, m] = False
        assert not torch.allclose(model(zeros, everything)[0], model(zeros, without)[0])


@pytest.mark.parametrize("training", [True, False])
def test_weights_are_shares_of_the_present_features(name, training):
    features, present = batch()
    _, weights = make(name).train(training)(features, present)
    assert (weights >= 0).all()
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))
    if not training:
        assert (weights[present] > 0).all()


def test_the_only_feature_of_a_clip_has_all_the_weight(name):
    features, _ = batch(num_clips=3)
    _, weights = make(name)(features, torch.eye(3, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.eye(3))


def test_the_gradient_reaches_every_trainable_parameter(name):
    features, present = batch(64)
    model = make(name, **STILL)
    labels = torch.arange(64) % CLASSES
    torch.nn.functional.cross_entropy(
        model(with_absent(features, present, float("nan")), present)[0], labels
    ).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
        assert parameter.grad.abs().sum() > 0, path


def test_the_same_seed_gives_the_same_bits(name):
    features, present = batch()
    first = outcome(make(name, seed=3), features, present, seed=4)
    assert outcome(make(name, seed=3), features, present, seed=4) == first
    assert outcome(make(name, seed=5), features, present, seed=4) != first


@pytest.mark.parametrize("option", ["dropout", "modality_dropout"])
def test_each_dropout_acts_in_training_and_never_in_evaluation(name, option):
    features, present = batch()
    model = make(name, **{**STILL, option: 0.5})
    still = make(name, **STILL)
    model.load_state_dict(still.state_dict())
    assert outcome(model, features, present, seed=1) != outcome(model, features, present, seed=2)
    assert outcome(still, features, present, seed=1) == outcome(still, features, present, seed=2)
    assert outcome(model.eval(), features, present, seed=1) == outcome(still.eval(), features, present, seed=2)


def test_modality_dropout_shows_in_the_weights_and_leaves_each_clip_a_feature(name):
    features, _ = batch(600)
    everything = torch.ones(600, len(DIMS), dtype=torch.bool)
    _, weights = make(name, modality_dropout=0.3, dropout=0.0)(features, everything)
    assert (weights > 0).any(dim=1).all()
    expected = 0.3 - 0.3**3 / 3  # all three would go with chance 0.027, and then one stays
    assert abs((weights == 0).float().mean().item() - expected) < 0.04


def test_a_state_dict_carries_the_whole_model(name):
    features, present = batch()
    model, other = make(name, seed=0).eval(), make(name, seed=9).eval()
    assert outcome(model, features, present) != outcome(other, features, present)
    other.load_state_dict(model.state_dict())
    assert outcome(model, features, present) == outcome(other, features, present)


def test_it_pickles(name):
    features, present = batch()
    model = make(name)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.config == model.config
    assert outcome(copy, features, present) == outcome(model, features, present)


def test_a_single_feature_is_enough(name):
    features, present = batch(num_clips=6, dims=(7,))
    logits, weights = make(name, dims=(7,))(features, present)
    assert logits.shape == (6, CLASSES)
    torch.testing.assert_close(weights, torch.ones(6, 1))
    assert not torch.allclose(logits[0], logits[1])


def test_it_learns_a_class_that_only_all_features_tell(name):
    """The class is the number of features above zero: each alone says little."""
    features, _ = batch(256)
    everything = torch.ones(256, len(DIMS), dtype=torch.bool)
    labels = sum((x[:, 0] > 0).long() for x in features).clamp(max=2)
    model = make(name, **STILL)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(features, everything)[0], labels).backward()
        optimizer.step()
    accuracy = (model(features, everything)[0].argmax(1) == labels).float().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize("own_clips", [True, False])
def test_models_of_one_shape_run_as_one_program(name, own_clips):
    models = [make(name, seed=seed, **STILL) for seed in range(3)]
    features, present = batch()
    given = with_absent(features, present, float("nan")), present
    if own_clips:
        given = [torch.stack([x, x.roll(1, 0), x.roll(2, 0)]) for x in given[0]], torch.stack([present] * 3)
        given[1][1], given[1][2] = present.roll(1, 0), present.roll(2, 0)
    state, _ = stack_module_state(models)

    def run(model, parameters, clips):
        logits, weights = functional_call(model, parameters, clips)
        return logits.square().sum(), (logits, weights)

    def together(model):
        both = vmap(
            grad(partial(run, model), has_aux=True), in_dims=(0, 0 if own_clips else None), randomness="different"
        )
        return both(state, given)

    gradients, (logits, weights) = together(models[0])
    for number, model in enumerate(models):
        expected = model(*(([x[number] for x in given[0]], given[1][number]) if own_clips else given))
        torch.testing.assert_close((logits[number], weights[number]), expected)
        expected[0].square().sum().backward()
        for path, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[path][number], parameter.grad)
    _, (_, dropped) = together(make(name, modality_dropout=0.5, dropout=0.5))
    assert len({((row > 0) & row.isfinite()).numpy().tobytes() for row in dropped}) == 3


def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="no_such_option"):
        make(name, no_such_option=1)
