"""What a finished job says of itself: counts, the comparison with chance, the columns of its predictions."""

from dataclasses import replace
from itertools import pairwise

import made_experiment as made
import made_outcome
import numpy as np
import pyarrow as pa
import pytest

from mer_ray.config import LearnerConfig, PluginConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.pipelines import predictions, results
from mer_ray.types import Split

SILENT = 40
"""A clip of the pool that no learner can vote on: it has a pose alone, which none of them reads."""


def small():
    experiment, truth = made.make(num_labelled=36, num_pool=30, num_test=30, distance=4.0)
    features = []
    for feature in experiment.features.features:
        present = feature.present.copy()
        present[SILENT] = False
        features.append(replace(feature, values=np.where(present[:, None], feature.values, np.nan), present=present))
    pose = Feature("pose", "video", np.ones((len(truth), 2), np.float32), np.ones(len(truth), dtype=bool))
    return replace(experiment, features=FeatureSet(experiment.features.clip_ids, (*features, pose))), truth


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run that learns something, chooses anew each round, and of whose test clips every third has a label."""
    experiment, truth = small()
    tested = np.arange(len(truth)) % 3 > 0
    options = {"rounds": 2, "strategy": "topk", "options": {"k": 5, "relabel": "revisit"}}
    return made_outcome.finish(tmp_path_factory.mktemp("good"), experiment, truth, tested, **options)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A run that chooses among learners of the labels alone, one that reads the pool and one that this one teaches."""
    experiment, truth = small()
    views = list(made.VIEWS)
    reader = LearnerConfig(name="reader", features=views, model=PluginConfig(name="lda_em"))
    pupil = LearnerConfig(name="pupil", features=views, teacher="reader")
    options = {"strategy": "auto", "learners": [*made.learners()[:2], reader, pupil], "guard": True}
    return made_outcome.finish(tmp_path_factory.mktemp("chosen"), experiment, truth, **options)


@pytest.fixture(scope="module")
def useless(tmp_path_factory):
    """A run on shuffled labels."""
    experiment, truth = small()
    shuffled = np.random.default_rng(1).permutation(truth)
    labels = np.where(experiment.labels >= 0, shuffled, -1)
    folder, experiment = tmp_path_factory.mktemp("useless"), replace(experiment, labels=labels)
    return made_outcome.finish(folder, experiment, shuffled, rounds=0)


@pytest.fixture(scope="module")
def asked(good, tmp_path_factory):
    """What ``predict`` says of the same clips by that run."""
    return made_outcome.ask(tmp_path_factory.mktemp("asked"), good)


def test_a_useless_result_says_so_first(useless):
    told = "No better than chance: on 30 clips the weighted F1 is "
    assert useless.printed.startswith(told)
    assert f'<p class="lead">{told}' in useless.page
    figures = useless.figures
    assert figures["above_chance"] is False
    assert figures["chance"] == pytest.approx(1 / 3, abs=0.02)
    assert figures["ensemble"]["waf"] == figures["test"]["waf"]
    assert figures["ensemble"]["interval"][0] <= figures["chance"]


def test_a_useless_model_says_so_of_new_clips_too(useless, tmp_path):
    asked = made_outcome.ask(tmp_path, useless)
    assert asked.figures["above_chance"] is False
    assert asked.figures["trained_on"] == 36
    assert "No better than chance: on 30 clips" in asked.printed
    assert asked.printed.index("No better") < asked.printed.index("Labels given")


def test_a_good_result_does_not(good, asked):
    for outcome in (good, asked):
        assert outcome.figures["above_chance"] is True
        assert "better than chance" not in outcome.printed
        assert outcome.figures["ensemble"]["num_clips"] == 20
    assert "better than chance" not in good.page


def test_without_labelled_test_clips_the_comparison_is_out_of_fold(useless):
    run = replace(useless.run, brought=replace(useless.run.brought, manifest=_without_test_labels(useless.run)))
    assert run.scored_on == "out-of-fold"
    told = results.judged(run.scores)
    assert told["ensemble"]["num_clips"] == 36
    assert told["chance"] == pytest.approx(1 / 3, abs=0.02)
    assert told["above_chance"] is (told["ensemble"]["interval"][0] > told["chance"])


def _without_test_labels(run):
    clips = (replace(clip, label=None) if clip.split is Split.TEST else clip for clip in run.brought.clips)
    return replace(run.brought.manifest, clips=tuple(clips))


def test_where_nothing_is_scored_nothing_is_compared():
    assert results.judged(None) == {"chance": None, "above_chance": None, "ensemble": None}


def test_a_clip_chosen_in_several_rounds_counts_once(good):
    kept = [one for one in good.run.mined.rounds if one.kept]
    assert len(kept) == 3
    chosen = [set(one.trained_on.clip.tolist()) for one in kept]
    assert chosen[1] & chosen[2], "no clip was chosen anew"
    distinct = len(chosen[1] | chosen[2])
    assert distinct < len(chosen[1]) + len(chosen[2])
    assert (good.figures["adopted"], good.figures["adoptable"]) == (distinct, 30)
    assert f"Learning from {distinct} of the 30 unlabelled clips" in good.page


