"""What a training run is, apart from how it is spread out: every trained tensor with its optimiser's, whole.

So a run that was begun by two workers under ZeRO 3 goes on with one under ZeRO 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

WEIGHT = "weight"
"""Name of a parameter's own value among its tensors; the others are the optimiser's, by its own names."""


@dataclass(frozen=True)
class Trained:
    """One parameter that is trained.

    Attributes:
        name: in the network.
        tensors: float32 on the CPU, each of the parameter's shape: ``WEIGHT`` and what the optimiser remembers.
    """

    name: str
    tensors: Mapping[str, Tensor]


def to_tensors(parts: Iterable[Trained]) -> dict[str, Tensor]:
    """As one dictionary, ``<name>:<tensor>``."""
    return {f"{part.name}:{key}": tensor for part in parts for key, tensor in part.tensors.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> Iterator[Trained]:
    """From ``to_tensors``, in the order of the names: files tell none, and all workers must keep to one."""
    found: dict[str, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        name, _, key = place.rpartition(":")
        found.setdefault(name, {})[key] = tensor
    for name in sorted(found):
        yield Trained(name, found[name])


def num_bytes(part: Trained) -> int:
    """Its size."""
    return sum(tensor.nbytes for tensor in part.tensors.values())
