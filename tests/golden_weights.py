"""Weights and inputs that a formula gives, for outputs that were written down once from another implementation."""

import torch


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    """Float32 in [-1, 1], the same on every machine."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(1.3 * numbers + 0.01 * (numbers % 97) ** 2 + phase).float().reshape(shape)


def fill(model: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Give a model such weights; those of norms lie around 1."""
    for name, parameter in model.named_parameters():
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data.copy_(around + scale * wave(*parameter.shape, phase=float(len(name))))
    return model.eval()
