"""How many words each recogniser gets wrong, clean and in noise, and how many it makes up where nobody speaks.

Sentences of a closed vocabulary said by espeak-ng, in noises of ESC-10; what is heard is lower-cased and without marks.
JSON, for each recogniser ``recognisers.<name>``:

- ``wer_clean``, ``wer_10db``, ``wer_0db``: words put in, left out and changed per word that was said;
- ``invented_words``: words told of ``noises`` noises in which nobody speaks, behind the voice gate;
- ``invented_words_ungated``: the same without the gate;
- ``audio_seconds_per_s``: seconds of speech transcribed in a second, clean and noisy together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks import spoken
from mer_ray.benchmarks.harness import table, timed
from mer_ray.benchmarks.spoken import Samples, Spoken
from mer_ray.config import PluginConfig, Section
from mer_ray.pretrained import packaged
from mer_ray.recognisers.base import Transcript
from mer_ray.speech.augment import at_snr, fitting
from mer_ray.speech.errors import word_error_rate
from mer_ray.stages.hearing import Hearing
from mer_ray.types import SAMPLE_RATE_HZ

_NO_MARK = re.compile(r"[^\w\s']")


class Config(Section):
    """Which recognisers, on how much speech."""

    data: str = Field(description="folder with noise_rir_16k.tar, see docs/benchmarks.md")
    recognisers: dict[str, PluginConfig] | None = Field(
        None, description="by a name of yours, plug-in and options; unset: Whisper of the installed packages of weights"
    )
    clips: int = Field(40, ge=1, description="sentences, each heard in every condition")
    noises: int = Field(60, ge=1, description="noises in which nobody speaks")
    seed: int = Field(0, ge=0, description="of sentences, voices and noises")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure every recogniser; prints a table as each is done.

    Raises:
        ConfigError, PluginError: the folder's file is missing, or a recogniser's package or weights.
        InputError: espeak-ng is not installed.
    """
    rng = np.random.default_rng(settings.seed)
    said = spoken.say(spoken.sentences(settings.clips, rng), spoken.voices(new=False), rng)
    noises = [*spoken.noises(settings.data).values()]
    cases = {"clean": [one.samples for one in said]}
    for snr_db in (10, 0):
        cases[f"{snr_db}db"] = [_in_noise(one, noises, snr_db, rng) for one in said]
    silent = noises[: settings.noises]
    figures: dict[str, Any] = {"recognisers": {}, "noises": len(silent)}
    for name, recogniser in (settings.recognisers or _installed()).items():
        figures["recognisers"][name] = measure(Hearing(recogniser, gpus=0.0), said, cases, silent)
        _show(console, figures)
        yield figures


def measure(
    hearing: Hearing, said: Sequence[Spoken], cases: dict[str, list[Samples]], silent: Sequence[Samples]
) -> dict[str, float]:
    """The figures of one recogniser, see the module."""
    hearing.setup()
    texts = [one.text for one in said]
    figures: dict[str, float] = {}
    seconds = 0.0
    for condition, waveforms in cases.items():
        heard: list[Transcript] = []
        seconds += timed(lambda waveforms=waveforms, heard=heard: heard.extend(hearing.hear(waveforms)))  # type: ignore[misc]
        figures[f"wer_{condition}"] = word_error_rate(texts, [words(one.text) for one in heard])
    figures["invented_words"] = _count(hearing.hear(silent))
    figures["invented_words_ungated"] = _count(hearing.recogniser.transcribe(silent))
    length = sum(len(samples) for waveforms in cases.values() for samples in waveforms) / SAMPLE_RATE_HZ
    return figures | {"audio_seconds_per_s": length / seconds}


def words(text: str) -> str:
    """A transcript as it is compared: lower case, no marks.

    >>> words("Take the red cup, now!")
    'take the red cup now'
    """
    return " ".join(_NO_MARK.sub(" ", text.lower()).split())


def _count(transcripts: Sequence[Transcript]) -> int:
    return sum(len(words(one.text).split()) for one in transcripts)


def _in_noise(one: Spoken, noises: Sequence[Samples], snr_db: float, rng: np.random.Generator) -> Samples:
    noise = noises[int(rng.integers(len(noises)))]
    return at_snr(one.samples, fitting(noise, len(one.samples), rng), snr_db)


def _installed() -> dict[str, PluginConfig]:
    english = {"language": "en"}
    return {
        name: PluginConfig(name="ctranslate2", options={"weights": {"source": f"{packaged.PACKAGE}{name}"}, **english})
        for name in packaged.installed()
    }


def _show(console: Console, figures: dict[str, Any]) -> None:
    columns = list(next(iter(figures["recognisers"].values())))
    rows = [[name, *told.values()] for name, told in figures["recognisers"].items()]
    table(console, "recognisers", ["recogniser", *columns], rows)
