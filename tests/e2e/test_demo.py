"""The job on real clips: a small demo, from mp4 files to the report."""

import json
from collections import Counter
from pathlib import Path

import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

ENCODERS = "encoders={logmel: {plugin: logmel}, hog: {plugin: hog, pooling: mean_std}, ngrams: {plugin: ngrams}}"
STEPS = ("audio", "faces", "transcript", "logmel", "hog", "ngrams")
ARGUMENTS = (
    "data.demo.num_clips=36",
    ENCODERS,
    "fit.standardise=fold",
    "evaluation.ablations=false",
    "max_error_fraction=0.1",
    "run.dir=run",
)


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """The run directory of a finished job."""
    root = tmp_path_factory.mktemp("demo")
    done = made_job.mine_here(*ARGUMENTS, cwd=root, on_ray=True)
    assert done.returncode == 0, done.stderr
    assert "36 clips = 35 predicted + 1 quarantined" in done.stdout
    return root / "run"


@pytest.fixture(scope="module")
def truth(finished):
    """What only the demo knows of its clips, by id."""
    return {row["clip_id"]: row for row in pq.read_table(finished / "clips/truth/truth.parquet").to_pylist()}


@pytest.fixture(scope="module")
def predictions(finished):
    return pq.read_table(finished / "predictions.parquet").to_pandas().set_index("clip_id")


def rows(run_dir, step):
    """Every row of a step's table, as a stranger reads it."""
    return [row for part in parts(run_dir, step) for row in pq.read_table(part).to_pylist()]


def parts(run_dir, step="*"):
    return sorted(Path(run_dir).glob(f"tables/{step}/*/[!_]*.parquet"))


def events(run_dir):
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def test_every_step_has_each_clip_once(finished, truth):
    for step in STEPS:
        assert sorted(row["clip_id"] for row in rows(finished, step)) == sorted(truth), step


def test_broken_clips_are_left_out_with_their_reason_and_all_others_are_predicted(finished, truth, predictions):
    (nothing,) = [clip for clip, row in truth.items() if row["broken"] == "nothing_left"]
    (silent,) = [clip for clip, row in truth.items() if row["broken"] == "no_audio"]
    assert set(predictions.index) == set(truth) - {nothing}
    assert predictions.index.is_unique
    quarantine = pq.read_table(finished / "quarantine.parquet")
    assert quarantine.column_names == ["clip_id", "step", "error", "detail"]
    found = {(row["clip_id"], row["step"], row["error"]) for row in quarantine.to_pylist()}
    assert found == {(nothing, "audio", "empty_file"), (nothing, "faces", "empty_file")}, "absence is no error"
    weights = predictions.loc[silent, ["weight_audio", "weight_video", "weight_text"]]
    assert weights["weight_audio"] == 0
    assert np.isclose(weights.sum(), 1, atol=1e-5)
    fallback = pd.read_csv(finished / "submission_fallback.csv")
    submission = pd.read_csv(finished / "submission.csv")
    asked = sorted(clip for clip, row in truth.items() if row["split"] != "train")
    assert sorted(submission["name"]) == asked
    assert fallback["name"].tolist() == [clip for clip in [nothing] if clip in asked]
    commonest = Counter(row["label"] for row in truth.values() if row["split"] == "train").most_common()
    stand_in = submission.set_index("name").loc[fallback["name"], "discrete"]
    assert set(stand_in) <= {label for label, count in commonest if count == commonest[0][1]}


def test_no_label_of_the_pool_or_of_test_clips_is_trained_on(finished, truth):
    manifest = pd.read_csv(finished / "clips/manifest.csv", keep_default_na=False)
    assert set(manifest.loc[manifest["split"] == "unlabeled", "label"]) == {""}
    assert "truth" not in " ".join(manifest.columns)
    votes = pq.read_table(finished / "rounds/00/votes.parquet")["clip_id"].to_pylist()
    assert {truth[clip]["split"] for clip in votes} == {"unlabeled", "test"}
    selected = pq.read_table(finished / "rounds/00/selected.parquet")["clip_id"].to_pylist()
    assert {truth[clip]["split"] for clip in selected} <= {"unlabeled"}


