"""How much each separator cleans real voices in real noise, and how fast.

Voices of nEMO in noises of ESC-10, at every ratio of ``snr_db``, and with the echo of a room at ``room_snr_db``. JSON:

- ``noisy_si_sdr_db``: the mean scale-invariant signal-to-distortion ratio of what is not separated, over ``snr_db``;
- ``separators.<name>.si_sdr_db``: the same of what the separator makes of it. Of an enhancer it is the voice's stream,
  of all others the better of the two, because which is the voice is not known to them;
- ``separators.<name>.clips_per_s``: clips of a condition in one call, after a first clip that is not timed;
- ``separators.<name>.peer_clips_per_s``: by the package's own way, a clip after the other on the same machine, in turns
  with ours; for a separator without a package, our own called with one clip at a time;
- ``conditions.<condition>`` and ``separators.<name>.conditions.<condition>``: the ratios by condition, ``<n>db`` and
  ``room``; the room is part of no mean, and its voices with their echo are what is compared with;
- ``audio_seconds``: mean length of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console

from mer_ray import registry
from mer_ray.benchmarks import denoise_peers, noisy_voices
from mer_ray.benchmarks.harness import table, timed
from mer_ray.benchmarks.noisy_voices import NoisyVoice, Waveform
from mer_ray.config import Section
from mer_ray.evaluation.denoising import si_sdr_db
from mer_ray.separators.base import Enhancer, Separator
from mer_ray.types import SAMPLE_RATE_HZ

ROOM = "room"


class Config(Section):
    """Which separators, on how many clips, in which noise."""

    data: str = Field(description="folder with nemo_wav16k.tar and noise_rir_16k.tar, see docs/benchmarks.md")
    separators: dict[str, dict[str, Any]] = Field(
        {"spectral": {}, "rnnoise": {}, "deepfilternet": {}},
        min_length=1,
        description="separators, each with its options: {mossformer2: {weights: {source: DIR}}}",
    )
    clips: int = Field(60, ge=1, description="voices, drawn by seed; each is heard in every condition")
    snr_db: list[float] = Field([0, 5, 10], min_length=1, description="power of the voice over that of the noise, dB")
    room_snr_db: float = Field(5, description="the same for voices in a room")
    seed: int = Field(0, ge=0, description="of voices, noises and rooms")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure every separator; prints a table at the end.

    Raises:
        ConfigError: an archive is missing or damaged.
        PluginError: a separator is not installed, or its weights are missing.
    """
    recordings = noisy_voices.read(settings.data, settings.clips, settings.seed)
    cases = {f"{snr:g}db": noisy_voices.mix(recordings, snr, settings.seed) for snr in settings.snr_db}
    in_no_room = list(cases)
    cases[ROOM] = noisy_voices.mix(recordings, settings.room_snr_db, settings.seed, in_room=True)
    noisy = {name: _mean([si_sdr_db(one.noisy, one.clean) for one in case]) for name, case in cases.items()}
    figures: dict[str, Any] = {
        "noisy_si_sdr_db": _mean([noisy[name] for name in in_no_room]),
        "conditions": noisy,
        "audio_seconds": _mean([len(voice) / SAMPLE_RATE_HZ for voice in recordings.voices]),
        "separators": {},
    }
    for name, options in settings.separators.items():
        separator: Separator = registry.build("separators", name, options)
        told = measure(name, separator, cases)
        figures["separators"][name] = {"si_sdr_db": _mean([told["conditions"][one] for one in in_no_room]), **told}
        yield figures
    _show(console, figures)


def measure(name: str, separator: Separator, cases: Mapping[str, Sequence[NoisyVoice]]) -> dict[str, Any]:
    """The ratio in each condition, and the speed of ours and of the package's own way over all."""
    peer = denoise_peers.PEERS.get(name) or partial(_alone, separator)
    first = next(iter(cases.values()))[0].noisy
    separator.load()
    separator.separate([first])
    peer(first)
    ratios, ours, theirs = {}, 0.0, 0.0
    for condition, case in cases.items():
        made: list[Waveform] = []
        waveforms = [one.noisy for one in case]
        ours += timed(partial(_separate, separator, waveforms, made))
        theirs += timed(partial(_one_by_one, peer, waveforms))
        ratios[condition] = _mean([_ratio(separator, *pair) for pair in zip(made, case, strict=True)])
    count = sum(len(case) for case in cases.values())
    return {"clips_per_s": count / ours, "peer_clips_per_s": count / theirs, "conditions": ratios}


def _alone(separator: Separator, waveform: Waveform) -> Waveform:
    return separator.separate([waveform])[0]


def _separate(separator: Separator, waveforms: Sequence[Waveform], made: list[Waveform]) -> None:
    made += separator.separate(waveforms)


def _one_by_one(peer: Callable[[Waveform], Waveform], waveforms: Sequence[Waveform]) -> None:
    for waveform in waveforms:
        peer(waveform)


def _ratio(separator: Separator, streams: Waveform, voice: NoisyVoice) -> float:
    told = streams[:1] if isinstance(separator, Enhancer) else streams
    return max(si_sdr_db(stream, voice.clean) for stream in told)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    conditions = list(figures["conditions"])
    rows = [["not separated", figures["noisy_si_sdr_db"], *figures["conditions"].values(), "", ""]]
    rows += [
        [name, told["si_sdr_db"], *told["conditions"].values(), told["clips_per_s"], told["peer_clips_per_s"]]
        for name, told in figures["separators"].items()
    ]
    columns = ["separator", "SI-SDR, dB", *conditions, "clips/s", "peer, clips/s"]
    table(console, "voices in noise", columns, rows)
