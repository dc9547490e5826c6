"""Models of one shape as one batched program: their parameters are stacked, and one call runs them all.

Shapes: G models side by side, B clips, M features, X outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mer_ray.fusion import base

State = dict[str, Tensor]
"""Parameters and buffers by name, (G, ...)."""


class Stack:
    """Several models of one shape, each on clips of its own.

    Args:
        models: of one class and config.
        device: where they run.
    """

    def __init__(self, models: Sequence[base.Model], device: torch.device) -> None:
        parameters, buffers = stack_module_state(list(models))
        self.parameters: State = {name: p.detach().to(device).requires_grad_() for name, p in parameters.items()}
        self.buffers: State = {name: buffer.to(device) for name, buffer in buffers.items()}
        self._template = copy.deepcopy(models[0])

    @property
    def state(self) -> State:
        """What the models are."""
        return {**self.parameters, **self.buffers}

    def __call__(
        self, features: list[Tensor], present_GBM: Tensor, *, training: bool, state: State | None = None
    ) -> Tensor:
        """Outputs of every model on its own clips, (G, B, X).

        Args:
            features: M tensors, float32 (G, B, D).
            present_GBM: bool.
            training: whether dropout acts; each model draws its own.
            state: in place of the stack's own.
        """
        self._template.train(training)
        run = vmap(self._one, randomness="different")
        outputs: Tensor = run(self.state if state is None else state, features, present_GBM)
        return outputs

    def keep(self, places: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Go on with the models at ``places`` alone, and with their part of the optimizer's state."""
        for parameter in self.parameters.values():
            parameter.data, parameter.grad = parameter.data[places], None
            state = optimizer.state[parameter]
            state.update({name: value[places] for name, value in state.items() if name != "step"})
        self.buffers = {name: buffer[places] for name, buffer in self.buffers.items()}

    def _one(self, state: State, features: list[Tensor], present: Tensor) -> Tensor:
        outputs: Tensor
        outputs, _ = functional_call(self._template, state, (features, present))
        return outputs


@torch.no_grad()
def load(model: nn.Module, state: State, place: int) -> None:
    """Give one model its parameters and buffers out of a stack's."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.copy_(state[name][place])
