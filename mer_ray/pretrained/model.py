"""A plug-in with a model of PyTorch: its weights, device, precision, batches, and running out of memory.

Shapes: those of the family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mer_ray.errors import PluginError
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.plugin import Config, Plugin
from mer_ray.pretrained.weights import Weights

if TYPE_CHECKING:  # light plug-ins run without the seconds and the memory that torch takes
    from collections.abc import Mapping

    from torch import nn

    from mer_ray.pretrained.architecture import Architecture
    from mer_ray.pretrained.forward import Apart, Runner

_CPU_BUDGET_PART = 6  # large batches only spill a CPU's caches: HuBERT-large took 1.3 times as long with all of it


class PretrainedConfig(Config):
    """Base of the ``Config`` of plug-ins with weights. Each sets its own default ``budget``."""

    weights: Weights = Field(description="where the weights come from")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on cuda, else float32")
    compile: bool = Field(False, description="torch.compile the model: slow to start, then faster")
    budget: int = Field(ge=1, description="count x longest of one forward; unset, a CPU takes a sixth of the default")


class PretrainedModel(Plugin, ABC):
    """A plug-in that runs a model on items (clips, windows, frames, texts) in length-bucketed batches.

    A family says how to make its model, how a batch is made of items' payloads, and what the model makes of it. In a
    batch an item gives what it gives alone, within 1e-4 (float32) or 2e-2 (bfloat16), relative to the largest value.

    Class attributes:
        architectures: what ``random:NAME`` may name.
        file_options: options that name files of further weights; their content is part of the identity.
        speed_options: options that change how fast the result comes and not the result, beside those of all families.
        exact: only items of the very same size share a batch; a property where it depends on the weights.
    """

    architectures: ClassVar[Mapping[str, Architecture]]
    batch_size: ClassVar[int] = 64
    file_options: ClassVar[tuple[str, ...]] = ()
    speed_options: ClassVar[tuple[str, ...]] = ()
    exact: bool = False
    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self._runner: Runner | None = None
        self._model: nn.Module | None = None

    @property
    def identity(self) -> str:
        """See the base class."""
        given = {option: getattr(self.config, option, None) for option in self.file_options}
        files = [f"{option} {weights_.file_identity(file)}" for option, file in given.items() if file]
        return ", ".join([weights_.identity(self.config.weights), *files])

    @property
    def dtype(self) -> str:
        """See the base class."""
        if self.config.dtype != "auto":
            return self.config.dtype
        return "bfloat16" if self._device == "cuda" else "float32"

    @property
    def spec_options(self) -> dict[str, Any]:
        """See the base class: neither where the weights lie nor what only changes the speed."""
        elsewhere = {"weights", "device", "compile", "budget", *self.file_options, *self.speed_options}
        return self.config.model_dump(mode="json", exclude=elsewhere) | {"dtype": self.dtype}

    @cached_property
    def model_config(self) -> Any:
        """The library's configuration of the model, read without its weights."""
        from mer_ray.pretrained import architecture  # noqa: PLC0415

        if self.config.weights.is_random:
            return architecture.pick(self.architectures, self.config.weights).config()
        return self._read_config(weights_.fetch(self.config.weights, only_config=True))

    def load(self) -> None:
        """See the base class."""
        import torch  # noqa: PLC0415

        from mer_ray.pretrained import forward  # noqa: PLC0415

        device = forward.pick_device(self._device)
        budget = self.config.budget
        if device == "cpu" and "budget" not in self.config.model_fields_set:
            budget = max(1, budget // _CPU_BUDGET_PART)
        runner = forward.Runner(device, getattr(torch, self.dtype), budget, compile_model=self.config.compile)
        self._model = runner.place(self._open(runner.device))
        self._runner = runner

    def empty(self) -> nn.Module:
        """The model of the configuration, its weights not loaded."""
        return self._build(self.model_config)

    def _open(self, device: str, tune: Callable[[nn.Module], None] = lambda model: None) -> nn.Module:
        """The model with its weights and what stands before it, ready to be read out."""
        from mer_ray.pretrained import architecture  # noqa: PLC0415

        if self.config.weights.is_random:
            model = architecture.randomly(lambda: self._build(self.model_config), device)
            self._prepare_randomly()
            tune(model)
            return self._adapt(model)
        folder = weights_.fetch(self.config.weights)
        model = self._load(folder)
        try:
            self._prepare(folder)
        except OSError as error:
            source = self.config.weights.source
            raise PluginError(f"weights {source}: {folder} lacks what stands before the model: {error}") from error
        tune(model)
        return self._adapt(model)

    @property
    def runner(self) -> Runner:
        """What runs the model; loads it if that is not done."""
        if self._runner is None:
            self.load()
        assert self._runner is not None
        return self._runner

    @property
    def _device(self) -> Literal["cpu", "cuda"]:
        if self.config.device != "auto":
            return self.config.device
        from mer_ray.pretrained import forward  # noqa: PLC0415

        return forward.pick_device("auto")

    def _read_config(self, folder: Any) -> Any:
        """The library's configuration from a folder of ``weights.fetch``; transformers' by default."""
        from transformers import AutoConfig  # noqa: PLC0415

        weights = self.config.weights
        try:
            return AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=weights.trust_remote_code
            )
        except (OSError, ValueError, KeyError) as error:
            raise PluginError(
                f"weights {weights.source}: no config.json of transformers in {folder}: {error}"
            ) from error

    @abstractmethod
    def _build(self, model_config: Any) -> nn.Module:
        """The model of a configuration, its weights not loaded."""

    @abstractmethod
    def _load(self, folder: Any) -> nn.Module:
        """The model with its weights."""

    @abstractmethod
    def _prepare(self, folder: Any) -> None:
        """Load what stands before the model: feature extractor, image processor, tokenizer."""

    @abstractmethod
    def _prepare_randomly(self) -> None:
        """Make the same for random weights."""

    def _adapt(self, model: nn.Module) -> nn.Module:
        """Cut off what is not read out, add adapters, catch layers; before the model is placed."""
        return model

    @abstractmethod
    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        """Inputs of one forward, on the CPU. Called from another thread on CUDA."""

    @abstractmethod
    def _forward(self, inputs: dict[str, Any]) -> Apart[Any]:
        """What the model makes of the payloads; ``inputs`` are on the device."""
