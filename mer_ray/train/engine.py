"""One network under DeepSpeed: ZeRO 0 to 3, mixed precision, offload; its state read and set as whole tensors.

A step is the same function of its batch, its number and the seed, whatever the stage and the number of workers: the
gradients of all micro-batches are averaged, dropout is seeded by step, micro-batch and worker.

Every method is called by all workers at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations import HfDeepSpeedConfig

from mer_ray.config import OptimizationConfig
from mer_ray.errors import ConfigError, CorruptPartError, PluginError
from mer_ray.pretrained import tuning
from mer_ray.train.state import WEIGHT, Trained

try:
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_full_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )
except ImportError as error:
    raise PluginError("training needs deepspeed, which runs on Linux alone: pip install deepspeed there") from error

_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
_REMEMBERED = {"adamw": ("exp_avg", "exp_avg_sq"), "adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_STEP = "step"
_COMPILED = "deepspeed_shm_comm"


def connect(device: str) -> None:
    """Join the workers; the addresses are Ray Train's."""
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        deepspeed.ops.__compatible_ops__[_COMPILED] = False  # for inference alone, and a minute of a C++ compiler
    backend = "nccl" if device == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


class Engine:
    """Trains one network.

    Args:
        build: makes the network, its parameters set to train or not; its forward takes a batch and gives an outcome
            with ``loss``.
        settings: how.
        seed: of what is new in the network, and of dropout.
        total_steps: of the whole run, for the learning rate.
        resumed: what was trained so far, and the number of steps done; None to begin.
        shareable: whether, by stage 3, pretrained models are shared out as they are loaded; else once they are whole.

    Raises:
        ConfigError: the batch cannot be shared out evenly, or the precision needs another stage.
        CorruptPartError: what was trained so far is of another model.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        settings: OptimizationConfig,
        seed: int,
        total_steps: int,
        resumed: tuple[Callable[[], Iterator[Trained]], int] | None = None,
        shareable: bool = True,
    ) -> None:
        self.settings, self.seed, self.total_steps = settings, seed, total_steps
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        config = deepspeed_config(settings, self.world)
        torch.manual_seed(seed)
        with _sharing(config) if settings.zero_stage == 3 and shareable else nullcontext():
            network = build()
        if settings.checkpoint_activations:
            tuning.recompute(network)
        if settings.precision != "fp32":
            kind = get_accelerator().device_name()
            network.forward = torch.autocast(kind, _DTYPES[settings.precision])(network.forward)
        self._numbers = _numbers(network)
        for number in self._numbers.values():
            number.data = number.data.reshape(1)  # DeepSpeed sends parameters round as bytes, which no () can be
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.step = 0
        if resumed:
            self._set_weights(resumed[0]())
        self.optimizer = _optimizer(list(self.parameters.values()), settings)
        self.engine, self._wrapped, *_ = deepspeed.initialize(model=network, optimizer=self.optimizer, config=config)
        if resumed:
            self.step = resumed[1]
            self._set_states(resumed[0]())

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        module: nn.Module = self.engine.module
        return module

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        device: torch.device = self.engine.device
        return device

    @property
    def num_parameters(self) -> tuple[int, int]:
        """How many numbers are trained, and how many there are."""
        sizes = {name: getattr(p, "ds_numel", p.numel()) for name, p in self.network.named_parameters()}
        return sum(sizes[name] for name in self.parameters), sum(sizes.values())

    def train(self, micro_batches: Sequence[dict[str, Any]]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """One step; this worker's mean loss, and the parts of it that the network names."""
        self.engine.train()
        rate = learning_rate(self.step, self.total_steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, parts = [], []
        for number, batch in enumerate(micro_batches):
            torch.manual_seed(hash((self.seed, self.step, number, self.rank)))
            outcome = self.engine(batch)
            self.engine.backward(outcome.loss)
            self.engine.step()
            losses.append(outcome.loss.detach())
            parts.append(outcome.parts)
        self.step += 1
        names = parts[0]
        return torch.stack(losses).mean(), {n: torch.stack([part[n].detach() for part in parts]).mean() for n in names}

    @torch.no_grad()
    def score(self, batch: dict[str, Any]) -> Any:  # noqa: ANN401 - the network's outcome
        """The outcome of a batch, nothing learnt and nothing dropped."""
        self.engine.eval()
        return self.engine(batch)

    def state(self) -> Iterator[Trained]:
        """Every trained parameter, whole, one after the other; all workers must take all."""
        for name, parameter in self.parameters.items():
            keys = _REMEMBERED[self.settings.optimizer] if self.step else ()
            yield Trained(name, {key: self._whole(parameter, key).cpu() for key in (WEIGHT, *keys)})

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the network, trained or not, whole, one module's after the other; all workers take all."""
        for prefix, module in self.network.named_modules():
            own = list(module.parameters(recurse=False))
            with deepspeed.zero.GatheredParameters(own, enabled=self.settings.zero_stage == 3):
                for name, tensor in module.state_dict(prefix=f"{prefix}." if prefix else "").items():
                    if name.rpartition(".")[0] == prefix:
                        whole = tensor.detach().cpu().clone()
                        yield name, whole.reshape(()) if name in self._numbers else whole

    def _whole(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self.settings.zero_stage == 0:
            found = parameter if key == WEIGHT else self.optimizer.state[parameter][key]
        elif key == WEIGHT:
            found = safe_get_full_fp32_param(parameter)
        else:
            found = safe_get_full_optimizer_state(parameter, key)
        return found.detach().float().clone()

    def _set_weights(self, state: Iterator[Trained]) -> None:
        """Before the engine is made: it takes its own copies from these."""
        for part in state:
            parameter = self._parameter(part)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
                if self.rank == 0 or not hasattr(parameter, "ds_id"):
                    parameter.data.copy_(part.tensors[WEIGHT])

    def _parameter(self, part: Trained) -> nn.Parameter:
        """The one that a checkpoint speaks of.

        Raises:
            CorruptPartError: there is none of this name and shape.
        """
        found = self.parameters.get(part.name)
        shape = tuple(part.tensors[WEIGHT].shape)
        if found is None or tuple(getattr(found, "ds_shape", found.shape)) != shape:
            there = "is not trained here" if found is None else f"is {tuple(found.shape)} here, {shape} there"
            raise CorruptPartError(f"the checkpoint is of another model: {part.name} {there}; give another run.dir")
        return found

    def _set_states(self, state: Iterator[Trained]) -> None:
        """The optimiser's memory, and the weights again in full precision."""
        stage = self.settings.zero_stage
        keys = _REMEMBERED[self.settings.optimizer]
        for held in self._held():
            self.optimizer.state[held] = {key: torch.zeros_like(held, dtype=torch.float32) for key in keys}
            if self.settings.optimizer != "sgd":
                self.optimizer.state[held][_STEP] = torch.tensor(float(self.step))
        if stage in (1, 2):
            self._wrapped._lazy_init_hp_params_optimizer_state()  # else done by the first step, and there is none yet
        for part in state:
            parameter = self.parameters[part.name]
            for key, tensor in part.tensors.items():
                self._set_whole(parameter, key, tensor.to(parameter.device))

    def _set_whole(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        stage = self.settings.zero_stage
        if stage == 0:
            (parameter.data if key == WEIGHT else self.optimizer.state[parameter][key]).copy_(value)
        elif key == WEIGHT and stage == 3:
            safe_set_local_fp32_param(parameter, self._own(parameter, value))
        elif key == WEIGHT:
            safe_set_full_fp32_param(parameter, value)
        elif stage == 3:
            safe_set_local_optimizer_state(parameter, self._own(parameter, value), key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _own(self, parameter: Any, value: Tensor) -> Tensor:  # noqa: ANN401 - DeepSpeed gives it ds_tensor
        """This worker's share by stage 3: all are of one size, the last ones padded, which DeepSpeed forgets here."""
        size: int = parameter.ds_tensor.numel()
        padded = functional.pad(value.flatten(), (0, size * self.world - value.numel()))
        return padded.narrow(0, size * self.rank, size)

    def _held(self) -> list[Tensor]:
        """What the optimiser steps: the parameters, or this worker's flat shares of them."""
        if self.settings.zero_stage == 3:
            return list(self._wrapped.fp32_partitioned_groups_flat)
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _sharing(config: dict[str, Any]) -> Iterator[None]:
    """Inside, transformers makes and loads models with their parameters shared out over the workers.

    What else is made there is whole until DeepSpeed takes it: adapters, low-rank updates, layers for classes.
    """
    told = HfDeepSpeedConfig(dict(config))  # looked for, not passed on
    yield
    del told


def _numbers(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are a single number, apart from those already shared out."""
    return {name: p for name, p in network.named_parameters() if p.dim() == 0 and not hasattr(p, "ds_id")}


def deepspeed_config(settings: OptimizationConfig, world: int) -> dict[str, Any]:
    """What DeepSpeed is told.

    Raises:
        ConfigError: see ``Engine``.
    """
    stage, precision = settings.zero_stage, settings.precision
    at_once = settings.micro_batch * world
    if settings.batch_size % at_once:
        raise ConfigError(
            f"optimization.batch_size={settings.batch_size} cannot be shared out: {world} workers with micro_batch="
            f"{settings.micro_batch} take {at_once} at once, of which it must be a multiple"
        )
    if stage == 0 and (precision == "fp16" or settings.offload != "none"):
        raise ConfigError("optimization.zero_stage=0 knows neither fp16 nor offload; set zero_stage=1 or more")
    if settings.offload == "parameters" and stage < 3:
        raise ConfigError("optimization.offload=parameters needs zero_stage=3; offload=optimizer needs 1 or more")
    zero: dict[str, Any] = {"stage": stage}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.batch_size // at_once,
        "gradient_clipping": settings.clip,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bf16" and stage > 0},
        "fp16": {"enabled": precision == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def learning_rate(step: int, total_steps: int, settings: OptimizationConfig) -> float:
    """Of a step, counted from 0: a linear warm-up, then down a half cosine to nothing, or constant."""
    warm = round(settings.warmup * total_steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warm) / max(1, total_steps - warm)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(parameters: list[nn.Parameter], settings: OptimizationConfig) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    made: torch.optim.Optimizer = _OPTIMIZERS[settings.optimizer](parameters, **options)
    return made
