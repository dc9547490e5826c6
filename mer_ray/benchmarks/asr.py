"""What each part of a noise-robust recogniser is worth: word error rates on sentences that espeak-ng says.

A small recogniser of letters is trained from scratch on sentences of a closed vocabulary, and asked about other
sentences by voices that it never heard labelled, in noises, rooms and chatter that it never heard. JSON, under
``arms.<arm>``: ``clean``, ``environment_5db`` and ``babble_10db``, word error rates, means over the seeds. The arms:

- ``plain``: trained on the sentences as they are; the likeliest letters;
- ``mixed``: trained on mixtures, clean : environment : other speakers = 2 : 1 : 1; the likeliest letters;
- ``mixed_lexicon``: the same, by a beam over the vocabulary;
- ``mixed_ngram``: the same, with a bigram of the training sentences;
- ``few``: as ``mixed``, of the first few of the sentences and in fewer steps; what the next two begin with;
- ``self_trained``: ``few``, trained on with what it was surest of in an unlabelled pool, by beam and bigram of its few
  sentences; round by round;
- ``self_trained_control``: ``few``, trained on for as many steps without the pool. All three by the likeliest letters.

``draws``, one for each seed: its ``arms``; ``seconds`` of each training; ``rounds`` of the self-training, the first
before it: ``held_out``, the word error rate that ends it by its first rise; how many sentences were ``kept``, the
``lowest_score`` of them and how wrong their ``labels`` are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks import spoken
from mer_ray.benchmarks.harness import table
from mer_ray.benchmarks.spoken import Spoken
from mer_ray.config import Section
from mer_ray.data.storage import Store
from mer_ray.encoders.base import ClipInput
from mer_ray.pipelines import self_training
from mer_ray.recognisers import ctc
from mer_ray.recognisers.base import Transcript
from mer_ray.speech.augment import Mixing, Sounds
from mer_ray.speech.errors import word_error_rate
from mer_ray.tasks import noise_robust_asr
from mer_ray.types import SAMPLE_RATE_HZ

State = dict[str, torch.Tensor]


class Config(Section):
    """How many sentences, and how long is trained."""

    data: str = Field(description="folder of noise_rir_16k.tar, see docs/benchmarks.md")
    labelled: int = Field(800, ge=8, description="sentences to train on")
    few: int = Field(200, ge=8, description="of them, all that is labelled for the self-training")
    pool: int = Field(600, ge=8, description="unlabelled sentences, by all voices")
    held_out: int = Field(60, ge=1, description="sentences in noise that end the self-training")
    test: int = Field(200, ge=1, description="sentences of the word error rates, by new voices")
    steps: int = Field(1000, ge=1, description="of training from scratch")
    few_steps: int = Field(600, ge=1, description="of training from scratch on the few")
    more_steps: int = Field(300, ge=1, description="of each round of self-training, and of its control")
    most_rounds: int = Field(1, ge=1, description="of self-training")
    share: float = Field(0.6, gt=0, le=1, description="of the pool that is kept")
    batch_size: int = Field(8, ge=1, description="sentences of a step")
    learning_rate: float = Field(3e-3, gt=0, description="highest of a training from scratch; a third of it later")
    small: noise_robust_asr.Small = noise_robust_asr.Small(layers=2)
    mask_bands: int = Field(8, ge=0, description="SpecAugment of all arms: widest band")
    mask_frames: int = Field(12, ge=0, description="SpecAugment of all arms: longest stretch")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="of sentences, voices, noise and training")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure every arm at every seed; prints the table at the end.

    Raises:
        ConfigError: the noise is missing.
        InputError: espeak-ng is missing.
    """
    torch.set_num_threads(1)
    draws: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    for seed in settings.seeds:
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(settings, seed, Path(folder))
            draws.append({"seed": seed, "arms": dict(trial.arms()), "seconds": trial.seconds, "rounds": trial.rounds})
        figures = {"arms": means([one["arms"] for one in draws]), "draws": draws}
        yield figures
    rows = [[arm, *found.values()] for arm, found in figures["arms"].items()]
    table(console, "word error rates", ["arm", "clean", "environment 5 dB", "babble 10 dB"], rows)


