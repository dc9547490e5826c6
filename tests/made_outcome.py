"""All that a finished job leaves and prints, of an experiment mined in this process, without Ray."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import made_finished
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from mer_ray.config import DataConfig, PredictConfig, RunConfig
from mer_ray.data.manifest import Manifest
from mer_ray.data.storage import Store
from mer_ray.evaluation import report
from mer_ray.pipelines import narrate, predict, results, summary
from mer_ray.pipelines.features import Extraction
from mer_ray.pipelines.results import Run
from mer_ray.pipelines.source import Brought
from mer_ray.runtime.journal import Journal
from mer_ray.types import Clip, LabelSpace, Split


@dataclass
class Outcome:
    """What a job left in ``folder``, and what it printed."""

    folder: Path
    run: Run | None
    printed: str
    page: str = ""

    @property
    def table(self) -> pa.Table:
        return pq.read_table(self.folder / "predictions.parquet")

    @property
    def figures(self) -> dict:
        return json.loads((self.folder / "metrics.json").read_text())

    @property
    def fallback(self) -> dict[str, str]:
        return dict(pd.read_csv(self.folder / "submission_fallback.csv").to_numpy().tolist())


def finish(folder, experiment, truth, tested=None, **mining):
    """Mine and tell; test clips have a label where ``tested`` (N,), default all of them."""
    store = Store(str(folder))
    tested = np.ones(len(truth), dtype=bool) if tested is None else tested
    clips = tuple(
        Clip(clip_id, split, label=experiment.class_names[c] if split is not Split.UNLABELED and known else None)
        for clip_id, split, c, known in zip(
            experiment.features.clip_ids, experiment.splits, truth, tested | (experiment.labels >= 0), strict=True
        )
    )
    wanted = tuple(clip.clip_id for clip in clips if clip.split is not Split.TRAIN)
    brought = Brought(Manifest(clips, LabelSpace(experiment.class_names), "clips.csv"), (), wanted)
    run = made_finished.finish(experiment, store, **mining)
    run = replace(run, brought=brought, extraction=Extraction(experiment.features, "made", {}, (), frozenset()))
    journal = Journal(store)
    journal.open(run.settings)
    explained = results.explain(run, store)
    figures = results.measure(run, journal)
    results.write(run, explained, store, figures)
    page = report.render(narrate.gather(run, explained, figures, journal))
    console = Console(file=io.StringIO(), width=200)
    summary.show(console, figures, journal.work(), store)
    return Outcome(Path(folder), run, console.file.getvalue(), page)


def ask(folder, outcome):
    """The run asked about its own clips as if they were new, each with the split and the label that it had."""
    (folder / "features").mkdir()
    for feature in outcome.run.extraction.features.features:
        kept = feature.present
        ids = np.array(outcome.run.experiment.features.clip_ids)[kept]
        np.savez(folder / f"features/{feature.name}.npz", clip_id=ids, vector=feature.values[kept])
    rows = [{"clip_id": c.clip_id, "split": str(c.split), "label": c.label} for c in outcome.run.brought.clips]
    pd.DataFrame(rows).to_csv(folder / "new.csv", index=False)
    modalities = {feature.name: feature.modality for feature in outcome.run.extraction.features.features}
    data = DataConfig(
        layout="manifest",
        manifest=str(folder / "new.csv"),
        features=str(folder / "features"),
        modalities=modalities,
    )
    run = RunConfig(dir=str(folder / "asked"))
    with redirect_stdout(io.StringIO()) as printed:
        predict.run(PredictConfig(model=str(outcome.folder), run=run, data=data))
    return Outcome(folder / "asked", None, printed.getvalue())
