"""Many items of different lengths through one model: buckets under a budget, precision, memory.

Shapes: N items of one call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mer_ray.errors import ClipError, ConfigError, Reason

_LOG = logging.getLogger(__name__)
_SLACK = 0.2  # a bucket that is full enough takes nothing shorter than its longest by more than this share
_FULL_ENOUGH = 0.05  # of the budget: one this full keeps the device busy
_SIGNS_OF_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
_MATRIX_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


@dataclass(frozen=True)
class Item:
    """A unit of work: a whole clip's waveform, a window of it, a frame, a text.

    Attributes:
        clip: index of its clip in the call.
        size: its length in whatever the budget counts: samples, tokens, 1 for a frame.
        payload: what ``collate`` takes.
    """

    clip: int
    size: int
    payload: Any


R = TypeVar("R")


class Apart(Protocol[R]):
    """What one forward makes of its items."""

    def apart(self) -> list[R]:
        """The result of each item, on the CPU."""


@dataclass(frozen=True)
class Features:
    """What one forward makes of its items, where the model runs.

    Attributes:
        values_BTD: of any float type, padded to the longest.
        spans: an item's own positions, its first and the one behind its last; None where all are.
    """

    values_BTD: Tensor
    spans: Sequence[tuple[int, int]] | None = None

    def apart(self) -> list[Tensor]:
        """Float32 (t, D) of each item, on the CPU; one copy from the device."""
        values_BTD = self.values_BTD.float().cpu()
        spans = self.spans or [(0, values_BTD.shape[1])] * len(values_BTD)
        return [values_TD[start:stop] for values_TD, (start, stop) in zip(values_BTD, spans, strict=True)]

    def pooled(self) -> Tensor:
        """The mean of each item's own positions, (B, D), with gradients."""
        if self.spans is None:
            return self.values_BTD.mean(dim=1)
        spans = torch.tensor(self.spans, device=self.values_BTD.device)
        position = torch.arange(self.values_BTD.shape[1], device=self.values_BTD.device)
        own_BT = ((position >= spans[:, :1]) & (position < spans[:, 1:])).to(self.values_BTD.dtype)
        return torch.einsum("bt,btd->bd", own_BT, self.values_BTD) / own_BT.sum(dim=1, keepdim=True)


def buckets(sizes: Sequence[int], budget: int, exact: bool = False) -> list[list[int]]:
    """Cut items into batches of similar length, longest first.

    Args:
        sizes: of each item.
        budget: most of ``count x longest`` in one batch; a single item may be larger.
        exact: only items of the very same size share a batch, for models that padding would change.

    Returns:
        Indices of the items of each batch.

    >>> buckets([4, 9, 5, 10], budget=20)
    [[3, 1], [2, 0]]
    """
    cut: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if cut and _takes(cut[-1], sizes, sizes[index], budget, exact):
            cut[-1].append(index)
        else:
            cut.append([index])
    return cut


def _takes(bucket: list[int], sizes: Sequence[int], size: int, budget: int, exact: bool) -> bool:
    longest = sizes[bucket[0]]
    if (len(bucket) + 1) * longest > budget or (exact and size != longest):
        return False
    return size >= (1 - _SLACK) * longest or len(bucket) * longest < _FULL_ENOUGH * budget


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; a CPU that does not is hundreds of times slower."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """``cuda`` or ``cpu``.

    Raises:
        ConfigError: CUDA is wanted and not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch finds no CUDA device here; give the encoder device=cpu or gpus=0")
    return wanted