def test_clips_that_had_no_label_are_those_without_one_in_the_manifest(good):
    labels = [clip.label for clip in good.run.brought.clips if clip.split is not Split.TRAIN]
    assert sum(label is None for label in labels) == 30 + 10
    assert all(sum(one["pool"].values()) == 40 for one in good.figures["rounds"])
    rows = [row for row, clip in enumerate(good.run.brought.clips) if clip.label is None]
    counts = np.bincount(good.run.mined.final.label[rows], minlength=3)
    chart = good.page[good.page.index("Labels given to the clips that had none") :]
    for count in counts:
        assert f"{count} · {count / 40:.0%}" in chart


def test_the_round_is_the_first_that_adopted_the_clip_and_null_where_none_did(good):
    found = good.table["round"]
    assert found.type == pa.int64()
    kept = [one for one in good.run.mined.rounds if one.kept]
    for row, number in enumerate(found.to_pylist()):
        choosing = [one.number for one, after in pairwise(kept) if row in one.selected.clip]
        assert number == (choosing[0] if choosing else None)
    assert {None, 0} <= set(found.to_pylist())


def test_both_jobs_write_the_same_columns_in_order_and_type(good, asked):
    assert asked.table.schema.equals(good.table.schema)
    final = results.final_of(good.run)
    assert good.table.schema.equals(predictions.schema(final))
    assert good.table.column_names[:4] == ["clip_id", "split", "label", "confidence"]
    assert good.table.column_names[-5:] == ["round", "given", "nearest", "nearest_given", "speaker_clips"]


def test_what_is_not_known_is_null_and_never_nan(good, asked):
    for table in (good.table, asked.table):
        for name in table.column_names:
            if pa.types.is_floating(table[name].type):
                assert not np.isnan(table[name].drop_null().to_numpy()).any(), name
        row = table.slice(SILENT, 1).to_pylist()[0]
        assert [row[f"weight_{modality}"] for modality in made.VIEWS.values()] == [None] * 3
        assert [row[name] for name in row if name.startswith("vote_")] == [None] * 4
    assert set(asked.table["round"].to_pylist()) == {None}
    assert set(asked.table["nearest"].to_pylist()) == {None}


def test_predict_keeps_the_split_and_the_given_label_and_submits_every_clip(good, asked):
    assert asked.table["split"].to_pylist() == [str(split) for split in good.run.experiment.splits]
    assert asked.table["given"].equals(good.table["given"])
    assert asked.figures["trained_on"] == 36
    assert (asked.folder / "submission.csv").read_text().count("\n") == 1 + 96


def test_a_clip_that_no_learner_can_vote_on_is_listed_as_a_stand_in(good, asked):
    name = f"clip{SILENT:03d}"
    for outcome in (good, asked):
        assert outcome.fallback == {name: "no learner could vote"}
        row = outcome.table.slice(SILENT, 1).to_pylist()[0]
        prior = good.run.experiment.prior
        assert row["clip_id"] == name
        assert row["label"] == made.CLASSES[prior.argmax()]
        assert [row[f"prob_{c}"] for c in made.CLASSES] == prior.tolist()
        assert row["confidence"] == prior.max()


def test_what_was_chosen_and_what_that_is_worth_is_told(chosen):
    candidates, oof = chosen.figures["candidates"], chosen.figures["oof"]
    assert list(candidates) == ["round_0", "reader", "pupil", "mean"]
    (taken,) = [name for name, one in candidates.items() if one["chosen"]]
    assert f"{taken} labels the clips: it is the one trusted most" in chosen.page
    assert f"The choice itself is worth a weighted F1 of {100 * oof['waf']:.1f} out of fold" in chosen.page
    assert f"each fold judged by what the others chose: {oof['waf']:.4f}" in chosen.printed
    for name, one in candidates.items():
        assert name in chosen.printed
        assert f"{one['oof_waf']:.4f}" in chosen.printed
        assert f"<td>{one['log_loss']:.3f}</td>" in chosen.page
    for expected in (
        "a network taught by reader",
        "the mean of reader and pupil",
        "discriminant analysis, on the unlab",
    ):
        assert expected in chosen.page


def test_counts_are_of_the_clips_that_the_chosen_candidate_learnt_from(chosen):
    used = chosen.run.mined.last.trained_on
    distinct = len(np.unique(used.clip))
    assert len(used) > distinct, "no clip was used in several folds or by several learners"
    assert SILENT not in used.clip
    assert chosen.figures["adopted"] == distinct == 29
    assert chosen.figures["rounds"][0]["selected"] == distinct
    assert sum(chosen.figures["rounds"][0]["adopted"].values()) == distinct
    assert f"Learning from {distinct} of the 30 unlabelled clips, by probabilities of all classes" in chosen.page
    assert "clips learnt from" in chosen.printed
    assert "pseudo-label" not in chosen.printed


def test_folds_that_split_speakers_are_warned_of_before_the_figures(chosen):
    warning = "the out-of-fold figures of mining may be too kind"
    assert chosen.page.index("Before you trust the figures") < chosen.page.index(warning) < chosen.page.index("<main>")


def test_the_reliability_chart_is_of_the_labelled_clips_out_of_fold(chosen):
    chart = chosen.page[chosen.page.index("Share right, per cent, against") :].partition('"')[0]
    counts = [int(point.split()[-2]) for point in chart.split(". ", 1)[1].split("; ")]
    assert len(counts) == 15
    assert (sum(counts), max(counts) - min(counts)) == (36, 1)
    assert f"expected calibration error, is {100 * chosen.figures['oof']['ece']:.1f} points" in chosen.page
