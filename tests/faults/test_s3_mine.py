"""A mining job with everything in S3, killed and continued, on a real server."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killing import kill_when
from made_job import QUICK

from mer_ray import config
from mer_ray.data.storage import Store

pytestmark = [pytest.mark.s3, pytest.mark.slow]
SPLITS = ["train"] * 30 + ["unlabeled"] * 40 + ["test"] * 20
CLASSES = ("anger", "happiness", "neutral")


@pytest.fixture(scope="module")
def bundle(bucket) -> Store:
    """A manifest of 90 clips with text, and vectors of two encoders, in the bucket."""
    store = bucket / "bundle"
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=90)
    ids = [f"c{i:02d}" for i in range(90)]
    named = [CLASSES[c] if s != "unlabeled" else "" for c, s in zip(label, SPLITS, strict=True)]
    text = [f"a {('cross', 'glad', 'plain')[c]} word {i}" for i, c in enumerate(label)]
    manifest = pd.DataFrame({"clip_id": ids, "text": text, "split": SPLITS, "label": named})
    store.write("clips.csv", manifest.to_csv(index=False).encode())
    for name in ("audio", "video"):
        vector = np.eye(3)[label] * 2 + rng.normal(size=(90, 3))
        sink = io.BytesIO()
        pd.DataFrame({"clip_id": ids, "vector": list(vector)}).to_parquet(sink)
        store.write(f"features/{name}.parquet", sink.getvalue())
    return store


def command(bundle: Store, run_dir: Store) -> list[str]:
    script = str(config.REPOSITORY / "jobs" / "mine.py")
    brought = [f"data.manifest={bundle.path('clips.csv')}", f"data.features={bundle.path('features')}"]
    options = ["encoders.ngrams={plugin: ngrams, batch_size: 32}", "evaluation.ablations=false", *QUICK]
    return [sys.executable, script, "--config", "jobs/configs/features.yaml", *brought, *options, f"run.dir={run_dir}"]


def mine(bundle: Store, run_dir: Store) -> str:
    """Run the job to its end; what it printed."""
    done = subprocess.run(command(bundle, run_dir), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def work(run_dir: Store) -> dict[str, object]:
    """When each row's part and each learner's model was written."""
    there = run_dir.details(deep=True)
    made = {name: info for name, info in there.items() if name.endswith((".safetensors", ".parquet")) and "/" in name}
    return {n: info["LastModified"] for n, info in made.items() if n.startswith("tables/") or "safetensors" in n}


def predictions(run_dir: Store) -> pa.Table:
    return pq.read_table(io.BytesIO(run_dir.read("predictions.parquet")))


@pytest.fixture(scope="module")
def finished(bucket, bundle) -> tuple[Store, str]:
    run_dir = bucket / "runs/undisturbed"
    return run_dir, mine(bundle, run_dir)


def test_a_job_with_everything_in_s3_leaves_its_results_there(finished):
    run_dir, told = finished
    assert run_dir.path("report.html") in told
    assert "90 clips = 90 predicted + 0 quarantined" in told
    expected = {"config.yaml", "environment.json", "events.jsonl", "metrics.json", "predictions.parquet"}
    assert expected | {"quarantine.parquet", "report.html", "submission.csv"} <= set(run_dir.files())
    assert predictions(run_dir).num_rows == 90
    assert run_dir.folders("rounds") == ["00", "01", "standardise"]
    assert any(name.startswith("tables/ngrams/") for name in work(run_dir))


def test_the_same_command_again_computes_nothing(finished, bundle):
    run_dir, _ = finished
    before, predicted = work(run_dir), predictions(run_dir)
    mine(bundle, run_dir)
    assert work(run_dir) == before
    assert predictions(run_dir).equals(predicted)


def test_a_killed_job_continues_and_ends_as_an_undisturbed_one(finished, bucket, bundle):
    run_dir = bucket / "runs/killed"
    job = command(bundle, run_dir)
    kill_when(job, lambda: any(n.startswith("tables/ngrams/") for n in work(run_dir)))
    kill_when(
        command(bundle, run_dir), lambda: any(n.endswith("metrics.json") for n in run_dir.details("rounds", deep=True))
    )
    done = [n.removesuffix("metrics.json") for n in run_dir.details("rounds/00", deep=True) if n.count("/") == 1]
    kept = {n: when for n, when in work(run_dir).items() if any(n.startswith(f"rounds/00/{folder}") for folder in done)}
    kept |= {n: when for n, when in work(run_dir).items() if n.startswith("tables/")}
    mine(bundle, run_dir)
    assert kept.items() <= work(run_dir).items(), "what was finished was made again"
    assert predictions(run_dir).equals(predictions(finished[0]))
    assert run_dir.read("submission.csv") == finished[0].read("submission.csv")
