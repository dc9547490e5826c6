"""Weights written as transformers writes them: safetensors in shards, an index, the configuration, what stands before.

One tensor after the other is taken, so that a model larger than the machine's memory can be written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_SHARD_BYTES = 2 * 2**30
_BEFORE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "vocab.bpe")
_OF_WEIGHTS = ("config.json", "*.safetensors.index.json")


def write(weights: Iterable[tuple[str, Tensor]], config: Any, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model.

    Args:
        weights: its tensors by name.
        config: the library's configuration of it.
        folder: there.
        dtype: of floating-point tensors.
    """
    shard: dict[str, Tensor] = {}
    names: list[list[str]] = []
    size = total = 0
    for name, tensor in weights:
        kept = (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        if shard and size + kept.nbytes > _SHARD_BYTES:
            names.append(_write_shard(shard, folder, len(names)))
            shard, size = {}, 0
        shard[name] = kept
        size, total = size + kept.nbytes, total + kept.nbytes
    names.append(_write_shard(shard, folder, len(names)))
    _name_shards(names, folder, total)
    config.save_pretrained(folder)


def under(
    weights: Iterable[tuple[str, Tensor]], prefix: str, others: dict[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with ``prefix``, without it; what is passed over goes into ``others``."""
    for name, tensor in weights:
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
        elif others is not None:
            others[name] = tensor.contiguous()


def copy_processor(source: Path, folder: Path) -> None:
    """Copy what stands before the model (feature extractor, image processor, tokenizer) from its old folder."""
    for pattern in _BEFORE:
        for path in source.glob(pattern):
            if not any(path.match(other) for other in _OF_WEIGHTS):
                shutil.copy(path, folder / path.name)


def _write_shard(shard: dict[str, Tensor], folder: Path, number: int) -> list[str]:
    save_file(shard, folder / f"shard-{number}.safetensors", metadata={"format": "pt"})
    return list(shard)


def _name_shards(names: list[list[str]], folder: Path, total: int) -> None:
    """Their final names, which say how many there are, and the index of several."""
    if len(names) == 1:
        (folder / "shard-0.safetensors").rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for number, inside in enumerate(names):
        final = f"model-{number + 1:05d}-of-{len(names):05d}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / final)
        where |= dict.fromkeys(inside, final)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
