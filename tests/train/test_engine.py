"""DeepSpeed on two real workers against a plain loop, resumed by two and then by one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import workers
from torch import nn

from mer_ray.config import OptimizationConfig
from mer_ray.data.storage import Store

STEPS = 8
PARTS = ((2, 0, 3), (2, 3, 6), (1, 6, STEPS))  # workers, from which step to which
COMMON = OptimizationConfig(batch_size=8, micro_batch=2, clip=0.5, learning_rate=1e-2)
CASES = {
    "zero0-adamw": {"zero_stage": 0},
    "zero1-adamw": {"zero_stage": 1},
    "zero2-adamw": {"zero_stage": 2},
    "zero3-adamw": {"zero_stage": 3},
    "zero0-sgd": {"zero_stage": 0, "optimizer": "sgd"},
    "zero2-sgd": {"zero_stage": 2, "optimizer": "sgd"},
    "zero3-adam": {"zero_stage": 3, "optimizer": "adam"},
    "zero1-offloaded": {"zero_stage": 1, "offload": "optimizer"},
    "zero2-offloaded": {"zero_stage": 2, "offload": "optimizer"},
    "zero3-offloaded": {"zero_stage": 3, "offload": "parameters"},
}


class Outcome(NamedTuple):
    loss: torch.Tensor
    parts: dict


class Network(nn.Module):
    """Its first layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU())
        self.head = nn.Linear(16, 3)
        self.body[0].requires_grad_(False)

    def forward(self, batch):
        loss = nn.functional.cross_entropy(self.head(self.body(batch["x"])), batch["y"])
        return Outcome(loss, {})


def batch_of(step):
    rng = np.random.default_rng(step)
    return torch.tensor(rng.standard_normal((8, 6)), dtype=torch.float32), torch.tensor(rng.integers(3, size=8))


def share(step, rank, world):
    """A worker's micro-batches of two."""
    x, y = (part[rank::world] for part in batch_of(step))
    return [{"x": a, "y": b} for a, b in zip(x.split(2), y.split(2), strict=True)]


def plain(settings):
    """The same without DeepSpeed: losses and last weights."""
    from mer_ray.train import engine  # noqa: PLC0415

    network = Network()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = engine._optimizer(trained, settings)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = engine.learning_rate(step, STEPS, settings)
        x, y = batch_of(step)
        loss = network({"x": x, "y": y}).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, network.state_dict()


def work(rank, world, port, folder, first, last):
    """One worker: every case from step ``first`` to ``last``, with a checkpoint at the end."""
    workers.take_place(rank, world, port)
    import torch.distributed as dist  # noqa: PLC0415

    from mer_ray.train import engine  # noqa: PLC0415
    from mer_ray.train.checkpoint import Checkpoints, Progress  # noqa: PLC0415

    engine.connect("cpu")

    def gather(mine):
        everyone = [None] * world
        dist.all_gather_object(everyone, mine)
        return everyone

    for name, case in CASES.items():
        settings = COMMON.model_copy(update=case)
        checkpoints = Checkpoints(Store(f"{folder}/{name}"), keep=1)
        found = checkpoints.newest()
        resumed = (found.state, found.progress.step) if found else None
        one = engine.Engine(Network, settings, seed=0, total_steps=STEPS, resumed=resumed)
        assert one.num_parameters == (16 * 17 + 3 * 17, 6 * 16 + 16 + 16 * 17 + 3 * 17)
        losses = []
        for step in range(first, last):
            assert one.step == step
            loss, _ = one.train(share(step, rank, world))
            losses.append(sum(gather(loss.item())) / world)
        checkpoints.save(one.state(), Progress(one.step), rank, world, gather)
        weights = dict(one.weights())
        if rank == 0:
            torch.save((losses, weights), f"{folder}/{name}-{last}.pt")
    dist.destroy_process_group()


def refuse(rank, world, port):
    """A worker that is given what was trained of another model."""
    workers.take_place(rank, world, port)
    import torch.distributed as dist  # noqa: PLC0415

    from mer_ray.errors import CorruptPartError  # noqa: PLC0415
    from mer_ray.train import engine  # noqa: PLC0415
    from mer_ray.train.state import Trained  # noqa: PLC0415

    engine.connect("cpu")
    others = {"neck.weight": "neck.weight is not trained here", "head.weight": r"is \(3, 16\) here, \(4, 16\) there"}
    for name, why in others.items():
        for stage in (0, 3):
            settings = COMMON.model_copy(update={"zero_stage": stage})
            other = [Trained(name, {"weight": torch.zeros(4, 16)})]
            with pytest.raises(CorruptPartError, match=f"of another model: .*{why}; give another run.dir"):
                engine.Engine(Network, settings, 0, STEPS, (lambda other=other: iter(other), 1))
    dist.destroy_process_group()


def test_a_checkpoint_of_another_model_is_refused():
    workers.start(refuse, world=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Every case, begun and gone on with by two workers, ended by one."""
    folder = tmp_path_factory.mktemp("trained")
    for world, first, last in PARTS:
        workers.start(work, str(folder), first, last, world=world)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_every_stage_does_what_a_plain_loop_does_also_resumed_by_fewer(trained, name):
    expected_losses, expected_weights = plain(COMMON.model_copy(update=CASES[name]))
    parts = [torch.load(trained / f"{name}-{last}.pt") for _, _, last in PARTS]
    _, weights = parts[-1]
    np.testing.assert_allclose([loss for losses, _ in parts for loss in losses], expected_losses, rtol=1e-5)
    assert weights.keys() == expected_weights.keys()
    for key, expected in expected_weights.items():
        torch.testing.assert_close(weights[key], expected, rtol=1e-4, atol=1e-6)