class Runner:
    """Runs a model on items: where, in which precision, in batches under a budget.

    In bfloat16 the matrices are kept in it and multiplied under autocast, while norms, embeddings and the residual
    stream stay float32: half the memory, and rounding that does not add up over the layers.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of the matrix products.
        budget: see ``buckets``; halved for good when a batch does not fit in memory.
        compile_model: pass the model through ``torch.compile``.
    """

    def __init__(self, device: str, dtype: torch.dtype, budget: int, compile_model: bool = False) -> None:
        self.device = device
        self.dtype = dtype
        self.budget = budget
        self.compile_model = compile_model

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in evaluation mode, frozen, its matrices in ``dtype``."""
        model = model.eval().requires_grad_(False).float() if self.dtype == torch.float32 else _halve(model)
        model = model.to(self.device)
        return torch.compile(model, dynamic=True) if self.compile_model else model  # type: ignore[return-value]

    def cut(self, items: Sequence[Item], exact: bool = False) -> list[list[int]]:
        """Indices of the items of each batch, see ``buckets``."""
        return buckets([item.size for item in items], self.budget, exact)

    def map(
        self,
        items: Sequence[Item],
        collate: Callable[[list[Any]], dict[str, Any]],
        forward: Callable[[dict[str, Any]], Apart[R]],
        exact: bool = False,
    ) -> list[R]:
        """The result of every item, in their order, on the CPU.

        Args:
            items: the work.
            collate: payloads to inputs of the model, on the CPU; on CUDA it works ahead in a thread.
            forward: inputs on the device to what ``Apart`` parts; runs without gradients, under autocast.
            exact: see ``buckets``.

        Raises:
            ClipError: one item alone does not fit in memory.
        """
        results: dict[int, R] = {}
        for bucket, inputs in self._ahead(self.cut(items, exact), items, collate):
            made = self._run(bucket, inputs, items, collate, forward)
            for index, result in zip(bucket, made, strict=True):
                results[index] = result
        return [results[index] for index in range(len(items))]

    def _ahead(
        self, cut: list[list[int]], items: Sequence[Item], collate: Callable[[list[Any]], dict[str, Any]]
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Each bucket with its collated inputs; beside a GPU the next one is collated meanwhile."""
        if self.device == "cpu":
            for bucket in cut:
                yield bucket, collate([items[i].payload for i in bucket])
            return
        with ThreadPoolExecutor(1) as pool:
            ready: Future[dict[str, Any]] | None = None
            for bucket, following in zip(cut, [*cut[1:], None], strict=True):
                inputs = ready.result() if ready else collate([items[i].payload for i in bucket])
                ready = pool.submit(collate, [items[i].payload for i in following]) if following else None
                yield bucket, inputs

    def _run(
        self,
        bucket: list[int],
        inputs: dict[str, Any] | None,
        items: Sequence[Item],
        collate: Callable[[list[Any]], dict[str, Any]],
        forward: Callable[[dict[str, Any]], Apart[R]],
    ) -> list[R]:
        if inputs is None:
            inputs = collate([items[i].payload for i in bucket])
        try:
            return self.forward(inputs, forward)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        if self.device == "cuda":
            torch.cuda.empty_cache()
        if len(bucket) == 1:
            raise ClipError(Reason.OUT_OF_MEMORY, f"an item of size {items[bucket[0]].size} alone does not fit")
        half = len(bucket) // 2
        self.budget = max(1, min(self.budget, half * items[bucket[0]].size))
        _LOG.warning("out of memory with %d items: batches are halved, budget is now %d", len(bucket), self.budget)
        parts = (bucket[:half], bucket[half:])
        return [result for part in parts for result in self._run(part, None, items, collate, forward)]

    def forward(self, inputs: dict[str, Any], forward: Callable[[dict[str, Any]], Apart[R]]) -> list[R]:
        """One batch of ``map``: its inputs to the device, through the model, its results back."""
        there = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        is_half = self.dtype == torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=is_half), _without_tf32():
            return forward(there).apart()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Float32 convolutions of cuDNN in float32: unlike matrix products they round to TF32 unless told otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _halve(model: nn.Module) -> nn.Module:
    """Matrices in bfloat16, everything else float32."""
    model = model.eval().requires_grad_(False)
    for module in model.modules():
        if nn.utils.parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                nn.utils.parametrize.remove_parametrizations(module, name)
    halved: set[int] = set()
    for module in model.modules():
        halved.update(id(matrix) for matrix in _matrices(module))
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.bfloat16 if id(tensor) in halved else torch.float32)
    return model


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """A module's own parameters that are multiplied; transformers keeps those of all experts in one tensor."""
    own = list(module.parameters(recurse=False))
    if isinstance(module, _MATRIX_MODULES):
        return own
    num_experts = getattr(module, "num_experts", None)
    return [parameter for parameter in own if parameter.ndim == 3 and len(parameter) == num_experts]


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return any(sign in message for sign in _SIGNS_OF_NO_MEMORY)
