"""The layer probe, run as a user runs it, on a tiny speech model."""

import json
import shutil
from pathlib import Path

import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from mer_ray.config import EncoderConfig, ProbeConfig
from mer_ray.encoders import hubert
from mer_ray.errors import ConfigError
from mer_ray.pipelines import command, probe

NAMES = ("anger", "neutral", "sadness")


def run(*arguments: str, cwd: Path):
    return made_job.run("probe", *made_job.SMALL_RAY, "data.manifest=clips.csv", "run.dir=run", *arguments, cwd=cwd)


def sound(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Half a second: a low tone, noise, or clicks."""
    time = np.arange(8_000) / 16_000
    noise = rng.standard_normal(8_000)
    made = (np.sin(2 * np.pi * rng.uniform(100, 120) * time) + 0.01 * noise, noise, 5.0 * (np.arange(8_000) % 800 < 8))
    return (0.1 * made[kind] + 0.001 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """36 labelled sounds of three kinds, one unlabelled, and one whose file is broken."""
    root = tmp_path_factory.mktemp("probe")
    shutil.copytree(hubert.tiny().config.weights.source, root / "models" / "tiny")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(38):
        soundfile.write(root / f"c{i}.wav", sound(i % 3, rng), 16_000)
        rows.append((f"c{i}", f"c{i}.wav", NAMES[i % 3] if i < 37 else "", f"s{i % 9}"))
    (root / "c36.wav").write_bytes(b"")
    pd.DataFrame(rows, columns=["clip_id", "audio", "label", "speaker"]).to_csv(root / "clips.csv", index=False)
    arguments = ["encoders.hubert.options.weights.source=./models/tiny", "probe={layers: all, folds: 3}"]
    return root, run(*arguments, cwd=root), arguments


@pytest.mark.slow
def test_every_layer_is_scored_on_the_same_folds(finished):
    root, done, _ = finished
    assert done.returncode == 0, done.stderr
    (model,) = json.loads((root / "run/probe.json").read_text())["models"]
    assert [layer["layer"] for layer in model["layers"]] == [0, 1, 2, 3]
    assert (model["num_clips"], model["num_folds"], model["grouped"]) == (36, 3, True)
    assert all(len(layer["folds"]) == 3 for layer in model["layers"])
    best = max(model["layers"], key=lambda layer: layer["mean"])
    assert model["best"] == best["layer"]
    assert best["mean"] > 0.8, "three kinds of sounds are told apart even by random weights"
    assert f"Layer {model['best']} of hubert" in (root / "run/probe.html").read_text()
    quarantine = pq.read_table(root / "run/quarantine.parquet").to_pylist()
    assert {row["clip_id"] for row in quarantine} == {"c36"}


@pytest.mark.slow
def test_all_layers_are_made_in_one_pass_and_the_table_is_used_again(finished):
    root, _, arguments = finished
    (table,) = (root / "run/tables").glob("hubert/*")
    assert pq.read_schema(next(table.glob("[!_]*.parquet"))).field("vector").type.list_size == 4 * 32
    before = {path: path.stat().st_mtime_ns for path in table.glob("[!_]*.parquet")}
    again = run(*arguments, "probe.penalty=1.0", cwd=root)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (root / "run/tables").glob("hubert/*/[!_]*.parquet")} == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "weights ./models/chinese-hubert-large: there is no such folder"),
        (["encoders={a: {plugin: logmel}}"], "has no layers to read out"),
        (["encoders={}"], "no model to probe"),
        (["encoders.hubert.options.weights.source=random:hubert-base", "probe.layers=[13]"], "hidden states 0 to 12"),
    ],
)
def test_what_cannot_be_probed_is_told_before_anything_starts(tmp_path, monkeypatch, capsys, arguments, told):
    (tmp_path / "clips.csv").write_text("clip_id,text,label\na,x,anger\nb,y,joy\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "session", lambda runtime: pytest.fail("Ray was started"))
    code = command.main(
        job="probe",
        about="",
        model=ProbeConfig,
        file="probe.yaml",
        arguments=["data.manifest=clips.csv", "run.dir=run", *arguments],
    )
    assert code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(10, tuple(range(15, 25))), ("all", tuple(range(25))), (99, tuple(range(1, 25))), ([18, 2], (18, 2))],
)
def test_which_layers_are_judged(wanted, expected):
    encoder = EncoderConfig(plugin="hubert", options={"weights": {"source": "random:hubert-large"}})
    assert probe.layers_of("voice", encoder, ProbeConfig(probe={"layers": wanted})) == expected


def test_a_plug_in_without_layers_is_refused():
    with pytest.raises(ConfigError, match=r"encoders\.voice: the plug-in logmel has no layers"):
        probe.layers_of("voice", EncoderConfig(plugin="logmel"), ProbeConfig())
