"""Two nodes that share S3 alone (``tests/isolated_nodes.sh``): what they make, and what is refused before a row."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import made_job
import numpy as np
import pyarrow.parquet as pq
import pytest
from faults.conftest import TESTS, free_ports

from mer_ray.data.storage import Store
from mer_ray.demo import files as demo_files
from mer_ray.encoders import hubert

pytestmark = [pytest.mark.faults, pytest.mark.s3, pytest.mark.slow]

NODES = {"127.0.0.11", "127.0.0.12"}
NOBODY_MAY = 77
LIGHT = ("logmel", "hog", "ngrams")
ENCODERS = "encoders={" + ", ".join(f"{name}: {{plugin: {name}, batch_size: 4}}" for name in LIGHT) + "}"
DEMO = ("--config", "demo.yaml", "data.layout=manifest", "denoise.batch_size=4", "faces.fps=2", ENCODERS)
WORKED = """
import json, os, ray
from ray._private.state import actors
ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
named = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
worked = [one for one in actors().values() if one["ActorClassName"].startswith("MapWorker")]
print(json.dumps(sorted({named[one["Address"]["NodeID"]] for one in worked})))
"""


@pytest.fixture(scope="module")
def hidden(tmp_path_factory) -> Path:
    """A folder that workers see as an empty one of their own, with the demo's clips and a speech model."""
    folder = tmp_path_factory.mktemp("hidden")
    manifest = demo_files.make(folder / "clips", 34, seed=0)
    manifest.rename(folder / "clips" / "clips.csv")
    shutil.copytree(hubert.tiny().config.weights.source, folder / "model")
    return folder


@pytest.fixture(scope="module")
def nodes(server, hidden) -> Iterator[None]:
    """The cluster, by its address in the environment."""
    port = str(free_ports(26400))
    command = [
        "bash",
        str(TESTS / "isolated_nodes.sh"),
        sys.executable,
        port,
        "2",
        "--",
        "bash",
        "-c",
        "echo there; cat",
    ]
    private = {"PRIVATE": f"{Path.home()}/.cache /mnt /dev/shm {hidden}"}
    cluster = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **private}
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    there = any(line == "there\n" for line in cluster.stdout)
    if not there and cluster.wait() == NOBODY_MAY:
        pytest.skip("needs root, or user namespaces: nodes are to have mounts of their own")
    assert there, "the nodes did not start"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        yield
    cluster.stdin.close()
    cluster.wait()


@pytest.fixture(scope="module")
def clips(bucket, hidden) -> Store:
    """The demo's clips in the bucket."""
    store = bucket / "clips"
    store.filesystem.put(str(hidden / "clips"), store.root, recursive=True)
    return store


def extract(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return made_job.run("extract", *DEMO, *arguments, cwd=folder)


def vectors(tables: Store, encoder: str) -> dict[str, object]:
    """By clip: the vector, or why there is none."""
    parts = [name for name in tables.details(encoder, deep=True) if name.endswith(".parquet") and "/_" not in name]
    rows = [row for name in parts for row in pq.read_table(io.BytesIO(tables.read(f"{encoder}/{name}"))).to_pylist()]
    assert len({row["clip_id"] for row in rows}) == len(rows), "a clip stands twice"
    return {row["clip_id"]: row["vector"] or row["error"] for row in rows}


def test_nodes_that_share_s3_alone_make_the_features_of_one(bucket, clips, hidden, nodes, monkeypatch, tmp_path):
    run_dir = bucket / "two"
    done = extract(tmp_path, f"data.manifest={clips.path('clips.csv')}", f"run.dir={run_dir}")
    assert done.returncode == 0, done.stdout + done.stderr
    told = subprocess.run([sys.executable, "-c", WORKED], capture_output=True, text=True, check=True)
    assert set(json.loads(told.stdout.splitlines()[-1])) == NODES, "not both nodes worked, and no other"
    monkeypatch.delenv("RAY_ADDRESS")
    alone = extract(tmp_path, f"data.manifest={hidden}/clips/clips.csv", "run.dir=one", *made_job.SMALL_RAY)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    for encoder in LIGHT:
        two, one = vectors(run_dir / "tables", encoder), vectors(Store(str(tmp_path / "one/tables")), encoder)
        assert len(two) == 34
        assert two == one
        assert np.isfinite([vector for vector in two.values() if isinstance(vector, list)]).all()


@pytest.mark.parametrize(
    ("told", "path", "remedy"),
    [
        ("tables.dir={hidden}/tables", "{hidden}/tables/_probe", "set tables.dir to a folder that all nodes share"),
        ("run.dir={hidden}/run", "{hidden}/run/_probe", "set run.dir to a folder that all nodes share"),
        ("data.manifest={hidden}/clips/clips.csv", "{hidden}/clips/", "give data.manifest and data.media_root"),
        (
            "encoders.voice={{plugin: hubert, options: {{weights: {{source: {hidden}/model}}}}}}",
            "{hidden}/model",
            "name a copy in a bucket",
        ),
    ],
    ids=["tables", "run", "media", "weights"],
)
def test_what_lies_on_a_node_s_own_disk_is_refused_before_the_first_row(
    told, path, remedy, bucket, clips, hidden, nodes, tmp_path
):
    case = bucket / tmp_path.name
    shared = (f"data.manifest={clips.path('clips.csv')}", f"tables.dir={case}/tables", f"run.dir={case}/run")
    done = extract(tmp_path, *shared, told.format(hidden=hidden))
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if path.format(hidden=hidden) in line]
    assert all(node in line for node in NODES), "a node that does not see it is not named"
    assert remedy in line
    tables = (Store(f"{hidden}/tables"), case / "tables")
    assert not [name for store in tables for name in store.details(deep=True) if name.endswith(".parquet")]