def test_blank_transcripts_are_recognised(finished, truth):
    manifest = pd.read_csv(finished / "clips/manifest.csv", keep_default_na=False)
    blank = {clip for clip in manifest.loc[manifest["text"] == "", "clip_id"] if truth[clip]["broken"] is None}
    heard = {row["clip_id"]: row["text"] for row in rows(finished, "transcript") if row["clip_id"] in blank}
    assert blank
    spoken = [len(set(heard[clip].split()) & set(truth[clip]["text"].split())) > 0 for clip in blank]
    assert np.mean(spoken) > 0.5


def test_events_tell_the_run_in_order(finished):
    told = events(finished)
    assert told[0]["event"] == "run_started"
    assert [e["step"] for e in told if e["event"] == "step_started"][: len(STEPS)] == list(STEPS)
    done = {e["step"]: e for e in told if e["event"] == "step_done"}
    assert {step: done[step]["clips"] for step in STEPS} == dict.fromkeys(STEPS, 36)
    assert done["audio"]["errors"] == {"empty_file": 1}
    assert any(e["event"] == "run_done" and e["counts"]["predicted"] == 35 for e in told)


def test_the_report_shows_faces_and_needs_nothing_from_outside(finished, truth):
    page = (finished / "report.html").read_text()
    assert "data:image/jpeg" in page
    for outside in ('src="http', "src='http", 'href="http', "src=//", "@import", "url(http"):
        assert outside not in page
    for told in ("35 of 36", "empty file", "Denoising", "hog", "Round by round"):
        assert told in page, told


def test_again_without_faces_nothing_is_made_and_the_page_has_none(finished, predictions):
    """The same run, with another report and another limit: exit 3, one quarantined clip being too many."""
    before = {path: path.stat().st_mtime_ns for path in [*parts(finished), *finished.glob("rounds/*/*/*")]}
    num_events = len(events(finished))
    done = made_job.mine_here(*ARGUMENTS, "report.faces=false", "max_error_fraction=0.0", cwd=finished.parent)
    assert done.returncode == 3, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(parts(finished)) == len([path for path in before if "tables" in path.parts])
    steps = [event for event in events(finished)[num_events:] if event["event"] == "step_done"]
    assert {event["step"] for event in steps} >= set(STEPS)
    assert sum(event["clips"] for event in steps) == 0
    again = pq.read_table(finished / "predictions.parquet").to_pandas().set_index("clip_id")
    pd.testing.assert_frame_equal(again, predictions, check_exact=True)
    page = (finished / "report.html").read_text()
    assert "image/jpeg" not in page
    assert "35 of 36" in page


@pytest.mark.slow
def test_a_damaged_and_a_lost_part_are_made_again_and_nothing_else(finished, predictions):
    damaged, lost = parts(finished, "logmel")[0], parts(finished, "hog")[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :])
    lost.unlink()
    others = {path: path.stat().st_mtime_ns for path in parts(finished) if path not in {damaged, lost}}
    num_events = len(events(finished))
    done = made_job.mine_here(*ARGUMENTS, cwd=finished.parent, on_ray=True)
    assert done.returncode == 0, done.stderr
    told = events(finished)[num_events:]
    assert [(e["step"], e["part"]) for e in told if e["event"] == "corrupt_part"] == [("logmel", damaged.name)]
    made = {e["step"]: e["clips"] for e in told if e["event"] == "step_done" and e["clips"]}
    assert set(made) == {"logmel", "hog"}
    assert all(0 < clips <= 16 for clips in made.values())
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert any((damaged.parent / "_corrupt").iterdir()), "the altered part is kept"
    again = pq.read_table(finished / "predictions.parquet").to_pandas().set_index("clip_id")
    pd.testing.assert_frame_equal(again, predictions, check_exact=True)
    assert "rounds_moved_aside" not in {event["event"] for event in told}, "the features are the same bits"
