"""The page of one clip: why it got its label, told round by round. ``render`` is pure, as the report's is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mer_ray.evaluation import charts
from mer_ray.evaluation.charts import MUTED, Bar, Line
from mer_ray.evaluation.page import class_colours, percent, render_page
from mer_ray.evaluation.report import ClipReport, Vote


@dataclass(frozen=True)
class Adopted:
    """That a fold took the clip most likely for ``label``; ``learner`` was trained on it from then on.

    ``fold`` is None where that was the last model, which holds nothing out.
    """

    fold: int | None
    label: str
    agreement: int
    confidence: float
    learner: str


@dataclass(frozen=True)
class ClipRound:
    """What one round said of the clip.

    Attributes:
        round: its number.
        kept: False when the guard dropped it; ``reason`` says why.
        reason: see ``tune.controller.Round``.
        is_final: whether its votes are in the final ensemble.
        said: by learner that did not abstain, the probability of each class; empty for a clip labelled for training.
        adopted: in which folds or by the last model, and by whom, it was learnt from by what the round's learners say.
    """

    round: int
    kept: bool
    reason: str
    is_final: bool
    said: Mapping[str, Mapping[str, float]]
    adopted: tuple[Adopted, ...]

    @property
    def votes(self) -> tuple[Vote, ...]:
        """Each learner's likeliest class."""
        best = {learner: max(said, key=lambda name: said[name]) for learner, said in self.said.items()}
        return tuple(Vote(learner, label, self.said[learner][label]) for learner, label in best.items())

    @property
    def learnt_as(self) -> Mapping[str, str]:
        """By label, where the clip was learnt from as that: ``2 folds and the last model``."""
        where: dict[str, set[int | None]] = {}
        for one in self.adopted:
            where.setdefault(one.label, set()).add(one.fold)
        return {label: _told(len(models - {None}), last=None in models) for label, models in where.items()}


@dataclass(frozen=True)
class Story:
    """Everything the page says.

    Attributes:
        run: where the run is.
        split: of the clip.
        clip: its label with votes, weights, effects of hiding, neighbours, transcript and faces.
        probabilities: of each class, in order.
        rounds: in order; empty for a clip that the run did not learn with.
        errors: what failed on it: step, reason, detail.
    """

    run: str
    split: str
    clip: ClipReport
    probabilities: Mapping[str, float]
    rounds: tuple[ClipRound, ...] = ()
    errors: tuple[tuple[str, str, str], ...] = ()


def _told(num_folds: int, *, last: bool) -> str:
    """Of which models is spoken.

    >>> _told(1, last=False), _told(2, last=True), _told(0, last=True)
    ('1 fold', '2 folds and the last model', 'the last model')
    """
    folds = [f"{num_folds} fold{'' if num_folds == 1 else 's'}"] if num_folds else []
    return " and ".join(folds + (["the last model"] if last else []))


def headline(story: Story) -> str:
    """Why, in two or three sentences."""
    clip = story.clip
    agreeing = sum(vote.label == clip.label for vote in clip.votes)
    told = [f"{clip.clip_id} is labelled {clip.label}: {agreeing} of {len(clip.votes)} learners say so."]
    speaking = {name: fall for name, fall in clip.without.items() if fall > 0}
    if speaking:
        name = max(speaking, key=lambda name: speaking[name])
        told.append(f"Most of it rests on {name}: without it the label loses {percent(speaking[name])} points.")
    if clip.given_label not in {None, clip.label}:
        told.append(f"The manifest says {clip.given_label}: one of the two is wrong.")
    for one in story.rounds:
        if one.round == clip.round_adopted:
            labels = ", ".join(dict.fromkeys(fold.label for fold in one.adopted))
            told.append(f"It was learnt from after round {one.round}, as {labels}.")
    return " ".join(told)


def render(story: Story) -> str:
    """The page as the text of one HTML file; it needs no network and runs no script."""
    classes = tuple(story.probabilities)
    colours = class_colours(classes)
    bars = [Bar(name, p, f"{percent(p)} %", colours[name]) for name, p in story.probabilities.items()]
    voting, label = [one for one in story.rounds if one.said], story.clip.label
    names = list(dict.fromkeys(name for one in voting for name in one.said))
    lines = [
        Line(name, [one.said[name][label] if name in one.said else None for one in voting], i % charts.NUM_COLOURS)
        for i, name in enumerate(names)
    ]
    changes = [
        Bar(f"without {name}", abs(fall), f"{percent(-fall)}", MUTED) for name, fall in story.clip.without.items()
    ]
    return render_page(
        "story.html.j2",
        story=story,
        clip=story.clip,
        colours=colours,
        headline=headline(story),
        probabilities_chart=charts.horizontal_bars("Probability of each class", bars, longest=1.0),
        changes_chart=charts.horizontal_bars("Change of the label's probability", changes, 1.0) if changes else "",
        rounds_chart=charts.line_chart(
            f"Probability of {label} by round, per cent",
            [f"round {one.round}" for one in voting],
            lines,
            hollow=[not one.kept for one in voting],
        )
        if len(voting) > 1
        else "",
        learners=names,
        num_colours=charts.NUM_COLOURS,
    )
