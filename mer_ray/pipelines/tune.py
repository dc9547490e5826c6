"""The search job: which settings of learning and mining suit these clips.

Read ``run`` aloud: what the user brought; its tables, made once; trials; their table, the best config, a page.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.csv
import yaml
from rich.console import Console
from rich.table import Table

from mer_ray import __version__, config
from mer_ray.config import MineConfig, TuneConfig
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.evaluation import tune_report
from mer_ray.evaluation.page import percent, points
from mer_ray.evaluation.tune_report import Searchable, TriedTrial, TuneReport
from mer_ray.learners.experiment import Experiment
from mer_ray.pipelines import estimate, features, mine, planning, results, source, speech
from mer_ray.pipelines.results import EXIT_TOO_MANY_ERRORS
from mer_ray.pipelines.source import Brought
from mer_ray.runtime.console import step_line
from mer_ray.runtime.journal import Journal, environment
from mer_ray.runtime.session import session, short_of
from mer_ray.tune import loggers, search, space
from mer_ray.tune.record import Step, Tried
from mer_ray.tune.search import Searched

BEST = "best.yaml"
_MOST_ROWS = 10


def run(settings: TuneConfig, dry_run: bool = False) -> int:
    """Do the job, or continue it.

    Args:
        settings: what to do.
        dry_run: only say what would be made, and stop.

    Returns:
        The exit code: 0, or 3 when more than ``max_error_fraction`` of the clips were quarantined.

    Raises:
        InputError: bad input or config, before anything is started.
        MerRayError: the job failed; the same call continues it.
    """
    console = Console(highlight=False)
    settings = speech.settle(settings, console)
    run_dir, tables = source.stores(settings)
    check(settings, run_dir)
    brought = source.load(settings, run_dir, console, dry_run=dry_run)
    mine.check_learners(settings, brought)
    source.warn(brought.manifest, console)
    if dry_run:
        estimate.tell(settings, brought.clips, tables, console)
        console.print(
            f"Then {settings.search.num_trials} trials of up to {settings.mining.rounds} rounds of mining each."
        )
        return 0
    steps = planning.plan(settings, brought.clips, tables)
    room = Room(settings.fit.memory_bytes)
    vectors = source.vectors(brought, room)
    journal = Journal(run_dir)
    journal.open(settings)
    console.print(f"run directory: {run_dir}", soft_wrap=True)
    held_bytes = features.held_bytes(settings, steps, vectors, len(brought.clips))
    with session(settings.runtime, held_bytes):
        if missing := short_of(held_bytes):
            console.print(f"[yellow]note: {missing}[/]", soft_wrap=True)
        gather = partial(features.collect, settings, brought.clips, vectors=vectors, room=room)
        extraction = features.read(steps, settings, journal, console, gather)
        results.write_quarantine(run_dir, extraction.quarantine)
        experiment = mine.make_experiment(settings, brought, extraction)
        searched = _search(experiment, settings, run_dir, journal, console)
    _write(searched, settings, brought, experiment, run_dir)
    _show(console, searched)
    console.print(
        f"mine with it: .venv/bin/python jobs/mine.py --config {run_dir.path(BEST)}\n"
        f"report: {run_dir.path('tune.html')}",
        soft_wrap=True,
    )
    journal.event("run_done", best=searched.best.number, oof_waf=searched.best.objective)
    too_many = len(extraction.lost) > settings.max_error_fraction * len(brought.clips)
    return EXIT_TOO_MANY_ERRORS if too_many else 0


def check(settings: TuneConfig, run_dir: Store) -> None:
    """Find everything that the config names, before anything is started.

    Raises:
        ConfigError, PluginError: a plug-in, a key of the space or a logger is not right.
    """
    mine.check(settings)
    space.make(settings, settings.search.space)
    loggers.check(settings.tune, run_dir)


def _search(
    experiment: Experiment, settings: TuneConfig, run_dir: Store, journal: Journal, console: Console
) -> Searched:
    started = time.monotonic()
    told = loggers.make(settings.tune, run_dir)
    ended: dict[int, Tried] = {}

    def show(trial: Tried, step: Step | None) -> None:
        for logger in told:
            logger.log(trial, step)
        if step is None:
            ended[trial.number] = trial
            best = max((one.objective or 0.0 for one in ended.values() if one.state == "done"), default=None)
            line.update(len(ended), settings.search.num_trials, f"best of these {percent(best)}")

    with step_line(console, "search", "trials") as line:
        searched = search.run(experiment, settings, run_dir, journal.event, show)
    journal.event("step_done", step="search", seconds=round(time.monotonic() - started, 3), clips=0)
    return searched


def best_config(searched: Searched, settings: TuneConfig) -> MineConfig:
    """The best trial's settings for ``jobs/mine.py``: beside the search's run directory, on the same tables."""
    chosen = space.apply(settings, searched.best.values)
    run_dir, tables = source.stores(settings)
    demo = chosen.data.demo
    if chosen.data.layout == "demo" and demo.dir is None:
        demo = demo.model_copy(update={"dir": run_dir.path("clips")})
    return chosen.model_copy(
        update={
            "run": chosen.run.model_copy(update={"dir": f"{settings.run.dir.rstrip('/')}-best"}),
            "tables": chosen.tables.model_copy(update={"dir": str(tables)}),
            "data": chosen.data.model_copy(update={"demo": demo}),
        }
    )


def trials_table(searched: Searched) -> pa.Table:
    """A row per trial: what came of it after each round and at last, and a column per key that was searched."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            "oof_waf": trial.objective,
            **dict(zip(("gain", "noise"), _gain(searched, trial.number), strict=True)),
            "rounds": len(trial.steps),
            "seconds": trial.seconds,
            "reason": trial.reason,
            **{f"oof_waf_{step.round}": step.oof_waf for step in trial.steps},
        }
        for trial in searched.trials
    ]
    columns: dict[str, list[Any]] = {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
    }
    for dimension in searched.space.dimensions:
        values = [trial.values.get(dimension.key) for trial in searched.trials]
        mixed = len({type(value) for value in values if value is not None}) > 1
        columns[dimension.key] = [None if value is None else str(value) for value in values] if mixed else values
    return pa.table(columns)


