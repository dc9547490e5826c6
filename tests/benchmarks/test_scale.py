import json

import pyarrow as pa
import pytest
from rich.console import Console

from mer_ray.benchmarks import harness, scale
from mer_ray.errors import ConfigError
from mer_ray.stages.base import ROW_FIELDS


def test_the_stage_makes_a_row_for_every_clip():
    stage = scale.NothingStage(4)
    rows = stage.process(pa.table({"clip_id": ["a", "b"]}))
    assert rows["clip_id"].to_pylist() == ["a", "b"]
    assert rows.schema.names == ["clip_id", "present", "vector", *(field.name for field in ROW_FIELDS[2:])]


def test_too_few_clips_to_measure_are_refused():
    with pytest.raises(ConfigError, match="three batches"):
        list(scale.run(scale.Config(clips=[100], batch_size=64), Console(quiet=True)))


@pytest.mark.slow
def test_it_measures_rate_memory_resuming_and_scaling(tmp_path, monkeypatch):
    told = ["clips=[1024,2048]", "tables=3", "batch_size=16", "workers=[1,2]", "batch_seconds=0.2", "million=true"]
    monkeypatch.setattr(scale, "_MILLION", 1500)
    assert harness.main(["scale", "--json", str(tmp_path / "out.json"), *told]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert {"noop_clips_per_s", "first_part_seconds", "resume_seconds", "million_seconds"} <= figures.keys()
    assert figures["peak_memory_bytes_2k"] > figures["driver_peak_bytes_1m"] > 2**26
    assert figures["scaling"].keys() == {"1", "2"}
    assert figures["scaling"]["1"] == 1.0
