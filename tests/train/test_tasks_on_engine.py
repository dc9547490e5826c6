"""Tasks of different kinds on two real workers, by every stage of ZeRO, against a plain loop on the same batches."""

import made_task
import numpy as np
import pytest
import torch
import workers
from torch import nn

from mer_ray.config import OptimizationConfig

TASKS = ("speech_finetune", "text_finetune", "emovclip", "visual_alignment", "mae_pretrain")
STAGES = (0, 1, 2, 3)
STEPS, CLIPS = 4, 4
CASES = [(name, stage, "fp32") for name in TASKS for stage in STAGES]
HALVED = [(name, stage, "bf16") for name in ("speech_finetune", "text_finetune", "emovclip") for stage in (0, 1, 3)]


class Steady(nn.Module):
    """A network that drops nothing: what is dropped depends on how a batch is shared out."""

    def __init__(self, network):
        super().__init__()
        self.network = network.eval()

    def train(self, mode=True):
        return self

    def forward(self, batch):
        return self.network(batch)


def settings(stage, precision="fp32"):
    return OptimizationConfig(
        batch_size=CLIPS,
        micro_batch=CLIPS // 2,
        learning_rate=1e-2,
        clip=1.0,
        zero_stage=stage,
        optimizer="sgd",
        precision=precision,
    )


def plain(name, folder):
    """Without DeepSpeed: losses, and the weights at the end."""
    from mer_ray.train import engine  # noqa: PLC0415

    task = made_task.make(name, folder)
    torch.manual_seed(0)
    network = Steady(task.build())
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = engine._optimizer(trained, settings(0))
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = engine.learning_rate(step, STEPS, settings(0))
        loss = network(made_task.batch(task, np.arange(CLIPS), step)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, network.state_dict()


def whole_share(network):
    """Of all numbers of a network, those that this worker has in its memory as whole parameters."""
    sizes = [(p.numel(), getattr(p, "ds_numel", p.numel())) for p in network.parameters()]
    return sum(own for own, _ in sizes) / sum(every for _, every in sizes)


def work(rank, world, port, folder):
    """One of two workers: every task by every stage."""
    workers.take_place(rank, world, port)
    import torch.distributed as dist  # noqa: PLC0415

    from mer_ray.tasks.base import to  # noqa: PLC0415
    from mer_ray.train import engine  # noqa: PLC0415

    engine.connect("cpu")
    for name, stage, precision in CASES + HALVED:
        task = made_task.make(name, folder / "tiny")
        built = []

        def build(task=task, built=built):
            network = Steady(task.build())
            built.append(whole_share(network))
            return network

        one = engine.Engine(build, settings(stage, precision), 0, STEPS, shareable=task.shareable)
        losses = []
        for step in range(STEPS):
            loss, _ = one.train([to(made_task.batch(task, np.arange(CLIPS)[rank::2], step), one.device)])
            everyone = [None, None]
            dist.all_gather_object(everyone, loss.item())
            losses.append(sum(everyone) / 2)
        weights = dict(one.weights())
        if rank == 0:
            torch.save((losses, weights, built[0]), folder / f"{name}-{stage}-{precision}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for name in TASKS:
        made_task.make(name, folder / "tiny")  # by one process, before the workers read it
    workers.start(work, folder, world=2)
    return folder


@pytest.fixture(scope="module", params=TASKS)
def expected(request, trained):
    return request.param, *plain(request.param, trained / "tiny")


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_curve_is_that_of_a_plain_loop(trained, expected, stage):
    name, losses, weights = expected
    found_losses, found, _ = torch.load(trained / f"{name}-{stage}-fp32.pt")
    np.testing.assert_allclose(found_losses, losses, rtol=2e-4)
    assert found.keys() == weights.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "stage", "precision"), HALVED)
def test_in_half_precision_it_is_nearly_so(trained, name, stage, precision):
    whole, _, _ = torch.load(trained / f"{name}-{stage}-fp32.pt")
    halved, _, _ = torch.load(trained / f"{name}-{stage}-{precision}.pt")
    np.testing.assert_allclose(halved, whole, rtol=0.03)
    assert halved != whole


def test_by_stage_3_a_language_model_is_never_whole_in_one_worker(trained):
    """Loaded in shares; whole at first are the low-rank updates and the layer for the classes."""
    _, _, shared = torch.load(trained / "text_finetune-3-fp32.pt")
    _, _, whole = torch.load(trained / "text_finetune-2-fp32.pt")
    assert shared < 0.2 < whole == 1
