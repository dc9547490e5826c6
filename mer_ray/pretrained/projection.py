"""P2's MLP that takes a visual feature into the space of a speech model: ReLU(W1 ReLU(W2 f + b1) + b2).

P2 section 2.2, equation 5. The file is safetensors with ``hidden.weight`` (H, V), ``hidden.bias`` (H,), ``out.weight``
(A, H) and ``out.bias`` (A,), where V is the width of the visual feature, A that of the audio feature and H = A in P2.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mer_ray.errors import PluginError

FILE = "projection.safetensors"
"""Name of the file in a folder of weights."""


class Projection(nn.Module):
    """The MLP.

    Args:
        width: V.
        audio_width: A.
        hidden_width: H; A where it is not given.

    Shapes:
        features: float (..., V).
        returns: float (..., A), nowhere below 0.
    """

    def __init__(self, width: int, audio_width: int, hidden_width: int | None = None) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_width or audio_width)
        self.out = nn.Linear(hidden_width or audio_width, audio_width)

    def forward(self, features: Tensor) -> Tensor:
        """See the class for shapes."""
        return torch.relu(self.out(torch.relu(self.hidden(features))))

    def save(self, folder: Path) -> None:
        """Write the file into a folder."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Projection:
        """Read the file of a folder; float32, in evaluation mode, frozen.

        Raises:
            PluginError: it cannot be read, or is of another shape.
        """
        path = folder / FILE
        try:
            tensors = load_file(path)
            hidden_width, width = tensors["hidden.weight"].shape
            projection = cls(width, len(tensors["out.weight"]), hidden_width)
            projection.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise PluginError(
                f"{path}: not a projection of hidden.weight, hidden.bias, out.weight and out.bias: {error}"
            ) from error
        return projection.eval().requires_grad_(False)
