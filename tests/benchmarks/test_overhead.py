import pyarrow as pa
import pytest
from rich.console import Console

from mer_ray.benchmarks import overhead
from mer_ray.errors import ConfigError
from mer_ray.stages.base import ROW_FIELDS


def test_the_stage_makes_a_row_for_every_clip():
    stage = overhead.NothingStage(4)
    rows = stage.process(pa.table({"clip_id": ["a", "b"]}))
    assert rows["clip_id"].to_pylist() == ["a", "b"]
    assert rows.schema.names == ["clip_id", "present", "vector", *(field.name for field in ROW_FIELDS[2:])]


def test_too_few_clips_to_measure_are_refused():
    with pytest.raises(ConfigError, match="three batches"):
        overhead.run(overhead.Config(clips=[100], batch_size=64), Console(quiet=True))


@pytest.mark.slow
def test_it_measures_each_number_of_clips(tmp_path):
    figures = overhead.run(overhead.Config(clips=[96, 256], batch_size=32), Console(quiet=True))["clips"]
    assert figures.keys() == {"96", "256"}
    for count, values in figures.items():
        assert values["overhead_seconds_per_clip"] == pytest.approx(values["seconds"] / (int(count) - 32))
        assert values["peak_memory_bytes"] > 2**26
