"""Gather what the report says from a finished run; ``evaluation.report`` draws it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray import __version__, config
from mer_ray.data.media import Decoder, decode_flac
from mer_ray.demo.plan import plan
from mer_ray.demo.render import clean_voice
from mer_ray.evaluation import denoising, explain, metrics, report
from mer_ray.evaluation.candidates import Candidate, ChoiceReport
from mer_ray.learners import spec
from mer_ray.pipelines.planning import AUDIO, FACES, TRANSCRIPT
from mer_ray.pipelines.predictions import Explained
from mer_ray.pipelines.results import Run
from mer_ray.runtime.journal import Journal, environment
from mer_ray.runtime.materialise import Made
from mer_ray.tune.candidates import MEAN, PLAIN
from mer_ray.tune.mined import Round
from mer_ray.types import Split

_CLIPS_PER_GROUP = 6
_FACES_PER_CLIP = 4
_MEASURED_VOICES = 120
_READ_AT_ONCE = 256


def gather(run: Run, explained: Explained, figures: Mapping[str, Any], journal: Journal) -> report.ReportData:
    """Everything the report says about a run."""
    told = environment()
    splits = Counter(clip.split for clip in run.brought.clips)
    counts = figures["counts"]
    return report.ReportData(
        title=run.settings.report.title,
        seed=run.settings.seed,
        config_digest=config.digest(run.settings),
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={"mer_ray": __version__, "python": told["python"], **told["versions"]},
        counts=report.Counts(
            manifest=counts["manifest"],
            predicted=counts["predicted"],
            quarantined=counts["quarantined"],
            labelled=splits[Split.TRAIN],
            unlabelled=splits[Split.UNLABELED],
            test=splits[Split.TEST],
            adoptable=figures["adoptable"],
            adopted=figures["adopted"],
        ),
        classes=run.names,
        adopts_test=run.settings.mining.include_test,
        scored_on=run.scored_on,
        scores=run.scores,
        rounds=tuple(_round(run, one, figures["rounds"][one.number]) for one in run.mined.rounds),
        choice=_choice(run),
        reliability=tuple(_reliability(run)),
        ece=figures["oof"]["ece"],
        test_ece=(figures["test"]["ece"], figures["test"]["ece_raw"]) if run.scored_on == "test" else None,
        ensemble=run.mined.how,
        pool=_pool(run),
        labelled={name: int(number) for name, number in zip(run.names, _labelled(run), strict=True)},
        modalities={m: s["test_waf"] for m, s in figures["modalities"].items() if s["test_waf"] is not None},
        control=figures["control"]["test_waf"],
        groups=_groups(run, run.scored),
        denoise=_denoise(run),
        noise=tuple(_noise(run)),
        quarantine=_quarantine(run),
        clips=tuple(_clips(run, explained)),
        faces_shown=run.settings.report.faces,
        timings=tuple(
            report.StepTime(step, work["seconds"], int(work["clips"])) for step, work in journal.work().items()
        ),
        warnings=(
            *run.brought.manifest.warnings,
            *run.mined.folds.warnings,
            *explain.overlap_warnings(run.brought.clips, _contents(run)),
        ),
    )


def _round(run: Run, one: Round, figures: Mapping[str, Any]) -> report.RoundReport:
    adopted = one.selected
    truth = [run.names[c] if c >= 0 else None for c in run.truth[adopted.clip]]
    return report.RoundReport(
        round=one.number,
        selected=figures["adopted"],
        pool=figures["pool"],
        precision=figures["pseudo_label_precision"],
        oof_waf=one.oof_waf,
        test_waf=figures["test_waf"],
        kept=one.kept,
        reason=one.reason,
        learners=dict(one.learner_waf),
        precision_by_class=explain.pseudo_label_precision([run.names[c] for c in adopted.label], truth, run.names)
        if len(adopted)
        else {},
    )


def _choice(run: Run) -> ChoiceReport | None:
    choice = run.mined.choice
    if choice is None:
        return None
    told = tuple(Candidate(name, _what(run, name), name in choice.trusted, one) for name, one in choice.judged.items())
    return ChoiceReport(told, choice.by_fold, choice.oof_waf, choice.reason, run.settings.mining.guard)


def _what(run: Run, name: str) -> str:
    """What a candidate is, in a few words."""
    choice, learner = run.mined.choice, run.mined.learners.get(name)
    assert choice is not None
    if name == PLAIN:
        return f"the {run.settings.ensemble} of the plain learners, on the labels alone"
    if learner is None:
        taught = " and ".join(one for one in choice.trusted if one not in (PLAIN, MEAN))
        return f"the mean of {taught}"
    if learner.teacher is not None:
        return f"a network taught by {learner.teacher} what the unlabelled clips are"
    kind = "logistic regression" if learner.model.name == "linear" else "discriminant analysis"
    reads_pool = spec.reads_pool(learner) and name in choice.trusted
    return f"{kind}, on the unlabelled clips too" if reads_pool else f"{kind} on the labels alone"


def _reliability(run: Run) -> list[tuple[float, float, int]]:
    """How sure and how right the ensemble is on the labelled clips, out of fold."""
    rows, final = run.experiment.labelled, run.mined.final
    return metrics.reliability(final.probabilities[rows], final.label[rows], run.experiment.labels[rows])


def _pool(run: Run) -> dict[str, int]:
    counts = Counter(run.names[c] for c in run.mined.final.label[run.without_label])
    return {name: counts[name] for name in run.names}


def _labelled(run: Run) -> NDArray[np.int64]:
    return np.bincount(run.experiment.labels[run.experiment.labelled], minlength=len(run.names))


def _groups(run: Run, truth: NDArray[np.int64]) -> Mapping[str, tuple[int, float]]:
    known = np.flatnonzero(truth >= 0)
    speakers = [run.experiment.speakers[row] for row in known]
    true, predicted = ([run.names[c] for c in labels[known]] for labels in (truth, run.mined.final.label))
    return explain.accuracy_by_group(true, predicted, speakers)


def _contents(run: Run) -> dict[str, str]:
    """A key of the sound of each train and test clip, the same for two files of one recording."""
    made = run.extraction.made.get(AUDIO)
    if made is None:
        return {}
    compared = [clip.clip_id for clip in run.brought.clips if clip.split is not Split.UNLABELED]
    ids = [clip_id for clip_id in compared if made.refs[clip_id].present]
    hashes: dict[str, str] = {}
    for start in range(0, len(ids), _READ_AT_ONCE):
        part = ids[start : start + _READ_AT_ONCE]
        sounds = made.table.take([made.refs[clip_id] for clip_id in part], ["flac"])["flac"]
        hashes |= {
            clip_id: hashlib.sha256(sound.as_py()).hexdigest() for clip_id, sound in zip(part, sounds, strict=True)
        }
    return hashes


def _denoise(run: Run) -> report.DenoiseReport | None:
    """What denoising chose, and for the demo, whose clean voices are known, what it did to them."""
    made = run.extraction.made.get(AUDIO)
    if made is None or not run.settings.denoise.enabled:
        return None
    refs = [ref for ref in made.refs.values() if ref.present]
    choices = Counter(made.table.take(refs, ["choice"])["choice"].to_pylist())
    voices = list(_voices(run, made)) if run.brought.demo is not None else []
    if not voices:
        return report.DenoiseReport(None, None, None, None, choices)
    effect = denoising.summarise(voices)
    gains = [
        denoising.si_sdr_db(v.denoised, v.clean) - denoising.si_sdr_db(v.original, v.clean)
        for v in voices
        if v.is_noisy
    ]
    return report.DenoiseReport(
        effect.noisy_before_db,
        effect.noisy_after_db,
        effect.clean_before_db,
        effect.clean_after_db,
        choices,
        tuple(gains),
    )


def _noise(run: Run) -> Iterator[report.NoiseReport]:
    """The cases of the noise track; sounds of one kind from several folders are told apart by the folders' names."""
    folders = {(case.kind, Path(case.folder).name) for case in run.settings.evaluation.noise}
    several = {kind for kind, count in Counter(kind for kind, _ in folders).items() if count > 1}
    for told, found in zip(run.settings.evaluation.noise, run.noise, strict=False):
        yield report.NoiseReport(
            found.name,
            f"{told.kind}, {Path(told.folder).name}" if told.kind in several else told.kind,
            found.snr_db,
            found.num_clips,
            found.clean,
            found.raw.waf or 0.0,
            found.denoised.waf,
            found.raw.standard_error or 0.0,
            found.denoised.standard_error or 0.0,
        )


