"""What every recogniser must do, over every file of the kind."""

import pickle
import shutil

import numpy as np
import pytest

from mer_ray import registry
from mer_ray.errors import ClipError, Reason
from mer_ray.recognisers.base import Recogniser, Transcript
from mer_ray.stages.isolate import isolate
from mer_ray.stages.plugins import plugin_spec

SECOND = 16_000


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SECOND)) / SECOND
    tone = 0.2 * np.sin(2 * np.pi * (150 + 20 * seed) * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    return (tone + 0.01 * rng.normal(size=len(time))).astype(np.float32)


@pytest.fixture(params=registry.names("recognisers"), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def recogniser(name: str) -> Recogniser:
    module = registry.find("recognisers", name)
    built = module.tiny() if hasattr(module, "tiny") else registry.build("recognisers", name, {})
    assert isinstance(built, Recogniser)
    built.load()
    return built


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    return [
        voice(1.0),
        np.zeros(SECOND, np.float32),
        voice(0.05),
        np.zeros(0, np.float32),
        np.clip(20 * voice(1.3, 1), -1, 1),
        voice(0.7, 2) + np.float32(0.5),
        voice(2.0, 3),
        voice(34.0, 4),
    ]


@pytest.fixture(scope="module")
def transcripts(recogniser: Recogniser, waveforms: list[np.ndarray]) -> list[Transcript]:
    return recogniser.transcribe(waveforms)


def check(transcript: Transcript, seconds: float) -> None:
    assert transcript.text == transcript.text.strip()
    assert 0.0 <= transcript.confidence <= 1.0
    assert transcript.score is None or transcript.score <= 0.0
    ends = [0.0, *(second for one in transcript.segments for second in (one.start, one.end))]
    assert ends == sorted(ends)
    assert ends[-1] <= seconds + 1e-6
    assert all(segment.text in transcript.text for segment in transcript.segments)


def test_one_transcript_per_waveform(transcripts: list[Transcript], waveforms: list[np.ndarray]) -> None:
    assert len(transcripts) == len(waveforms)
    for transcript, waveform in zip(transcripts, waveforms, strict=True):
        check(transcript, len(waveform) / SECOND)


def test_silence_gives_no_words(transcripts: list[Transcript]) -> None:
    assert [transcripts[i].text for i in (1, 3)] == ["", ""]


def test_a_clip_does_not_depend_on_its_neighbours_nor_on_its_place(
    recogniser: Recogniser, waveforms: list[np.ndarray], transcripts: list[Transcript]
) -> None:
    alone = [recogniser.transcribe([waveform])[0] for waveform in waveforms]
    backwards = recogniser.transcribe(waveforms[::-1])[::-1]
    for one, other, third in zip(transcripts, alone, backwards, strict=True):
        assert one.text == other.text == third.text
        assert [one.confidence] * 2 == pytest.approx([other.confidence, third.confidence], abs=1e-3)


def test_five_minutes(recogniser: Recogniser) -> None:
    (transcript,) = recogniser.transcribe([voice(300.0)])
    check(transcript, 300.0)


def test_samples_that_are_no_numbers_cost_their_clip_alone(
    recogniser: Recogniser, waveforms: list[np.ndarray], transcripts: list[Transcript]
) -> None:
    broken = waveforms[0].copy()
    broken[7] = np.nan
    made = isolate(recogniser.transcribe, [waveforms[0], broken, waveforms[1]])
    assert isinstance(made[1], ClipError)
    assert made[1].reason is Reason.NOT_FINITE
    assert [made[0].text, made[2].text] == [transcripts[0].text, transcripts[1].text]


def test_where_and_how_fast_it_runs_is_no_part_of_the_spec(recogniser: Recogniser, name: str, tmp_path) -> None:
    fields = type(recogniser.config).model_fields
    if "weights" not in fields:
        pytest.skip("no weights")
    spec = plugin_spec(name, recogniser)
    elsewhere = shutil.copytree(recogniser.config.weights.source, tmp_path / "elsewhere")
    told = {"weights": {"source": str(elsewhere)}}
    told |= {option: 3 for option in ("windows", "threads", "budget") if option in fields}
    told |= {"device": "cuda", "compute_type" if "compute_type" in fields else "dtype": recogniser.dtype}
    moved = registry.build("recognisers", name, recogniser.config.model_dump() | told)
    assert plugin_spec(name, moved) == spec
    for file in (*elsewhere.glob("*.safetensors"), *elsewhere.glob("model.bin")):
        file.write_bytes(file.read_bytes() + b"more")
    others = shutil.copytree(elsewhere, tmp_path / "others")
    changed = registry.build("recognisers", name, recogniser.config.model_dump() | {"weights": {"source": str(others)}})
    assert plugin_spec(name, changed)["identity"] != spec["identity"]


def test_survives_pickling(recogniser: Recogniser, waveforms: list[np.ndarray], transcripts: list[Transcript]) -> None:
    again = pickle.loads(pickle.dumps(recogniser))
    again.load()
    assert again.transcribe(waveforms) == transcripts


def test_no_clip_gives_no_transcript(recogniser: Recogniser) -> None:
    assert recogniser.transcribe([]) == []