def means(draws: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over the draws of each arm in each condition."""
    return {
        arm: {condition: float(np.mean([one[arm][condition] for one in draws])) for condition in found}
        for arm, found in draws[0].items()
    }


class Trial:
    """The sentences, the noise, and the arms one after another."""

    def __init__(self, settings: Config, seed: int, folder: Path) -> None:
        self.settings, self.seed, self.folder = settings, seed, folder
        self.seconds: dict[str, float] = {}
        self.rounds: list[dict[str, Any]] = []
        rng = np.random.default_rng(seed)
        known, new = spoken.voices(new=False), spoken.voices(new=True)

        def said(count: int, voices: Sequence[str]) -> list[Spoken]:
            return spoken.say(spoken.sentences(count, rng), voices, rng)

        self.labelled, self.test = said(settings.labelled, known), said(settings.test, new)
        self.pool, self.held_out = said(settings.pool, [*known, *new]), said(settings.held_out, [*known, *new])
        train, test = spoken.surroundings(settings.data, rng)
        self.heard = spoken.conditions(self.test, test, rng)
        self.held_out_heard = spoken.conditions(self.held_out, train, rng)["environment_5db"]
        self.noise = _written(train, folder)

    def arms(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Each arm's word error rates."""
        settings, few = self.settings, self.labelled[: self.settings.few]
        plain = self.task({"noise_share": 0.0, "speakers_share": 0.0}, self.labelled)
        self.train("plain", plain, self.labelled, settings.steps)
        yield "plain", self.errors("plain", "greedy")
        self.train("mixed", self.task(self.noise, self.labelled), self.labelled, settings.steps)
        for arm, decoder in (("mixed", "greedy"), ("mixed_lexicon", "lexicon"), ("mixed_ngram", "ngram")):
            yield arm, self.errors("mixed", decoder)
        task = self.task(self.noise, few)
        state = self.train("few", task, few, settings.few_steps)
        yield "few", self.errors("few", "greedy")
        yield "self_trained", self.errors(self.self_train(task, few, state), "greedy")
        self.train("control", task, few, settings.more_steps, state)
        yield "self_trained_control", self.errors("control", "greedy")

    def task(self, mixing: Mapping[str, Any], clips: Sequence[Spoken]) -> noise_robust_asr.Task:
        """A task whose lexicon and n-gram are of the clips' sentences."""
        settings = self.settings
        heard = Mixing(speeds=(1.0,), mask_bands=settings.mask_bands, mask_frames=settings.mask_frames, **mixing)
        texts = tuple(one.text for one in clips)
        return noise_robust_asr.Task(noise_robust_asr.Config(small=settings.small, mixing=heard, sentences=texts), ())

    def train(
        self,
        name: str,
        task: noise_robust_asr.Task,
        clips: Sequence[Spoken],
        steps: int,
        state: State | None = None,
    ) -> State:
        """Train from scratch, or on from a state, and leave the recogniser in a folder of the name; the new state."""
        rate = self.settings.learning_rate / (1 if state is None else 3)
        started = time.perf_counter()
        made = fit(task, clips, steps, rate, self.settings.batch_size, self.seed, state)
        self.seconds[name] = time.perf_counter() - started
        (self.folder / name).mkdir(exist_ok=True)
        task.save(made.items(), self.folder / name, str(self.folder / name))
        return made

    def self_train(self, task: noise_robust_asr.Task, few: Sequence[Spoken], state: State) -> str:
        """Round after round on the pool; the name of the best recogniser."""
        folder = Store(str(self.folder))
        steps = Rounds(self, task, few, state)
        rounds = self_training.run(steps, folder, self.settings.share, self.settings.most_rounds)
        truth = dict(zip(steps.pool, [one.text for one in self.pool], strict=True))
        for one in rounds:
            told = {"held_out": one.word_error_rate, "kept": one.kept, "lowest_score": one.lowest_score}
            if one.kept:  # how wrong the labels are that it kept is known here alone
                labels = self_training.labels(folder, one.number)
                told["labels"] = word_error_rate([truth[name] for name in labels], list(labels.values()))
            self.rounds.append(told)
        return steps.name(self_training.best(rounds).number)

    def errors(self, name: str, decoder: str) -> dict[str, float]:
        """Word error rates of a saved recogniser by condition."""
        recogniser = self.recogniser(name, decoder)
        texts = [one.text for one in self.test]
        return {
            condition: word_error_rate(texts, [one.text for one in recogniser.transcribe(samples)])
            for condition, samples in self.heard.items()
        }

    def recogniser(self, name: str, decoder: str) -> ctc.Recogniser:
        """A saved recogniser, by the likeliest letters, a beam over the lexicon, or one with the n-gram too."""
        folder = self.folder / name
        options: dict[str, Any] = {"weights": {"source": str(folder)}, "device": "cpu"}
        if decoder != "greedy":
            options |= {"decoder": "beam", "lexicon": str(folder / noise_robust_asr.LEXICON)}
        if decoder == "ngram":
            options |= {"language_model": str(folder / noise_robust_asr.ARPA)}
        return ctc.Recogniser(ctc.Config(**options))


class Rounds:
    """What the rounds of the self-training are made of: see ``self_training.Steps``.

    Each goes on from the state that was trained on what is labelled alone.
    """

    def __init__(self, trial: Trial, task: noise_robust_asr.Task, few: Sequence[Spoken], state: State) -> None:
        self.trial, self.task, self.few, self.state = trial, task, few, state
        self.pool = {f"{i:05d}": one.samples for i, one in enumerate(trial.pool)}

    def name(self, number: int) -> str:
        """Of a round's recogniser."""
        return f"round_{number:02d}" if number else "few"

    def transcribe(self, number: int) -> dict[str, Transcript]:
        """The pool, by a beam with the n-gram."""
        heard = self.trial.recogniser(self.name(number), "ngram").transcribe(list(self.pool.values()))
        return dict(zip(self.pool, heard, strict=True))

    def train(self, number: int, labels: Mapping[str, str]) -> None:
        """On the few and what was surest, from the state of the few."""
        sure = [Spoken(text, self.pool[name]) for name, text in labels.items()]
        steps = self.trial.settings.more_steps
        self.trial.train(self.name(number), self.task, [*self.few, *sure], steps, self.state)

    def errors(self, number: int) -> float:
        """On the held-out sentences in noise."""
        heard = self.trial.recogniser(self.name(number), "ngram").transcribe(self.trial.held_out_heard)
        return word_error_rate([one.text for one in self.trial.held_out], [one.text for one in heard])


def fit(
    task: noise_robust_asr.Task,
    clips: Sequence[Spoken],
    steps: int,
    rate: float,
    batch_size: int,
    seed: int,
    state: State | None = None,
) -> State:
    """Train the task's network in plain steps; the state of its model, by the names that ``save`` takes."""
    torch.manual_seed(seed)
    network = task.build().train()
    if state is not None:
        network.load_state_dict(state)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    given = [ClipInput(audio=one.samples, text=one.text) for one in clips]
    usable = [i for i, one in enumerate(given) if task.usable(one)]
    rng = np.random.default_rng(seed)
    queue: list[int] = []
    for step in range(steps):
        while len(queue) < batch_size:
            queue += rng.permutation(usable).tolist()
        rows, queue = queue[:batch_size], queue[batch_size:]
        rngs = [np.random.default_rng([seed, step, row]) for row in rows]
        loss = network(task.collate([given[row] for row in rows], np.full(len(rows), -1), rngs)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _written(sounds: Sounds, folder: Path) -> dict[str, str]:
    """Folders of the sounds, as the task's options name them."""
    places = {}
    for kind in ("noise", "speakers", "rooms"):
        (folder / kind).mkdir()
        for i, samples in enumerate(getattr(sounds, kind)):
            soundfile.write(folder / kind / f"{i:03d}.wav", samples, SAMPLE_RATE_HZ, subtype="FLOAT")
        places[kind] = str(folder / kind)
    return places
