"""RNNoise (Valin 2018): a tiny recurrent network that sets the gain of bands; the lightest real denoiser.

The package ``pyrnnoise`` carries the library with its weights; nothing is downloaded.

Shapes: T frames.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mer_ray.errors import PluginError
from mer_ray.pretrained import extras, weights
from mer_ray.separators import base

_PACKAGE = "pyrnnoise"
_FULL_SCALE = np.float32(32768)
_Samples = ctypes.POINTER(ctypes.c_float)


class Config(base.Config):
    """RNNoise has no options."""


class Separator(base.Enhancer):
    """The voice by RNNoise, and the residual."""

    version: ClassVar[int] = 1
    licence: ClassVar[str] = "BSD-3-Clause"
    delay: ClassVar[int] = 960

    @property
    def identity(self) -> str:
        """The package's version and the hash of the library, which holds the weights."""
        return f"{_PACKAGE} {extras.version(_PACKAGE)}, {weights.file_identity(str(weights_file()))}"

    def load(self) -> None:
        """See the base class."""
        _module()

    def _enhance(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        module = _module()
        made = frames * _FULL_SCALE  # the library's own scale; its Python would round to 16 bits on the way
        state = module.create()
        try:
            for frame in made:
                place = frame.ctypes.data_as(_Samples)
                module.lib.rnnoise_process_frame(state, place, place)
        finally:
            module.destroy(state)
        return made / _FULL_SCALE


def weights_file() -> Path:
    """The library within the installed package.

    Raises:
        PluginError: the package is not installed.
    """
    return Path(_module().LIBRNNOISE)


@cache
def _module() -> ModuleType:
    """The one file of the package that binds the library: the package itself imports players and plotting."""
    file = extras.folder("pyrnnoise", _PACKAGE) / "rnnoise.py"
    spec = importlib.util.spec_from_file_location("mer_ray_rnnoise", file)
    if spec is None or spec.loader is None or not file.exists():
        raise PluginError(f"{_PACKAGE} {extras.version(_PACKAGE)} has no {file.name}; pip install 'mer_ray[speech]'")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise PluginError(f"{_PACKAGE} cannot open its library: {error}") from error
    return module
