"""Why one clip of a finished run got its label, from what the run left behind: read in the terminal, or as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from mer_ray import registry
from mer_ray.config import WhyConfig
from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.errors import ConfigError, InputError
from mer_ray.evaluation import story as stories
from mer_ray.evaluation.page import percent, points
from mer_ray.evaluation.report import ClipReport, Vote
from mer_ray.evaluation.story import Adopted, ClipRound, Story
from mer_ray.pipelines import finished, planning
from mer_ray.pipelines.planning import FACES, TRANSCRIPT
from mer_ray.rounds.final import Final, Voter
from mer_ray.rounds.state import name_of
from mer_ray.runtime.session import resolve_run_dir

_FACES_SHOWN = 4


def run(settings: WhyConfig, dry_run: bool = False) -> int:
    """Tell the story of ``settings.clip``, and write it to ``settings.html`` unless this is a dry run.

    Raises:
        InputError: no clip is named, the run is not finished, or it has no such clip, or no label for it.
    """
    if not settings.clip:
        raise ConfigError("clip is not set; give the id of a clip, as in the manifest")
    run_dir = Store(resolve_run_dir(settings.run.dir))
    story = gather(run_dir, settings.clip, with_faces=bool(settings.html) and settings.faces)
    console = Console(highlight=False)
    show(story, console)
    if settings.html and not dry_run:
        page = Path(resolve_run_dir(settings.html))
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(stories.render(story), encoding="utf-8")
        console.print(f"page: {page}", soft_wrap=True)
    return 0


def gather(run_dir: Store, clip_id: str, with_faces: bool) -> Story:
    """Everything that a run, or a prediction by one, left about a clip.

    Raises:
        InputError: the run is not finished, or it has no such clip, or no label for it.
    """
    found = _rows(run_dir, "predictions.parquet", clip_id)
    errors = tuple((row["step"], row["error"], row["detail"]) for row in _rows(run_dir, "quarantine.parquet", clip_id))
    if not found:
        raise InputError(_why_not(run_dir, clip_id, errors))
    row = found[0]
    rounds = tuple(_rounds(run_dir / "rounds", clip_id))
    transcript, faces = _upstream(run_dir, clip_id, with_faces)
    clip = ClipReport(
        clip_id=clip_id,
        group=row["split"],
        label=row["label"],
        confidence=row["confidence"],
        given_label=row.get("given"),
        votes=_final_votes(row, rounds),
        weights=_columns(row, "weight_"),
        without={name: -change for name, change in _columns(row, "without_").items()},
        nearest=tuple(zip(row.get("nearest") or (), row.get("nearest_given") or (), strict=True)),
        transcript=transcript,
        faces=faces,
        round_adopted=row.get("round"),
    )
    return Story(str(run_dir), row["split"], clip, _columns(row, "prob_"), rounds, errors)


def show(story: Story, console: Console) -> None:
    """Print the story."""
    clip = story.clip
    console.print(Text(stories.headline(story), style="bold"))
    console.print(Text(f"{story.split} clip, {percent(clip.confidence)} % sure" + _given(clip)))
    if clip.transcript:
        console.print(Text(f"\N{LEFT DOUBLE QUOTATION MARK}{clip.transcript}\N{RIGHT DOUBLE QUOTATION MARK}", "italic"))
    grid = Grid("class", "probability", "learners for it", title="Votes")
    for name, probability in story.probabilities.items():
        grid.add_row(name, percent(probability), ", ".join(_told(vote) for vote in clip.votes if vote.label == name))
    console.print(grid)
    grid = Grid("modality", "weight", "without it", title="What the label rests on, per cent and points")
    for name, weight in clip.weights.items():
        grid.add_row(name, percent(weight), points(-clip.without[name]) if name in clip.without else "")
    console.print(grid)
    if any(one.said for one in story.rounds):
        console.print(_round_grid(story))
    if clip.nearest:
        near = ", ".join(f"{name} ({label})" for name, label in clip.nearest)
        console.print(Text(f"most like it, among the labelled, as the best learner sees them: {near}"))
    for step, error, detail in story.errors:
        console.print(Text(f"{step} failed on it: {error} ({detail})"))


def _given(clip: ClipReport) -> str:
    return f"; labelled {clip.given_label} in the manifest" if clip.given_label else ""


def _told(vote: Vote) -> str:
    return vote.learner if vote.confidence is None else f"{vote.learner} {percent(vote.confidence)}"


def _round_grid(story: Story) -> Grid:
    grid = Grid("round", "votes", "learnt from as", "", title="Round by round")
    for one in story.rounds:
        votes = "\n".join(f"{vote.learner}: {vote.label} {percent(vote.confidence)}" for vote in one.votes)
        adopted = "\n".join(f"{label} in {where}" for label, where in one.learnt_as.items())
        note = "final" if one.is_final else "" if one.kept else f"refused: {one.reason}"
        grid.add_row(str(one.round), votes, adopted, note)
    return grid


def _why_not(run_dir: Store, clip_id: str, errors: Sequence[tuple[str, str, str]]) -> str:
    """What is wrong with asking for a clip that has no prediction."""
    if errors:
        told = "; ".join(f"{step}: {error} ({detail})" for step, error, detail in errors)
        return f"clip {clip_id} has no label, nothing of it could be used: {told}"
    with run_dir.open("predictions.parquet") as file:
        known = pq.read_table(file, columns=["clip_id"])["clip_id"].to_pylist()
    near = registry.nearest(clip_id, known) or f"; its {len(known)} clips are in predictions.parquet"
    return f"clip {clip_id!r} is not in the run {run_dir}{near}"


def _rows(folder: Store, name: str, clip_id: str) -> list[dict[str, Any]]:
    """The rows of a clip in a Parquet file of the run.

    Raises:
        InputError: the run has no such file.
    """
    try:
        with folder.open(name) as file:
            rows: list[dict[str, Any]] = pq.read_table(file, filters=pc.field("clip_id") == clip_id).to_pylist()
            return rows
    except FileNotFoundError as error:
        raise InputError(
            f"{folder.path(name)} is not there: set run.dir to a finished run, or give the run's command again and "
            "let it end"
        ) from error


def _columns(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a row whose names begin with ``prefix``, those that are missing left out."""
    return {
        name.removeprefix(prefix): float(value)
        for name, value in row.items()
        if name.startswith(prefix) and value is not None and not np.isnan(value)
    }