def _gain(searched: Searched, number: int) -> tuple[float | None, float | None]:
    """What a trial gains on trial 0, and the noise of that; None where they are not compared."""
    compared = searched.compared.get(number)
    return (None, None) if compared is None else (compared.gain, compared.noise)


def _standing(searched: Searched) -> str:
    """Why the best is taken."""
    if searched.best.number == 0:
        return "the config as given, which none surpassed by more than its noise"
    gain, noise = _gain(searched, searched.best.number)
    return "the highest, since trial 0 failed" if gain is None else f"{gain:.4f} ± {noise:.4f} above trial 0"


def _write(searched: Searched, settings: TuneConfig, brought: Brought, experiment: Experiment, run_dir: Store) -> None:
    table = trials_table(searched)
    run_dir.write("trials.parquet", results.to_parquet(table))
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    run_dir.write("trials.csv", sink.getvalue().to_pybytes())
    best = searched.best
    told = f"# Trial {best.number} of {len(searched.trials)}, {_standing(searched)}: "
    told += f"out-of-fold WAF {best.objective:.4f} after mining.\n"
    tree = best_config(searched, settings).model_dump(mode="json")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    run_dir.write(BEST, (told + text).encode())
    page = tune_report.render(_report(searched, settings, brought, experiment, run_dir))
    run_dir.write("tune.html", page.encode())


def _report(
    searched: Searched, settings: TuneConfig, brought: Brought, experiment: Experiment, run_dir: Store
) -> TuneReport:
    told = environment()
    return TuneReport(
        title=f"{settings.report.title}: search",
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seed=settings.seed,
        config_digest=config.digest(settings),
        versions={"mer_ray": __version__, "python": told["python"], **told["versions"]},
        keys=tuple(
            Searchable(one.key, one.choices, one.low, one.high, one.log)
            for one in searched.space.dimensions
            if len(one.ends) > 1
        ),
        trials=tuple(
            TriedTrial(
                number=trial.number,
                values=trial.values,
                rounds=tuple(step.objective for step in trial.steps),
                state=trial.state,
                objective=trial.objective,
                gain=_gain(searched, trial.number)[0],
                noise=_gain(searched, trial.number)[1],
                seconds=trial.seconds,
                reason=trial.reason,
            )
            for trial in searched.trials
        ),
        best=searched.best.number,
        config=run_dir.path(BEST),
        num_labelled=len(experiment.labelled),
        concurrent=settings.search.concurrent,
        warnings=brought.manifest.warnings,
    )


def _show(console: Console, searched: Searched) -> None:
    grid = Table("trial", "WAF out of fold", "gain", "rounds", "state", "values", title="Trials, best first")
    grid.columns[-1].overflow = "fold"
    ranked = sorted(searched.trials, key=lambda one: (one.state != "done", -(one.objective or 0.0), one.number))
    for trial in ranked[:_MOST_ROWS]:
        values = " ".join(f"{key}={tune_report.show(value)}" for key, value in trial.values.items())
        gain, noise = _gain(searched, trial.number)
        told = points(gain) if noise is None else f"{points(gain)} ± {percent(noise)}"
        grid.add_row(str(trial.number), percent(trial.objective), told, str(len(trial.steps)), trial.state, values)
    console.print(grid)
    console.print(f"taken: trial {searched.best.number}, {_standing(searched)}")
