"""What every separator must do, over every file of the kind."""

import copy
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_close

from mer_ray import registry
from mer_ray.errors import ClipError, Reason
from mer_ray.pretrained import weights
from mer_ray.pretrained.plugin import Plugin
from mer_ray.separators.base import Separator
from mer_ray.stages.isolate import isolate
from mer_ray.stages.plugins import plugin_spec

SECOND = 16_000
NAMES = registry.names("separators")
WITH_WEIGHTS = [name for name in NAMES if hasattr(registry.find("separators", name), "tiny")]
WITH_A_PACKAGE = [name for name in NAMES if hasattr(registry.find("separators", name), "weights_file")]


def build(name: str) -> Separator:
    module = registry.find("separators", name)
    built = module.tiny() if hasattr(module, "tiny") else module.Separator(module.Config())
    assert isinstance(built, Separator)
    built.load()
    return built


@pytest.fixture(params=NAMES, scope="module")
def separator(request: pytest.FixtureRequest) -> Separator:
    return build(request.param)


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Bursts of a voiced sound in noise."""
    time = np.arange(round(seconds * SECOND)) / SECOND
    bursts = np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 2 * time) > 0) * 0.3
    return (bursts + 0.05 * np.random.default_rng(seed).normal(size=len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    return [
        speechlike(2.3),
        np.zeros(SECOND, np.float32),
        (0.1 * np.random.default_rng(0).normal(size=777)).astype(np.float32),
        np.zeros(0, np.float32),
        speechlike(1.1, seed=1),
    ]


@pytest.fixture(scope="module")
def streams(separator: Separator, waveforms: list[np.ndarray]) -> list[np.ndarray]:
    return separator.separate(waveforms)


def assert_sound(streams: np.ndarray, waveform: np.ndarray) -> None:
    """Two finite streams of the waveform's length that are not louder than it by much."""
    assert streams.shape == (2, len(waveform))
    assert streams.dtype == np.float32
    assert np.isfinite(streams).all()
    assert np.sqrt(np.mean(streams**2, axis=1)).max() <= 2 * np.sqrt(np.mean(waveform**2))


def test_two_finite_streams_of_the_same_length(streams: list[np.ndarray], waveforms: list[np.ndarray]) -> None:
    assert [stream.shape for stream in streams] == [(2, len(waveform)) for waveform in waveforms]
    assert all(stream.dtype == np.float32 and np.isfinite(stream).all() for stream in streams)


def test_a_clip_does_not_depend_on_its_neighbours(
    separator: Separator, waveforms: list[np.ndarray], streams: list[np.ndarray]
) -> None:
    for waveform, together in zip(waveforms, streams, strict=True):
        if len(waveform):
            assert_close(together, separator.separate([waveform])[0])


def test_the_order_of_the_clips_is_kept(
    separator: Separator, waveforms: list[np.ndarray], streams: list[np.ndarray]
) -> None:
    assert not np.allclose(streams[0][:, :SECOND], streams[4][:, :SECOND], atol=1e-3)
    for ahead, backwards in zip(streams, separator.separate(waveforms[::-1])[::-1], strict=True):
        np.testing.assert_allclose(ahead, backwards, atol=1e-4)


def test_it_separates(streams: list[np.ndarray], waveforms: list[np.ndarray]) -> None:
    first, second = streams[0]
    assert np.abs(first - second).max() > 0.01


def test_silence_stays_silence(streams: list[np.ndarray]) -> None:
    assert not streams[1].any()


def test_a_clip_of_a_twentieth_of_a_second(separator: Separator) -> None:
    waveform = speechlike(0.05)
    assert_sound(separator.separate([waveform])[0], waveform)


def test_clipped_and_too_loud_sound(separator: Separator) -> None:
    clipped, loud = np.clip(20 * speechlike(0.6), -1, 1), 8 * speechlike(0.6)
    for made, waveform in zip(separator.separate([clipped, loud]), (clipped, loud), strict=True):
        assert_sound(made, waveform)


def test_a_constant_offset(separator: Separator) -> None:
    waveform = np.full(SECOND, 0.5, np.float32)
    assert_sound(separator.separate([waveform])[0], waveform)


def test_barely_audible_sound_is_divided_by_nothing(separator: Separator) -> None:
    waveform = np.float32(1e-12) * speechlike(0.3)
    assert np.isfinite(separator.separate([waveform])[0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_cost_their_clip_alone(separator: Separator, bad: float) -> None:
    broken = speechlike(0.3)
    broken[7] = bad
    good = speechlike(0.3, seed=3)
    first, error, last = isolate(separator.separate, [good, broken, good])
    assert isinstance(error, ClipError)
    assert error.reason is Reason.NOT_FINITE
    for made in (first, last):
        assert isinstance(made, np.ndarray)
        assert_close(made, separator.separate([good])[0])


@pytest.mark.parametrize(
    "name", [name if name in WITH_WEIGHTS else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_five_minutes(name: str) -> None:
    waveform = speechlike(300)
    assert_sound(build(name).separate([waveform])[0], waveform)


def test_survives_pickling(separator: Separator, waveforms: list[np.ndarray], streams: list[np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(separator))
    again.load()
    assert_close(again.separate(waveforms[:1])[0], streams[0])


def test_no_clip_gives_no_stream(separator: Separator) -> None:
    assert separator.separate([]) == []


def spec_with(separator: Plugin, **options: object) -> dict[str, object]:
    """The spec of the same separator with other options."""
    other = copy.copy(separator)
    other.__init__(separator.config.model_copy(update=options))  # type: ignore[misc]
    return plugin_spec("x", other)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_change_the_digest_and_where_they_lie_does_not(name: str, tmp_path: Path) -> None:
    separator = registry.find("separators", name).tiny()
    given = separator.config.weights
    moved, changed = (Path(shutil.copytree(given.source, tmp_path / place)) for place in ("moved", "changed"))
    (file,) = changed.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    told = plugin_spec("x", separator)
    assert spec_with(separator, device="cpu", budget=7) == told
    assert spec_with(separator, weights=given.model_copy(update={"source": str(moved)})) == told
    assert spec_with(separator, weights=given.model_copy(update={"source": str(changed)})) != told


@pytest.mark.parametrize("name", WITH_A_PACKAGE)
def test_the_weights_of_a_package_are_part_of_the_digest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = registry.find("separators", name)
    separator = module.Separator(module.Config())
    told = plugin_spec("x", separator)
    copied, changed = tmp_path / "copied", tmp_path / "changed"
    content = module.weights_file().read_bytes()
    copied.write_bytes(content)
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(module, "weights_file", lambda: copied)
    assert plugin_spec("x", separator) == told
    monkeypatch.setattr(module, "weights_file", lambda: changed)
    assert weights.file_identity(str(changed)) in separator.identity
    assert plugin_spec("x", separator) != told
