"""Which way of learning labels the pool: one of several candidates, by what each says of clips that it has not seen.

With a hundred labels a figure out of fold is uncertain by several points, and the highest of several is the luckiest
too. So the choice begins with what is best on most data: the last candidate, which learns most from the pool. It is
left only where the labelled clips speak against it in both respects, with a lower weighted F1 and a higher log loss
than the plain learners; then the one before it is asked, and so on down to the plain learners themselves, which
always stand.

Tried with a tenth of the labels, four or five draws, in test F1 over the plain learners: on RAVDESS, handwritten and
nEMO this rule gained .075, .015 and .051, the highest F1 out of fold .054, .009 and .056, the highest that is beyond
its noise .033, .005 and .054; on a set whose pool misleads, 0, .006 and .006, where the last candidate alone loses
.19.

Shapes: n labelled clips, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray.evaluation import metrics
from mer_ray.evaluation.metrics import Judged, waf
from mer_ray.rounds import guard

_TOO_FEW = "a class has one labelled clip, of which no fold can learn and answer"


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        name: the candidate.
        trusted: those that may be chosen, in the order of trust, the plain learners first.
        by_fold: for the clips that each fold holds out, the candidate that the other folds' clips choose.
        judged: every candidate, in the order asked of.
        oof_waf: of the answers by ``by_fold``: what was chosen is judged by clips that had no say in it; None where
            nothing out of fold can be said.
        reason: why not.
    """

    name: str
    trusted: tuple[str, ...]
    by_fold: tuple[str, ...]
    judged: Mapping[str, Judged]
    oof_waf: float | None
    reason: str = ""


@dataclass(frozen=True)
class Answers:
    """What is known of the labelled clips.

    Attributes:
        probabilities: by candidate, the plain learners first and then in the order of trust, float64 (n, C), out of
            fold and calibrated.
        labels: by candidate, int64 (n,), the class that it answers with.
        truth: int64 (n,).
        held_out: int64 (n,), the fold of each clip.
        speakers: int64 (n,); None where they are not known.
    """

    probabilities: Mapping[str, NDArray[np.float64]]
    labels: Mapping[str, NDArray[np.int64]]
    truth: NDArray[np.int64]
    held_out: NDArray[np.int64]
    speakers: NDArray[np.int64] | None = None

    def pick(self, rows: NDArray[np.bool_]) -> str:
        """The candidate that the labelled clips at ``rows`` leave standing."""
        plain, *others = self.probabilities
        for name in reversed(others):
            if not self._speaks_against(name, plain, rows):
                return name
        return plain

    def _speaks_against(self, name: str, plain: str, rows: NDArray[np.bool_]) -> bool:
        """Whether a candidate is worse than the plain learners both in what it answers and in how sure it is."""
        truth = self.truth[rows]
        worse = waf(truth, self.labels[name][rows]) < waf(truth, self.labels[plain][rows])
        loss, others = (metrics.log_loss(self.probabilities[one][rows], truth) for one in (name, plain))
        return worse and loss > others


def choose(answers: Answers, trusted: Sequence[str], seed: int, *, ask: bool = True) -> Choice:
    """Choose, and judge every candidate.

    Of a class with one labelled clip a fold has learnt nothing, so that nothing out of fold can be said: then, as where
    nothing is to be asked, the last candidate is taken.

    Args:
        answers: of all candidates.
        trusted: those that may be chosen, the plain learners first; the others are judged alone.
        seed: of the bootstrap of their noise.
        ask: whether the labelled clips have a say.
    """
    reason = _TOO_FEW if _rarest(answers.truth) < 2 else ""
    asked = Answers(
        {name: answers.probabilities[name] for name in trusted},
        {name: answers.labels[name] for name in trusted},
        answers.truth,
        answers.held_out,
        answers.speakers,
    )
    everywhere = np.ones(len(answers.truth), dtype=bool)
    folds = range(int(answers.held_out.max()) + 1)
    if reason or not ask:
        name, by_fold = trusted[-1], (trusted[-1],) * len(folds)
    else:
        name, by_fold = asked.pick(everywhere), tuple(asked.pick(answers.held_out != fold) for fold in folds)
    nested = np.array([answers.labels[by_fold[fold]][row] for row, fold in enumerate(answers.held_out)], dtype=np.int64)
    judged = {one: _judge(answers, one, trusted[0], seed, chosen=one == name) for one in answers.probabilities}
    return Choice(name, tuple(trusted), by_fold, judged, None if reason else waf(answers.truth, nested), reason)


def _rarest(truth: NDArray[np.int64]) -> int:
    """Clips of the class that has fewest, of those that have any."""
    return int(np.unique(truth, return_counts=True)[1].min())


def _judge(answers: Answers, name: str, plain: str, seed: int, *, chosen: bool) -> Judged:
    label, probabilities = answers.labels[name], answers.probabilities[name]
    compared = guard.compare(
        answers.truth, label, answers.labels[plain], answers.held_out, seed, speakers=answers.speakers
    )
    return Judged(
        oof_waf=compared.waf,
        log_loss=metrics.log_loss(probabilities, answers.truth),
        ece=metrics.calibration_error(probabilities, label, answers.truth),
        gain=compared.gain,
        noise=compared.noise,
        chosen=chosen,
    )
