"""What every separator must do, over every file of the kind."""

import pickle

import numpy as np
import pytest

from mer_ray import registry
from mer_ray.separators.base import Separator

SECOND = 16_000


@pytest.fixture(params=registry.names("separators"), scope="module")
def separator(request: pytest.FixtureRequest) -> Separator:
    module = registry.find("separators", request.param)
    config = module.tiny() if hasattr(module, "tiny") else module.Config()
    built = registry.build("separators", request.param, config)
    assert isinstance(built, Separator)
    built.load()
    return built


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(2 * SECOND) / SECOND
    bursts = np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 2 * time) > 0) * 0.3
    return [
        (bursts + 0.05 * rng.normal(size=len(time))).astype(np.float32),
        np.zeros(SECOND, np.float32),
        (0.1 * rng.normal(size=777)).astype(np.float32),
        np.zeros(0, np.float32),
    ]


def test_two_finite_streams_of_the_same_length(separator: Separator, waveforms: list[np.ndarray]) -> None:
    streams = separator.separate(waveforms)
    assert [stream.shape for stream in streams] == [(2, len(waveform)) for waveform in waveforms]
    assert all(stream.dtype == np.float32 and np.isfinite(stream).all() for stream in streams)


def test_a_clip_does_not_depend_on_its_neighbours(separator: Separator, waveforms: list[np.ndarray]) -> None:
    together = separator.separate(waveforms)
    alone = [separator.separate([waveform])[0] for waveform in waveforms]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_survives_pickling(separator: Separator, waveforms: list[np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(separator))
    again.load()
    np.testing.assert_allclose(again.separate(waveforms[:1])[0], separator.separate(waveforms[:1])[0], atol=1e-5)


def test_no_clip_gives_no_stream(separator: Separator) -> None:
    assert separator.separate([]) == []
