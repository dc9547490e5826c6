"""What a training would need of GPUs and hosts, by DeepSpeed's own estimators; what batches need comes on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from torch import nn


class Size(NamedTuple):
    """Of a network: all its parameters, and those of the module that holds most by itself."""

    parameters: int
    largest_layer: int


class Need(NamedTuple):
    """Bytes of each GPU, and of the host that they are in."""

    gpu: int
    host: int


def size(build: Callable[[], nn.Module]) -> Size:
    """The size of the network that ``build`` makes, without making its memory."""
    with torch.device("meta"):
        network = build()
    own = [sum(p.numel() for p in module.parameters(recurse=False)) for module in network.modules()]
    return Size(sum(p.numel() for p in network.parameters()), max(own))


def need(size: Size, stage: int, gpus: int, offload: bool) -> Need:
    """To train all of it with Adam in half precision, on one host.

    Args:
        size: of the network.
        stage: of ZeRO, 2 or 3.
        gpus: in the host.
        offload: the optimiser, and by stage 3 the parameters, wait in the host's memory.
    """
    if stage == 2:
        host, gpu = estimate_zero2_model_states_mem_needs(
            size.parameters, num_gpus_per_node=gpus, num_nodes=1, cpu_offload=offload
        )
    else:
        host, gpu, _ = estimate_zero3_model_states_mem_needs(
            size.parameters,
            size.largest_layer,
            num_gpus_per_node=gpus,
            num_nodes=1,
            cpu_offload=offload,
            cpu_offload_params=offload,
        )
    return Need(int(gpu), int(host))
