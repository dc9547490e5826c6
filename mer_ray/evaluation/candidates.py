"""What the report says of ``mining.strategy=auto``: the candidates, which was taken and why, what that is worth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from mer_ray.evaluation import charts
from mer_ray.evaluation.charts import Margin
from mer_ray.evaluation.metrics import Judged
from mer_ray.evaluation.page import percent


@dataclass(frozen=True)
class Candidate:
    """A way of labelling the clips.

    Attributes:
        name: of it.
        what: it is, in a few words.
        may_label: whether it may be taken; the others are there to compare with.
        judged: its figures.
    """

    name: str
    what: str
    may_label: bool
    judged: Judged


@dataclass(frozen=True)
class ChoiceReport:
    """What was chosen of what.

    Attributes:
        candidates: the plain learners first; those that may be taken in the order of trust.
        by_fold: what the other folds' clips choose for each fold.
        oof_waf: of the answers by ``by_fold``; None where nothing out of fold can be said.
        reason: why not.
        asked: whether the labelled clips have a say (``mining.guard``).
    """

    candidates: tuple[Candidate, ...]
    by_fold: tuple[str, ...]
    oof_waf: float | None
    reason: str = ""
    asked: bool = True

    @property
    def chosen(self) -> Candidate:
        """The candidate that is taken."""
        return next(one for one in self.candidates if one.judged.chosen)


def why(choice: ChoiceReport) -> str:
    """Which candidate labels the clips, and why."""
    one, plain = choice.chosen, choice.candidates[0]
    if choice.reason:
        return (
            f"Candidate {one.name} labels the clips, as the one that learns most from the unlabelled ones; the "
            f"labelled clips cannot choose: {choice.reason}."
        )
    if not choice.asked:
        return (
            f"Candidate {one.name} labels the clips, as the one that learns most from the unlabelled ones; the "
            "labelled clips were not asked (mining.guard=false)."
        )
    if one is plain:
        return (
            f"Candidate {one.name}, the plain learners, labels the clips: every candidate that learns from the "
            "unlabelled ones is worse, by weighted F1 and by log loss."
        )
    more = [other.name for other in choice.candidates[choice.candidates.index(one) + 1 :] if other.may_label]
    own, theirs = one.judged, plain.judged
    told = (
        f"Candidate {one.name} labels the clips: it is the one trusted most that is not worse than the plain learners "
        f"by weighted F1 and by log loss both. Its F1 is {percent(own.oof_waf)}, theirs {percent(theirs.oof_waf)}; "
        f"its log loss is {own.log_loss:.3f}, theirs {theirs.log_loss:.3f}."
    )
    return f"{told} Worse by both: {', '.join(more)}." if more else told


def worth(choice: ChoiceReport) -> str:
    """What the nested figure is, and what it means."""
    if choice.oof_waf is None:
        return f"There is no weighted F1 of the choice itself: {choice.reason}."
    counts = Counter(choice.by_fold)
    named = ", ".join(f"{name} in {number}" for name, number in counts.most_common())
    return (
        f"The choice itself is worth a weighted F1 of {percent(choice.oof_waf)} out of fold: each fold's clips were "
        f"judged by what those of the other folds chose ({named} of {len(choice.by_fold)} folds). So no clip had a say "
        "in what it is judged by, as it had in the table, where the candidate taken may have been lucky."
    )


def gains_chart(choice: ChoiceReport) -> Markup:
    """The gain of each candidate over the plain learners, which are the first and have none."""
    others = {one.name: one.judged for one in choice.candidates[1:]}
    return charts.margins(
        "Gain in weighted F1 over the plain learners, in points, and its standard error",
        [Margin(name, judged.gain, judged.noise, strong=judged.chosen) for name, judged in others.items()],
    )
