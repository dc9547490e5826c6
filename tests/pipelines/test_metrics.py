"""What Prometheus reads of a real run, and that the dashboard asks for nothing else."""

import json
import re
import time
import urllib.request

import made_job
import pandas as pd
import pytest
import ray
from made_steps import step_of

from mer_ray import config
from mer_ray.config import RuntimeConfig
from mer_ray.runtime import materialise as materialising
from mer_ray.runtime import metrics
from mer_ray.runtime.materialise import materialise

BOARD = json.loads((config.REPOSITORY / "cluster" / "grafana.json").read_text())
QUERIES = {panel["title"]: panel["targets"][0]["expr"] for panel in BOARD["panels"]}
EMOTIONS = ("joy", "anger")


def read(name):
    """The lines of the node's exporter with a metric of this name, as it is soon."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = urllib.request.urlopen(address, timeout=10).read().decode().splitlines()
        if found := [line for line in lines if line.startswith(f"{name}{{")]:
            return found
        time.sleep(1)
    return []


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory):
    """A small job, and a step with an error and a fault."""
    folder = tmp_path_factory.mktemp("metrics")
    labels = [EMOTIONS[i % 2] if i < 24 else "" for i in range(40)]
    words = {"joy": "how lovely", "anger": "I hate it", "": "how lovely I"}
    rows = {
        "clip_id": [f"c{i}" for i in range(40)],
        "label": labels,
        "text": [f"{words[one]} {i}" for i, one in enumerate(labels)],
    }
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    told = [
        "data.manifest=clips.csv",
        "data.layout=manifest",
        f"run.dir={folder}/run",
        "encoders={words: {plugin: ngrams}}",
    ]
    done = made_job.mine_here(*told, "labels=[joy,anger]", "mining={strategy: vote}", cwd=folder, on_ray=True)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(materialising, "_FIRST_WAIT_SECONDS", 0.1)
        materialise(step_of(folder, {"a": "x", "b": "bad", "c": "full once"}, batch_size=1), {}, RuntimeConfig())


@pytest.mark.parametrize("title", QUERIES)
def test_each_query_of_the_dashboard_names_metrics_that_a_run_exports(run, title):
    names = set(re.findall(r"ray_mer_ray_\w+", QUERIES[title]))
    assert names
    for name in names:
        assert read(name), f"{name} is not exported"


def test_every_metric_is_drawn_and_has_its_labels(run):
    drawn = " ".join(QUERIES.values())
    for name in {**metrics._COUNTERS, **metrics._GAUGES}:
        assert f"ray_mer_ray_{name}" in drawn
    faults = read("ray_mer_ray_machine_faults_total")
    assert any('step="length"' in line for line in faults)
    assert all('node="' in line for line in faults)
    assert any('step="words"' in line for line in read("ray_mer_ray_clips_total"))
    assert any('reason="bad_text"' in line for line in read("ray_mer_ray_errors_total"))
