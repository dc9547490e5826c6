"""What every training task must hold (tasks/base.py), over every file of the kind, by its shipped tiny config."""

import numpy as np
import pytest
import torch
from closeness import assert_close
from made_task import CLIPS, LABEL, batch, clip, make, shipped

from mer_ray import registry
from mer_ray.encoders.base import ClipInput, PretrainedEncoder
from mer_ray.errors import ConfigError
from mer_ray.pretrained.ctc import Greedy
from mer_ray.recognisers.base import Recogniser

ALL = [0, 1, 2, 3]
HARD = [
    ClipInput(np.zeros(3200, np.float32), np.zeros((1, 40, 40, 3), np.uint8), np.zeros(1, np.float32), ""),
    clip(1, 6.0, 40),
]


def fitted(task, rate, steps=60):
    """The network after some steps on the four clips, and the losses."""
    torch.manual_seed(0)
    network = task.build()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = network.train()(batch(task, ALL, step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return network.eval(), losses


@pytest.fixture(scope="module", params=registry.names("tasks"))
def done(request, tmp_path_factory):
    """A task, its network before and after training, the losses, and the encoder that its entry makes."""
    folder = tmp_path_factory.mktemp(request.param)
    task = make(request.param, folder / "tiny")
    torch.manual_seed(0)
    before = {name: p.detach().clone() for name, p in task.build().named_parameters()}
    network, losses = fitted(task, shipped(request.param)["optimization"]["learning_rate"])
    (folder / "weights").mkdir()
    entry = task.save(network.state_dict().items(), folder / "weights", str(folder / "weights"))
    encoder = registry.build(task.makes, entry["plugin"], entry["options"])
    encoder.load()
    return task, before, network, losses, encoder


def test_the_loss_falls(done):
    _, _, _, losses, _ = done
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


def test_only_what_is_set_to_train_changes(done):
    _, before, network, _, _ = done
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert changed
    assert changed <= trained


def test_classes_are_told_apart_where_there_are_any(done):
    task, _, network, _, _ = done
    with torch.no_grad():
        scores = network(batch(task, ALL)).scores
    assert scores.shape == (4, len(task.class_names))
    if task.class_names:
        assert (scores.argmax(dim=1).numpy() == LABEL).mean() >= 0.75


def test_silence_black_and_long_clips_are_learnt_from_like_others(done):
    task, _, network, _, _ = done
    clips = [clip for clip in HARD if task.usable(clip)]
    made = task.collate(clips, LABEL[: len(clips)], [np.random.default_rng(0) for _ in clips])
    assert torch.isfinite(network(made).loss)


def test_the_same_draws_give_the_same_batch(done):
    task, _, network, _, _ = done
    with torch.no_grad():
        losses = [network(batch(task, ALL, seed)).loss.item() for seed in (3, 3)]
    assert losses[0] == losses[1]


def test_what_was_saved_is_what_the_encoder_loads(done):
    """Its features are those of the trained network, run in training's own way."""
    _, _, network, _, encoder = done
    if isinstance(encoder, Recogniser):
        assert [heard.text for heard in encoder.transcribe([one.audio for one in CLIPS])] == spelled(network)
        return
    features = encoder.encode(CLIPS)
    assert all(f.shape[1] == encoder.dim and np.isfinite(f).all() for f in features)
    inner = getattr(network, "encoder", None)
    if isinstance(inner, PretrainedEncoder) and inner.spec_options == encoder.spec_options:
        for one, found in zip(CLIPS, features, strict=True):
            if inner.modality != "video" or getattr(inner.config, "grid", None):
                with torch.no_grad():
                    expected = inner.features(inner.inputs([one])[0]).pooled()[0]
                assert_close(found.mean(axis=0), expected.numpy(), 1e-4)


def spelled(network):
    """What a recogniser's network writes of the clips, by the likeliest letter of each frame."""
    listener, texts = network.listener, []
    with torch.no_grad():
        for one in CLIPS:
            (made,) = listener.log_probabilities(listener.inputs([one.audio])[0]).apart()
            texts.append(" ".join(Greedy(listener.vocabulary).decode(made).words))
    return texts


def test_a_tiny_model_needs_a_local_folder(done):
    name = type(done[0]).__module__.rpartition(".")[2]
    settings = shipped(name)["task"]["options"]
    config = registry.configure("tasks", name, settings)
    if "tiny" in str(settings):
        with pytest.raises(ConfigError, match="local disk"):
            config.placed(None)
