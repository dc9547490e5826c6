"""The few lines at the end of a job: how good, how fast, what was left out, and where the report is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mer_ray.data.storage import Store
from mer_ray.evaluation.page import percent, points
from mer_ray.evaluation.verdict import Verdict
from mer_ray.pipelines.features import Quarantined
from mer_ray.runtime.materialise import Made


def show(console: Console, metrics: dict[str, Any], work: dict[str, dict[str, float]], run_dir: Store) -> None:
    """Print the end of a run.

    Args:
        console: where to.
        metrics: what ``metrics.json`` holds.
        work: seconds and clips of each step over all starts of the run.
        run_dir: where the report is.
    """
    _warn_of_chance(console, metrics)
    console.print(_scores(metrics))
    if metrics["candidates"]:
        console.print(_candidates(metrics["candidates"]))
        console.print(_chosen(metrics["oof"]), soft_wrap=True)
    if metrics["noise"]:
        console.print(_noise(metrics["noise"]))
    console.print(_speed(work))
    counts = metrics["counts"]
    if metrics["quarantine"]:
        console.print(_quarantine(metrics["quarantine"]))
    console.print(
        f"{counts['manifest']} clips = {counts['predicted']} predicted + {counts['quarantined']} quarantined\n"
        f"report: {run_dir.path('report.html')}",
        soft_wrap=True,
    )


def show_extraction(
    console: Console,
    made: Mapping[str, Made],
    work: dict[str, dict[str, float]],
    quarantine: Sequence[Quarantined],
    tables: Store,
) -> None:
    """Print the end of an extraction.

    Args:
        console: where to.
        made: the tables, by step.
        work: seconds and clips of each step over all starts of the run.
        quarantine: every error.
        tables: the folder of the tables.
    """
    grid = Table("table", "clips", "absent", "errors", "width", "seconds", "clips/s", title="What there is")
    grid.columns[0].overflow = "fold"
    for step, table in made.items():
        present = sum(ref.present for ref in table.refs.values())
        errors = sum(ref.error is not None for ref in table.refs.values())
        fields = table.table.schema
        width = str(fields.field("vector").type.list_size) if "vector" in fields.names else ""
        done = work.get(step, {"seconds": 0.0, "clips": 0.0})
        absent = len(table.refs) - present - errors
        counts = (str(present), str(absent), str(errors))
        grid.add_row(f"{step}/{table.table.digest}", *counts, width, f"{done['seconds']:.1f}", _rate(done))
    console.print(grid)
    if quarantine:
        console.print(_quarantine(dict(Counter(str(row.error) for row in quarantine).most_common())))
    console.print(f"tables: {tables}", soft_wrap=True)


def show_prediction(console: Console, metrics: dict[str, Any], run_dir: Store) -> None:
    """Print the end of a prediction.

    Args:
        console: where to.
        metrics: what its ``metrics.json`` holds.
        run_dir: where the predictions are.
    """
    _warn_of_chance(console, metrics)
    table = Table("label", "clips", title="Labels given")
    for label, count in metrics["labels"].items():
        table.add_row(label, str(count))
    console.print(table)
    if metrics["quarantine"]:
        console.print(_quarantine(metrics["quarantine"]))
    if metrics["trained_on"]:
        told = (
            f"{metrics['trained_on']} clip(s) were trained on in the run: they are not scored, and look too easy here"
        )
        console.print(f"[yellow]note: {told}[/]", soft_wrap=True)
    if metrics["scored"]:
        console.print(f"weighted F1 {metrics['test']['waf']:.4f} on {metrics['scored']} labelled clips")
    counts = metrics["counts"]
    console.print(
        f"{counts['manifest']} clips = {counts['predicted']} predicted + {counts['quarantined']} quarantined\n"
        f"predictions: {run_dir.path('predictions.parquet')}",
        soft_wrap=True,
    )


def _warn_of_chance(console: Console, metrics: dict[str, Any]) -> None:
    """Say first when the labels are no better than chance."""
    if metrics["above_chance"] is False:
        told = Verdict(**metrics["ensemble"], chance=metrics["chance"]).told
        console.print(f"[red]{told}[/]", soft_wrap=True)


def _scores(metrics: dict[str, Any]) -> Table:
    learnt = "clips learnt from" if metrics["candidates"] else "pseudo-labels"
    table = Table("", "WAF out of fold", "WAF test", learnt, title="Weighted-average F1")
    for line in metrics["rounds"]:
        name = f"round {line['round']}" + ("" if line["kept"] else " (dropped)")
        table.add_row(name, _figure(line["oof_waf"]), _figure(line["test_waf"]), str(line["selected"]))
    table.add_row("ensemble", "", _figure(metrics["test"]["waf"]), "")
    for modality, scores in metrics["modalities"].items():
        table.add_row(f"{modality} alone", "", _figure(scores["test_waf"]), "")
    if metrics["control"]["test_waf"] is not None:
        shuffled = "shuffled probabilities" if metrics["candidates"] else "shuffled pseudo-labels"
        table.add_row(shuffled, "", _figure(metrics["control"]["test_waf"]), "")
    return table


def _candidates(candidates: dict[str, Any]) -> Table:
    table = Table("candidate", "WAF out of fold", "gain", "log loss", "ECE", "", title="Ways of learning")
    for name, one in candidates.items():
        gain = f"{points(one['gain'])} ± {percent(one['noise'])}"
        figures = (_figure(one["oof_waf"]), gain, _figure(one["log_loss"]), _figure(one["ece"]))
        table.add_row(name, *figures, "taken" if one["chosen"] else "")
    return table


def _chosen(oof: dict[str, Any]) -> str:
    """What the choice is worth."""
    if oof["waf"] is None:
        return f"WAF of the choice, out of fold: none, {oof['reason']}"
    return f"WAF of the choice, each fold judged by what the others chose: {oof['waf']:.4f}"


def _noise(cases: dict[str, Any]) -> Table:
    table = Table("case", "no noise", "as it is", "denoised", title="Weighted F1 of the test clips in noise")
    for name, case in cases.items():
        table.add_row(name, *(_figure(case[how]["waf"]) for how in ("clean", "raw", "denoised")))
    return table


def _speed(work: dict[str, dict[str, float]]) -> Table:
    table = Table("step", "seconds", "clips/s", title="Time, over all starts of this run")
    for step, done in work.items():
        table.add_row(step, f"{done['seconds']:.1f}", _rate(done))
    return table


def _rate(done: dict[str, float]) -> str:
    return f"{done['clips'] / done['seconds']:.1f}" if done["clips"] else ""


def _quarantine(reasons: dict[str, int]) -> Table:
    table = Table("reason", "errors", title="Errors by reason (see quarantine.parquet)")
    for reason, count in reasons.items():
        table.add_row(reason, str(count))
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