def _rounds(rounds: Store, clip_id: str) -> Sequence[ClipRound]:
    """What every round said of the clip; nothing where there are no rounds."""
    numbers = [int(name) for name in rounds.folders() if name.isdigit()]
    voters = Final.read(rounds).voters if numbers else ()
    last = _last_model(rounds, voters[0]) if voters else None
    told = []
    for number in numbers:
        folder = rounds / name_of(number)
        figures = json.loads(folder.read("metrics.json"))
        votes, adopted = (_rows(folder, f"{name}.parquet", clip_id) for name in ("votes", "selected"))
        keys = ("label", "agreement", "confidence", "learner")
        told.append(
            ClipRound(
                round=number,
                kept=figures["kept"],
                reason=figures["reason"],
                is_final=any(number == voter.round for voter in voters),
                said={row["learner"]: _columns(row, "prob_") for row in votes},
                adopted=tuple(
                    Adopted(None if row["fold"] == last else row["fold"], **{key: row[key] for key in keys})
                    for row in adopted
                ),
            )
        )
    return told


def _last_model(rounds: Store, voter: Voter) -> int | None:
    """The number, behind those of the folds, of the model that holds nothing out; None where there is none."""
    told = json.loads(rounds.read(f"{name_of(voter.round)}/{voter.name}/config.json"))
    return len(voter.temperatures) - 1 if told["final"] == "all" else None


def _final_votes(row: Mapping[str, Any], rounds: Sequence[ClipRound]) -> tuple[Vote, ...]:
    """The learners' last votes, each as sure as it was in the round of the final ensemble."""
    votes = []
    for name, label in row.items():
        if name.startswith("vote_") and label is not None:
            learner = name.removeprefix("vote_")
            said = [one.said[learner][label] for one in rounds if one.is_final and learner in one.said]
            votes.append(Vote(learner, label, said[0] if said else None))
    return tuple(votes)


def _upstream(run_dir: Store, clip_id: str, with_faces: bool) -> tuple[str | None, tuple[bytes, ...]]:
    """Transcript and some face crops of a clip, where the run's tables have them."""
    try:
        settings = finished.read_settings(run_dir)
        tables = Store(settings.tables.dir) if settings.tables.dir else run_dir / "tables"
        made = {step.stage.name: step.table for step in planning.plan(settings, (), tables)}
    except InputError:  # a prediction, or weights that are gone since
        return None, ()
    text = _cell(made[TRANSCRIPT], clip_id, "text") if TRANSCRIPT in made else None
    crops: Sequence[bytes] = (_cell(made[FACES], clip_id, "crops") if FACES in made and with_faces else None) or ()
    places = np.linspace(0, len(crops) - 1, min(_FACES_SHOWN, len(crops))).round().astype(int)
    return text, tuple(crops[place] for place in places)


def _cell(table: Table, clip_id: str, column: str) -> Any:  # noqa: ANN401 - whatever the column holds
    """One column of a clip's row, None when there is none; of parts without the clip only ids are read."""
    filesystem, is_clip = table.store.filesystem, pc.field("clip_id") == clip_id
    parts = [filesystem._strip_protocol(table.store.path(n)) for n in table.parts()]
    if not parts:
        return None
    for part in pads.dataset(parts, filesystem=filesystem, format="parquet").get_fragments():
        if part.count_rows(filter=is_clip):
            return part.to_table(columns=[column], filter=is_clip)[column][0].as_py()
    return None
