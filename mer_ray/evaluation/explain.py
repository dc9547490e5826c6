"""Why a clip got its label, which clips deserve a second look, and how far the figures can be trusted.

Pure functions over arrays. Shapes: N clips, M features or modalities, C classes, K learners.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mer_ray.errors import ShapeError
from mer_ray.types import Clip, Split

Predict = Callable[[NDArray[np.bool_]], NDArray[np.floating]]
"""Probabilities (N, C) of the same clips under a mask (N, M) of the features that may be read."""

_NAMED = 5


def waf_interval(
    confusion: NDArray[np.integer], *, seed: int = 0, num_samples: int = 2000, level: float = 0.95
) -> tuple[float, float] | None:
    """Bootstrap interval of the weighted-average F1 for clips drawn with replacement; None without clips.

    Drawing clips is drawing cells of the confusion matrix, so nothing but the matrix is needed. Clips of one speaker
    are taken as independent, which they are not quite: read the interval as the least doubt there is.
    """
    cells = np.asarray(confusion, np.int64)
    total = int(cells.sum())
    if not total:
        return None
    draws = np.random.default_rng(seed).multinomial(total, cells.ravel() / total, size=num_samples)
    wafs = _wafs(draws.reshape(num_samples, *cells.shape))
    low, high = np.quantile(wafs, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def overlap_warnings(clips: Iterable[Clip], digests: Mapping[str, str] | None = None) -> list[str]:
    """Sentences that say what stands on both sides of train and test: a speaker, a media file, the same content.

    Args:
        clips: the manifest.
        digests: content hash of a clip's media by ``clip_id``, where known.
    """
    rows, hashes = list(clips), digests or {}
    speakers = sorted(_on_both_sides(rows, lambda clip: (clip.speaker,)))
    files = set(_on_both_sides(rows, lambda clip: (clip.video, clip.audio, clip.faces)).values())
    copies = set(_on_both_sides(rows, lambda clip: (hashes.get(clip.clip_id),)).values()) - files
    warnings = []
    if speakers:
        warnings.append(
            f"{_count(speakers, 'speaker is', 'speakers are')} heard both in training and in test ({_some(speakers)}): "
            "the scores may reward knowing a voice or a face. Split by speaker."
        )
    for pairs, one, many in (
        (files, "media file is used", "media files are used"),
        (copies, "recording stands under two names", "recordings stand under two names"),
    ):
        if pairs:
            listed = [f"{train} and {test}" for train, test in sorted(pairs)]
            warnings.append(
                f"{_count(listed, one, many)} both in training and in test ({_some(listed)}): "
                "the scores count what was learnt by heart. Take one side out."
            )
    return warnings


def by_modality(
    names: Sequence[str], weights: Sequence[NDArray[np.floating]], modalities: Sequence[Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """How much each modality counted for each clip: the share of its features, mean over the learners that vote.

    Args:
        names: the modalities.
        weights: of each learner, (N, features of the learner), rows summing to 1; NaN rows where it abstains.
        modalities: of each learner's features, in their order.

    Returns:
        By modality, float64 (N,); over all modalities they sum to 1, NaN where every learner abstains.
    """
    shares_KNM = np.stack(
        [
            np.stack([part_NM[:, [m == name for m in own]].sum(axis=1) for name in names], axis=1)
            for part_NM, own in zip(weights, modalities, strict=True)
        ]
    )
    voting_KN1 = ~np.isnan(shares_KNM).any(axis=2, keepdims=True)
    voters_N1 = voting_KN1.sum(axis=0)
    total_NM = np.where(voting_KN1, shares_KNM, 0.0).sum(axis=0)
    mean_NM = np.divide(total_NM, voters_N1, out=np.full_like(total_NM, np.nan), where=voters_N1 > 0)
    return {name: mean_NM[:, m] for m, name in enumerate(names)}


def leave_one_out(predict: Predict, present_NM: NDArray[np.bool_], label_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much the probability of each clip's label falls when one feature is hidden (P0, interpretability).

    Args:
        predict: asked once with everything, and once more per feature.
        present_NM: the features that each clip has.
        label_N: the class whose probability is watched; by mode voting it need not be the likeliest.

    Returns:
        float64 (N, M): positive where the feature speaks for the label, NaN where it is absent or the only one.
    """
    rows = np.arange(len(label_N))
    whole = np.asarray(predict(present_NM), np.float64)[rows, label_N]
    deltas = np.full(present_NM.shape, np.nan)
    for feature in range(present_NM.shape[1]):
        hidden = present_NM.copy()
        hidden[:, feature] = False
        can = present_NM[:, feature] & hidden.any(axis=1)
        if not can.any():
            continue
        hidden[~can] = present_NM[~can]
        without = np.asarray(predict(hidden), np.float64)[rows, label_N]
        deltas[can, feature] = (whole - without)[can]
    return deltas


