"""A step of ``made_stages.LengthStage`` on clips of given texts, and what it left."""

from pathlib import Path

import made_stages
import pyarrow.parquet as pq
from made_stages import LengthStage
from ray import cloudpickle

from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.runtime.materialise import Step
from mer_ray.types import Clip, Split

cloudpickle.register_pickle_by_value(made_stages)


def step_of(root: Path, texts: dict[str, str], tables: Store | None = None, **options) -> Step:
    """Its marks lie in ``root``, and its tables unless they are elsewhere."""
    marks = root / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    stage = LengthStage(marks, **options)
    clips = {c: Clip(c, Split.TRAIN, text=text) for c, text in texts.items()}
    table = Table(tables or Store(str(root / "tables")), stage.name, stage.schema, stage.spec)
    return Step(stage, table, {c: row_key(c, text) for c, text in texts.items()}, clips)


def rows_of(step: Step) -> dict[str, dict]:
    """The rows by clip, read as a stranger would: every part in the folder; fails on a doubled clip."""
    rows = pq.read_table(step.table.store.root).to_pylist()
    assert len({row["clip_id"] for row in rows}) == len(rows), "a clip stands twice"
    return {row["clip_id"]: row for row in rows}


def tries(root: Path, clip_id: str) -> int:
    path = root / "marks" / f"{clip_id}.tries"
    return len(path.read_text()) if path.exists() else 0
