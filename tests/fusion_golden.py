"""A tiny instance with weights that are written down: what the golden tests of the fusion models share."""

import numpy as np
import torch

from mer_ray import registry

FEATURES = ([[1.0, -2.0], [0.5, 3.0]], [[-1.0, 0.25, 2.0], [4.0, 4.0, 4.0]])
PRESENT = [[True, True], [True, False]]


def model(name):
    """Two features of widths 2 and 3, width 2, 2 classes; the numbers of parameter p are
    0.4 + 0.6 sin(p + 1), 0.4 + 0.6 sin(p + 2), ..."""
    made = registry.build("fusion", name, {"dims": (2, 3), "num_classes": 2, "hidden": 2}).eval()
    for place, parameter in enumerate(made.parameters()):
        steps = torch.arange(1, parameter.numel() + 1, dtype=torch.float64) + place
        parameter.data = (0.4 + 0.6 * torch.sin(steps)).float().reshape(parameter.shape)
    return made


def result(name):
    with torch.no_grad():
        logits, weights = model(name)([torch.tensor(x) for x in FEATURES], torch.tensor(PRESENT))
    return logits.numpy(), weights.numpy()


def embedded(name):
    """The features of both clips at the common width, (2, 2, 2), in NumPy; NaN where nothing stands for absence."""
    state = {path: tensor.double().numpy() for path, tensor in model(name).state_dict().items()}
    h_BMD = np.empty((2, 2, 2))
    for m, x in enumerate(FEATURES):
        first, second = f"embed.project.{m}.1", f"embed.project.{m}.4"
        hidden = np.maximum(np.array(x) @ state[f"{first}.weight"].T + state[f"{first}.bias"], 0)
        h_BMD[:, m] = np.maximum(hidden @ state[f"{second}.weight"].T + state[f"{second}.bias"], 0)
    h_BMD[1, 1] = state["embed.absent"][1] if "embed.absent" in state else np.nan
    return h_BMD, state