def _voices(run: Run, made: Made) -> Iterator[denoising.DenoisedClip]:
    """Some of the demo's voices: as recorded, as denoised, and as they were spoken."""
    demo_config = run.settings.data.demo
    seed = run.settings.seed if demo_config.seed is None else demo_config.seed
    spoken = {clip.clip_id: clip for clip in plan(demo_config.num_clips, seed, demo_config.labelled)}
    heard = [
        clip for clip in run.brought.clips if made.refs[clip.clip_id].present and spoken[clip.clip_id].broken is None
    ]
    with Decoder(run.settings.media) as decoder:
        for clip in heard[:: max(1, len(heard) // _MEASURED_VOICES)]:
            original = decoder.audio(clip.video or "", clip.media_root)
            if original is None:
                continue
            flac = made.table.take([made.refs[clip.clip_id]], ["flac"])["flac"][0].as_py()
            voice = spoken[clip.clip_id]
            yield denoising.DenoisedClip(original, decode_flac(flac), clean_voice(voice), voice.noise is not None)


def _quarantine(run: Run) -> tuple[report.QuarantineLine, ...]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in run.extraction.quarantine:
        found[row.step, str(row.error)].append(row.clip_id)
    return tuple(
        report.QuarantineLine(step, reason, len(clips), tuple(sorted(clips)[:_CLIPS_PER_GROUP]))
        for (step, reason), clips in sorted(found.items())
    )


def _clips(run: Run, explained: Explained) -> Iterator[report.ClipReport]:
    """Clips worth a look: adopted ones, contested ones, and labelled ones whose label is in doubt."""
    adopted = np.flatnonzero(run.mined.adopted >= 0)
    surest = adopted[np.argsort(-run.mined.final.confidence[adopted], kind="stable")]
    unlabelled = np.flatnonzero(run.experiment.labels < 0)
    labelled = run.experiment.labelled
    groups = {
        "learnt from" if run.mined.choice else "adopted": _spread(surest, run.mined.final.label),
        "contested": unlabelled[explain.most_contested(explained.votes_KNC[:, unlabelled], _CLIPS_PER_GROUP)],
        "label in doubt": labelled[
            explain.likely_label_errors(
                run.mined.final.probabilities[labelled], run.experiment.labels[labelled], _CLIPS_PER_GROUP
            )
        ],
    }
    for group, rows in groups.items():
        for row in rows:
            yield _clip(run, group, int(row), explained)


def _known(values: Mapping[str, NDArray[np.float64]], row: int) -> dict[str, float]:
    """One row of some columns, those that are NaN there left out."""
    return {name: float(column[row]) for name, column in values.items() if not np.isnan(column[row])}


def _spread(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first rows of every class in turn, so that the examples are not all of one class."""
    place = Counter[int]()
    ranked: list[tuple[int, int, int]] = []
    for row in rows:
        ranked.append((place[int(labels[row])], len(ranked), int(row)))
        place[int(labels[row])] += 1
    return np.array([row for _, _, row in sorted(ranked)[:_CLIPS_PER_GROUP]], dtype=np.int64)


def _clip(run: Run, group: str, row: int, explained: Explained) -> report.ClipReport:
    clip_id = run.experiment.features.clip_ids[row]
    final = run.mined.final
    votes = [
        report.Vote(voter.name, run.names[int(vote.argmax())], float(vote.max()))
        for voter, vote in zip(explained.ensemble.voters, explained.votes_KNC[:, row], strict=True)
        if not np.isnan(vote).any()
    ]
    truth, given = int(run.truth[row]), int(run.experiment.labels[row])
    adopted = int(run.mined.adopted[row])
    return report.ClipReport(
        clip_id=clip_id,
        group=group,
        label=run.names[int(final.label[row])],
        confidence=float(final.confidence[row]),
        true_label=run.names[truth] if truth >= 0 else None,
        given_label=run.names[given] if given >= 0 else None,
        votes=tuple(votes),
        weights=_known(explained.weights, row),
        without=_known(explained.falls, row),
        nearest=tuple(
            (run.experiment.features.clip_ids[near], run.names[run.experiment.labels[near]])
            for near in explained.nearest[row]
            if near >= 0
        ),
        transcript=_transcript(run, clip_id),
        faces=_faces(run, clip_id) if run.settings.report.faces else (),
        round_adopted=adopted if adopted >= 0 else None,
    )


def _transcript(run: Run, clip_id: str) -> str | None:
    row = _upstream(run, TRANSCRIPT, clip_id, "text")
    return None if row is None else str(row)


def _faces(run: Run, clip_id: str) -> tuple[bytes, ...]:
    crops: Sequence[bytes] | None = _upstream(run, FACES, clip_id, "crops")
    if not crops:
        return ()
    places = np.unique(np.linspace(0, len(crops) - 1, _FACES_PER_CLIP).round().astype(int))
    return tuple(crops[place] for place in places)


def _upstream(run: Run, step: str, clip_id: str, column: str) -> Any:  # noqa: ANN401 - whatever the column holds
    made = run.extraction.made.get(step)
    if made is None or not made.refs[clip_id].present:
        return None
    return made.table.take([made.refs[clip_id]], [column])[column][0].as_py()
