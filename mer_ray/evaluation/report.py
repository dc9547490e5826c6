"""The report: one HTML file that a person enjoys reading, made from plain data.

``render`` is pure and opens nothing but its own template. The page carries its pictures, needs no network, and says so
to the browser (a content security policy that admits nothing from outside).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from mer_ray.evaluation import candidates, charts
from mer_ray.evaluation.candidates import ChoiceReport
from mer_ray.evaluation.charts import ACCENT, MUTED, Bar, Line
from mer_ray.evaluation.metrics import Scores
from mer_ray.evaluation.page import class_colours, percent, render_page, seconds
from mer_ray.evaluation.verdict import Verdict, judge


@dataclass(frozen=True)
class Counts:
    """Clips of the run: manifest = predicted + quarantined; labelled, unlabelled and test are the manifest's splits.

    Attributes:
        adoptable: predicted clips that could be adopted as pseudo-labelled.
        adopted: those of them that a round which was kept was trained on, in whatever fold, by a label or by
            probabilities of all classes.
    """

    manifest: int
    predicted: int
    quarantined: int
    labelled: int
    unlabelled: int
    test: int
    adoptable: int
    adopted: int


@dataclass(frozen=True)
class RoundReport:
    """One round of mining.

    Attributes:
        round: 0 is the labelled data alone.
        selected: clips adopted by this round's votes for the next round, by class; by their likeliest where the next
            round learns from probabilities.
        pool: the round's own labels of the clips that the manifest gives none, by class.
        precision: share of those that are right, where the truth is known.
        oof_waf, test_waf: of the mean-probability ensemble; ``test_waf`` None where test clips have no labels.
        kept: False when the guard dropped the round.
        reason: why mining went on, stopped, or dropped the round.
        learners: out-of-fold WAF of each learner.
        precision_by_class: as ``precision``, by class.
    """

    round: int
    selected: Mapping[str, int]
    precision: float | None
    oof_waf: float
    test_waf: float | None
    kept: bool
    reason: str
    learners: Mapping[str, float]
    pool: Mapping[str, int] = field(default_factory=dict)
    precision_by_class: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class DenoiseReport:
    """What denoising did.

    Attributes:
        noisy_before, noisy_after, clean_before, clean_after: median SI-SDR in dB; None where it is not known.
        choices: how often each choice was made.
        improvements: change of SI-SDR in dB of every noisy clip.
    """

    noisy_before: float | None
    noisy_after: float | None
    clean_before: float | None
    clean_after: float | None
    choices: Mapping[str, int]
    improvements: tuple[float, ...] = ()


@dataclass(frozen=True)
class NoiseReport:
    """One case of the noise track.

    Attributes:
        name: of the case.
        sounds: what is heard in it; cases of the same sounds make one line.
        snr_db: power of the clips over that of the noise.
        num_clips: that were scored.
        clean, raw, denoised: WAF without noise, in it, and in it after denoising; None where that was not asked.
        raw_noise, denoised_noise: standard error of the fall from ``clean``.
    """

    name: str
    sounds: str
    snr_db: float
    num_clips: int
    clean: float
    raw: float
    denoised: float | None = None
    raw_noise: float = 0.0
    denoised_noise: float = 0.0


@dataclass(frozen=True)
class QuarantineLine:
    """How many clips lost a modality in one step for one reason, and some of them."""

    step: str
    reason: str
    num_clips: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Vote:
    """What one learner says of a clip; ``confidence`` is None where it is not known."""

    learner: str
    label: str
    confidence: float | None


@dataclass(frozen=True)
class ClipReport:
    """One clip to look at.

    Attributes:
        group: why it is shown; the reader can filter by it ("adopted", "contested", "label in doubt" ...).
        given_label: the label in the manifest of a labelled clip; ``true_label`` is for scoring only.
        weights: share of each modality in the fusion, summing to 1.
        without: how much the label's probability falls when a modality is hidden (``explain.leave_one_out``).
        nearest: the labelled clips most like it and their labels, the nearest first.
        faces: JPEG files of up to four crops; empty when the report shows no faces.
        round_adopted: the round whose votes adopted it, else None.
    """

    clip_id: str
    group: str
    label: str
    confidence: float
    true_label: str | None = None
    given_label: str | None = None
    votes: tuple[Vote, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    without: Mapping[str, float] = field(default_factory=dict)
    nearest: tuple[tuple[str, str], ...] = ()
    transcript: str | None = None
    faces: tuple[bytes, ...] = ()
    round_adopted: int | None = None


@dataclass(frozen=True)
class StepTime:
    """Wall time of one step, and the clips that it made; 0 when all were there already."""

    step: str
    seconds: float
    num_clips: int


@dataclass(frozen=True)
class ReportData:
    """Everything the report says. Plain data: no paths to read, no secrets.

    Attributes:
        when: the time of the run, as it is to be shown.
        versions: of mer_ray, Python and the libraries that matter.
        adopts_test: whether test clips may be adopted too.
        scored_on: what ``scores`` and ``groups`` were measured on.
        scores: of the ensemble, its classes in the order of ``classes``; None when nothing can be scored.
        pool: as that of a round, by the ensemble; ``labelled`` are the labels of the labelled clips.
        modalities: WAF of each modality alone at round 0; ``control`` is the WAF with shuffled pseudo-labels.
        groups: clips and accuracy by speaker or another group (``explain.accuracy_by_group``).
        choice: of ``mining.strategy=auto``, which learns from probabilities; None by a strategy that adopts labels.
        reliability: of the ensemble on the labelled clips out of fold (``metrics.reliability``); ``ece`` is its
            expected calibration error, ``test_ece`` that on test clips, and that before probabilities were tempered.
    """

    title: str
    seed: int
    config_digest: str
    when: str
    versions: Mapping[str, str]
    counts: Counts
    classes: tuple[str, ...]
    scored_on: Literal["test", "out-of-fold"]
    scores: Scores | None
    rounds: tuple[RoundReport, ...]
    adopts_test: bool = False
    choice: ChoiceReport | None = None
    reliability: tuple[tuple[float, float, int], ...] = ()
    ece: float = 0.0
    test_ece: tuple[float, float] | None = None
    ensemble: str = "mode"
    pool: Mapping[str, int] = field(default_factory=dict)
    labelled: Mapping[str, int] = field(default_factory=dict)
    modalities: Mapping[str, float] = field(default_factory=dict)
    control: float | None = None
    groups: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    denoise: DenoiseReport | None = None
    noise: tuple[NoiseReport, ...] = ()
    quarantine: tuple[QuarantineLine, ...] = ()
    clips: tuple[ClipReport, ...] = ()
    faces_shown: bool = True
    timings: tuple[StepTime, ...] = ()
    warnings: tuple[str, ...] = ()


def render(data: ReportData) -> str:
    """The report as the text of one HTML file. The same data gives the same text."""
    return render_page("report.html.j2", data=data, view=_view(data), colours=class_colours(data.classes))


def _view(data: ReportData) -> dict[str, Any]:
    """What the template needs beside the data: sentences, charts, tables."""
    colours = class_colours(data.classes)
    confusion = np.array(data.scores.confusion if data.scores else [[0]])
    verdict = judge(data.scores)
    return {
        "headline": _headline(data, verdict),
        "num_scored": int(confusion.sum()),
        "verdict": verdict,
        "gain": _gain(data),
        "confusion_shares": confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1),
        "clip_groups": list(dict.fromkeys(clip.group for clip in data.clips)),
        "clip_labels": [name for name in data.classes if any(clip.label == name for clip in data.clips)],
        "adoptable": _adoptable(data),
        "adopted_heading": "What was learnt from" if data.choice else "What was adopted",
        "learners": list(dict.fromkeys(name for one in data.rounds for name in one.learners)),
        "total_seconds": sum(step.seconds for step in data.timings),
        "choice_why": candidates.why(data.choice) if data.choice else "",
        "choice_worth": candidates.worth(data.choice) if data.choice else "",
        "choice_chart": candidates.gains_chart(data.choice) if data.choice else Markup(),
        "reliability_chart": charts.reliability_chart(
            "Share right, per cent, against how sure the ensemble is, per cent", data.reliability
        ),
        "rounds_chart": _rounds_chart(data),
        "adopted_chart": _adopted_chart(data, colours),
        "pool_drift_chart": _drift_chart("the round's labels of clips that had none", data, "pool", colours),
        "adopted_drift_chart": Markup()
        if data.choice
        else _drift_chart("the clips adopted after each round", data, "selected", colours),
        "refused": [one for one in data.rounds if not one.kept],
        "modalities_chart": _modalities_chart(data),
        "pool_chart": _pool_chart(data, colours),
        "groups_chart": _groups_chart(data),
        "denoise_chart": _denoise_chart(data),
        "noise_chart": _noise_chart(data),
        "noise_sounds": _noise_sounds(data),
        "timings_chart": _timings_chart(data),
    }


def _baseline(data: ReportData) -> float | None:
    """The WAF of round 0 on what the ensemble was scored on."""
    if not data.rounds:
        return None
    return data.rounds[0].test_waf if data.scored_on == "test" else data.rounds[0].oof_waf


def _gain(data: ReportData) -> float | None:
    baseline = _baseline(data)
    return None if baseline is None or data.scores is None else data.scores.waf - baseline


def _headline(data: ReportData, verdict: Verdict | None) -> str:
    """What came out, in one or two sentences."""
    counts = data.counts
    labelled = f"{counts.predicted:,} of {counts.manifest:,} clips now have a label."
    if verdict is None:
        return f"{labelled} No clip had a label to score them by."
    if not verdict.above_chance:
        return f"{verdict.told} {labelled}"
    baseline, gain, waf = _baseline(data), _gain(data), percent(verdict.waf)
    kind = "test clips" if data.scored_on == "test" else "labelled clips held out of training"
    where = f"{verdict.num_clips:,} {kind}"
    if baseline is None or gain is None or not counts.adopted:
        return f"{labelled} On {where}, the weighted F1 is {waf}, learnt from the labelled clips alone."
    how = "by probabilities of all classes" if data.choice else "those that the learners agreed on"
    part = "all" if counts.adopted == counts.adoptable else f"{counts.adopted:,} of the"
    learnt = f"{part} {counts.adoptable:,} {_adoptable(data)}, {how},"
    if gain >= 0.0005:
        return f"Learning from {learnt} raised the weighted F1 from {percent(baseline)} to {waf} on {where}. {labelled}"
    if gain <= -0.0005:
        return (
            f"Learning from {learnt} did not help: the weighted F1 went from {percent(baseline)} to {waf} on {where}."
        )
    return f"Learning from {learnt} left the weighted F1 at {waf} on {where}. {labelled}"


def _adoptable(data: ReportData) -> str:
    return "unlabelled and test clips" if data.adopts_test else "unlabelled clips"


def _rounds_chart(data: ReportData) -> Markup:
    if len(data.rounds) < 2:
        return Markup()
    has_test = any(one.test_waf is not None for one in data.rounds)
    lines = [
        Line("out of fold", [one.oof_waf for one in data.rounds], series=MUTED if has_test else ACCENT, dashed=has_test)
    ]
    if has_test:
        lines.append(Line("test", [one.test_waf for one in data.rounds]))
    return charts.line_chart(
        "Weighted F1 by round, per cent",
        [f"round {one.round}" for one in data.rounds],
        lines,
        hollow=[not one.kept for one in data.rounds],
    )


def _adopted_chart(data: ReportData, colours: Mapping[str, int]) -> Markup:
    giving = [one for one in data.rounds if sum(one.selected.values())]
    names: list[str] = [""] * charts.NUM_COLOURS
    for name in data.classes:
        names[colours[name]] = ", ".join(filter(None, [names[colours[name]], name]))
    stacks = [[0] * charts.NUM_COLOURS for _ in giving]
    for stack, one in zip(stacks, giving, strict=True):
        for name, number in one.selected.items():
            stack[colours[name]] += number
    return charts.stacked_bars(
        "Clips learnt from, by likeliest class" if data.choice else "Clips adopted after each round, by class",
        [f"in round {one.round + 1}" if data.choice else f"after {one.round}" for one in giving],
        stacks,
        names,
    )


def _drift_chart(
    what: str, data: ReportData, counted: Literal["pool", "selected"], colours: Mapping[str, int]
) -> Markup:
    """The share of each class round by round, beginning with its share of the labelled clips."""
    columns = [("labelled", data.labelled), *((f"round {one.round}", getattr(one, counted)) for one in data.rounds)]
    known = [(name, counts, sum(counts.values())) for name, counts in columns if sum(counts.values())]
    if len(known) < 2:
        return Markup()
    return charts.line_chart(
        f"Share of each class among {what}, per cent",
        [name for name, _, _ in known],
        [Line(c, [counts.get(c, 0) / total for _, counts, total in known], series=colours[c]) for c in data.classes],
    )


def _modalities_chart(data: ReportData) -> Markup:
    if not data.modalities:
        return Markup()
    baseline = _baseline(data)
    figures = [(f"{name} alone", waf, MUTED) for name, waf in sorted(data.modalities.items(), key=lambda item: item[1])]
    if baseline is not None:
        figures.append(("all, round 0", baseline, ACCENT))
    if data.control is not None:
        figures.append(("shuffled control", data.control, MUTED))
    if data.scores is not None:
        figures.append(("all, after mining", data.scores.waf, ACCENT))
    return charts.horizontal_bars(
        "Weighted F1 of each modality alone and of all together, per cent",
        [Bar(name, waf, percent(waf), series) for name, waf, series in figures],
        longest=1.0,
    )


def _pool_chart(data: ReportData, colours: Mapping[str, int]) -> Markup:
    total = sum(data.pool.values())
    if not total:
        return Markup()
    bars = [
        Bar(
            name,
            data.pool.get(name, 0),
            f"{data.pool.get(name, 0):,} · {data.pool.get(name, 0) / total:.0%}",
            colours[name],
        )
        for name in data.classes
    ]
    return charts.horizontal_bars("Labels given to the clips that had none", bars)


def _groups_chart(data: ReportData) -> Markup:
    bars = [Bar(name, score, f"{percent(score)} · {number} clips") for name, (number, score) in data.groups.items()]
    return charts.horizontal_bars("Accuracy by speaker, per cent", bars, longest=1.0) if bars else Markup()


def _denoise_chart(data: ReportData) -> Markup:
    return (
        charts.histogram("Change of SI-SDR of the noisy voices", data.denoise.improvements, "dB")
        if data.denoise
        else Markup()
    )


def _noise_sounds(data: ReportData) -> dict[str, int]:
    """The colour of each kind of sound that is heard in a case."""
    kinds = dict.fromkeys(case.sounds for case in data.noise)
    return {sounds: i % charts.NUM_COLOURS if i else ACCENT for i, sounds in enumerate(kinds)}


def _noise_chart(data: ReportData) -> Markup:
    """WAF against SNR, from the loudest noise to none."""
    if not data.noise:
        return Markup()
    ratios, clean = sorted({case.snr_db for case in data.noise}), data.noise[0].clean
    lines = []
    for sounds, series in _noise_sounds(data).items():
        cases = {case.snr_db: case for case in data.noise if case.sounds == sounds}
        raw = [cases[ratio].raw if ratio in cases else None for ratio in ratios]
        denoised = [cases[ratio].denoised if ratio in cases else None for ratio in ratios]
        lines.append(Line(f"{sounds}, as it is", [*raw, clean], series, dashed=True))
        if any(value is not None for value in denoised):
            lines.append(Line(f"{sounds}, denoised", [*denoised, clean], series))
    names = [*(f"{ratio:g} dB".replace("-", "\N{MINUS SIGN}") for ratio in ratios), "no noise"]
    return charts.line_chart("Weighted F1 against the ratio of voice to noise, per cent", names, lines)


def _timings_chart(data: ReportData) -> Markup:
    bars = []
    for step in data.timings:
        speed = f" · {step.num_clips / step.seconds:,.3g}/s" if step.num_clips and step.seconds > 0 else ""
        bars.append(Bar(step.step, step.seconds, seconds(step.seconds) + speed))
    return charts.horizontal_bars("Time per step", bars) if bars else Markup()
