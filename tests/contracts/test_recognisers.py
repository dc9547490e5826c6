"""What every recogniser must do, over every file of the kind."""

import pickle

import numpy as np
import pytest

from mer_ray import registry
from mer_ray.recognisers.base import Recogniser, Transcript

SECOND = 16_000


@pytest.fixture(params=registry.names("recognisers"), scope="module")
def recogniser(request: pytest.FixtureRequest) -> Recogniser:
    module = registry.find("recognisers", request.param)
    config = module.tiny() if hasattr(module, "tiny") else module.Config()
    built = registry.build("recognisers", request.param, config)
    assert isinstance(built, Recogniser)
    built.load()
    return built


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(SECOND) / SECOND
    tone = 0.2 * np.sin(2 * np.pi * 150 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    return [
        (tone + 0.01 * rng.normal(size=SECOND)).astype(np.float32),
        np.zeros(SECOND, np.float32),
        (0.1 * rng.normal(size=500)).astype(np.float32),
        np.zeros(0, np.float32),
    ]


def test_one_transcript_per_waveform(recogniser: Recogniser, waveforms: list[np.ndarray]) -> None:
    transcripts = recogniser.transcribe(waveforms)
    assert len(transcripts) == len(waveforms)
    for transcript in transcripts:
        assert isinstance(transcript, Transcript)
        assert transcript.text == transcript.text.strip()
        assert 0.0 <= transcript.confidence <= 1.0


def test_silence_gives_no_words(recogniser: Recogniser, waveforms: list[np.ndarray]) -> None:
    assert [transcript.text for transcript in recogniser.transcribe([waveforms[1], waveforms[3]])] == ["", ""]


def test_a_clip_does_not_depend_on_its_neighbours(recogniser: Recogniser, waveforms: list[np.ndarray]) -> None:
    alone = [recogniser.transcribe([waveform])[0].text for waveform in waveforms]
    assert [transcript.text for transcript in recogniser.transcribe(waveforms)] == alone


def test_survives_pickling(recogniser: Recogniser, waveforms: list[np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(recogniser))
    again.load()
    assert again.transcribe(waveforms) == recogniser.transcribe(waveforms)


def test_no_clip_gives_no_transcript(recogniser: Recogniser) -> None:
    assert recogniser.transcribe([]) == []