def most_contested(votes_KNC: NDArray[np.floating], num_clips: int) -> NDArray[np.int64]:
    """The clips that the learners agree on least, then those of the smallest margin between their two best classes.

    A learner whose probabilities are NaN abstains; a clip that no learner votes on is left out.
    """
    if votes_KNC.ndim != 3:
        raise ShapeError(f"votes must be (learners, clips, classes), not {votes_KNC.shape}")
    voting_KN = ~np.isnan(votes_KNC).any(axis=2)
    votes = np.where(voting_KN[:, :, None], votes_KNC, 0.0)
    num_voters = voting_KN.sum(axis=0)
    choices = np.where(voting_KN, votes.argmax(axis=2), -1)
    largest_camp = np.stack([(choices == c).sum(axis=0) for c in range(votes.shape[2])]).max(axis=0)
    best = np.sort(votes.sum(axis=0), axis=1)[:, -2:]
    margin = (best[:, -1] - best[:, 0]) / np.maximum(num_voters, 1)
    order = np.lexsort((margin, largest_camp / np.maximum(num_voters, 1)))
    found: NDArray[np.int64] = order[num_voters[order] > 0]
    return found[:num_clips]


def likely_label_errors(
    probs_NC: NDArray[np.floating], labels_N: NDArray[np.integer], num_clips: int
) -> NDArray[np.int64]:
    """Labelled clips whose out-of-fold prediction contradicts their label, those of the least likely labels first.

    How many labels are wrong is estimated by confident learning (Northcutt, Jiang and Chuang 2021, section 3.1), and so
    many are suspect at most; none where all clips carry one label.
    """
    from cleanlab.filter import find_label_issues  # noqa: PLC0415 - seconds to load, for the report alone

    if len(np.unique(labels_N)) < 2:
        return np.empty(0, dtype=np.int64)
    suspect = find_label_issues(
        labels_N,
        probs_NC,
        filter_by="low_self_confidence",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    ).astype(np.int64)
    found: NDArray[np.int64] = suspect[probs_NC[suspect].argmax(axis=1) != labels_N[suspect]]
    return found[:num_clips]


def pseudo_label_precision(
    adopted: Sequence[str], truth: Sequence[str | None], classes: Sequence[str]
) -> dict[str, float | None]:
    """Share of each class's pseudo-labels that are right, among those of known truth; None where there are none.

    >>> pseudo_label_precision(["sad", "sad", "joy"], ["sad", "joy", None], ["sad", "joy"])
    {'sad': 0.5, 'joy': None}
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for label, true_label in zip(adopted, truth, strict=True):
        if true_label is not None:
            right[label].append(label == true_label)
    return {name: float(np.mean(right[name])) if right[name] else None for name in classes}


def accuracy_by_group(
    truth: Sequence[str], predicted: Sequence[str], groups: Sequence[str | None]
) -> dict[str, tuple[int, float]]:
    """Clips and accuracy of each group (speaker, gender, language ...), worst first: who the system works for.

    >>> accuracy_by_group(["sad", "joy", "joy"], ["sad", "joy", "sad"], ["ann", "ann", "bo"])
    {'bo': (1, 0.0), 'ann': (2, 1.0)}
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    for true_label, label, group in zip(truth, predicted, groups, strict=True):
        if group is not None:
            hits[group].append(true_label == label)
    scored = {group: (len(found), float(np.mean(found))) for group, found in hits.items()}
    return dict(sorted(scored.items(), key=lambda item: (item[1][1], item[0])))


def _wafs(confusions_SCC: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weighted-average F1 of each of S confusion matrices at once; as ``metrics.waf`` on the clips behind them."""
    hits = np.diagonal(confusions_SCC, axis1=1, axis2=2)
    support, predicted = confusions_SCC.sum(axis=2), confusions_SCC.sum(axis=1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    wafs: NDArray[np.float64] = (f1 * support).sum(axis=1) / support.sum(axis=1)
    return wafs


def _on_both_sides(clips: Sequence[Clip], keys: Callable[[Clip], tuple[str | None, ...]]) -> dict[str, tuple[str, str]]:
    """Keys carried by a training clip and by a test clip, with the first clip of each side."""
    train: dict[str, str] = {}
    test: dict[str, str] = {}
    sides = {Split.TRAIN: train, Split.TEST: test}
    for clip in clips:
        if clip.split in sides:
            for key in keys(clip):
                if key is not None:
                    sides[clip.split].setdefault(key, clip.clip_id)
    return {key: (train[key], test[key]) for key in train if key in test}


def _count(things: Sequence[str], one: str, many: str) -> str:
    return f"{len(things):,} {one if len(things) == 1 else many}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
