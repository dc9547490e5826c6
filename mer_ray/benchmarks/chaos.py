"""Actors, nodes, drivers, the head and the S3 server are killed at random while features are extracted; what is lost?

A cluster of a head and two nodes runs ``jobs/extract.py`` over made clips, round after round, each into tables of its
own, for as many minutes as it is told to; the last round is finished in peace. What was killed is started again, and
the driver with the same command, until it ends with 0. With ``s3`` everything but the clips lies in a bucket.

JSON: ``rows_expected``, clips times tables times rounds; ``rows_found``, as a stranger reads them from the parts, each
once; ``duplicates``, rows that stand there once more; ``blamed``, rows in error; ``features_equal``, whether every row
is bit by bit that of a round without kills; ``kills`` and ``kills_by_kind``; ``rounds``; ``restarts`` of the driver;
``exits``, how often it ended by itself with which code; ``hung``, how often it had to be killed since it did not end or
did not get on; ``head_missed_seconds``, the longest that it outlived its head; ``seconds``.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import shlex
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks import clips as made_clips
from mer_ray.benchmarks.harness import table
from mer_ray.benchmarks.killable import Cluster, Killable, short_folder, wait_until
from mer_ray.config import REPOSITORY, Section
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, MerRayError, StorageError

_ENCODERS = ("logmel", "hog", "motion", "ngrams")
_NUM_NODES = 2
_ACTOR = "ray::MapWorker"
_BAG = {"actor": 4, "node": 2, "driver": 2, "server": 3, "head": 1}
"""How many kills in twelve are of a kind: the dearer one is, the rarer."""
_WAIT_SECONDS = (10.0, 20.0)
_PATIENCE_SECONDS = 45.0
"""A kill waits for so long, at most, for a batch to be committed since the last one."""
_HANG_SECONDS = 120.0
"""A driver that lives so long without its head hangs."""
_QUIET_SECONDS = 600.0
"""A driver that nobody disturbs and that commits nothing for so long hangs."""
_MOST_FAILURES = 5
_TICK_SECONDS = 0.5

Rows = dict[str, list[dict[str, Any]]]
"""The rows of each table, as they stand in its parts."""


class Config(Section):
    """How long, over what, and where the tables lie."""

    minutes: float = Field(20.0, gt=0, description="how long processes are killed")
    clips: int = Field(48, ge=1, description="clips of a round")
    mean_seconds: float = Field(3.0, gt=0, description="length of a clip, about")
    batch_size: int = Field(4, ge=1, description="clips per batch and Parquet part")
    seed: int = Field(0, ge=0, description="of the clips, and of which kind is killed when")
    s3: str = Field("", description="folder of a bucket, s3://BUCKET/PREFIX, for the tables; default a local one")
    server: str = Field("", description="command that starts what answers for s3; it is killed too, with its children")


@dataclass
class Tally:
    """What was done and what came of it; see the module for the meaning of the figures."""

    kills: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    restarts: int = 0
    hung: int = 0
    head_missed_seconds: float = 0.0


class Chaos:
    """Rounds of extraction on a cluster whose parts are killed.

    Args:
        settings: see the module.
        folder: for the clips and the processes' output.
        root: for the runs.
        console: told of each kill.
    """

    def __init__(self, settings: Config, folder: Path, root: Store, console: Console) -> None:
        self.settings, self.folder, self.root, self.console = settings, folder, root, console
        self.config = folder / "chaos.yaml"
        self.cluster = Cluster(folder, _NUM_NODES)
        self.server = Killable(shlex.split(settings.server), folder / "server.log") if settings.server else None
        self.tally = Tally()
        self._kinds = _sequence([kind for kind in _BAG if kind != "server" or self.server], settings.seed)
        self._chance = random.Random(settings.seed)
        self._next = next(self._kinds)
        self._driver = Killable([], folder / "driver.log")
        self._tables = root
        self._until = 0.0
        self._killed_at = self._seen_at = 0.0
        self._wait_seconds = 0.0
        self._num_parts = self._parts_at_kill = 0

    def start(self) -> None:
        """Make the clips, and start the server, where it is ours, and the cluster."""
        clips = made_clips.make(
            self.folder / "clips", self.settings.clips, self.settings.mean_seconds, self.settings.seed
        )
        with (self.folder / "clips/clips.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["clip_id", "video", "text"])
            rows.writerows([clip.clip_id, clip.video, clip.text] for clip in clips)
        size = self.settings.batch_size
        told = {
            "data": {"layout": "manifest", "manifest": f"{self.folder}/clips/clips.csv"},
            "denoise": {"batch_size": size},
            "transcribe": {"batch_size": size},
            "encoders": {name: {"plugin": name, "batch_size": size} for name in _ENCODERS},
        }
        self.config.write_text(json.dumps(told), encoding="utf-8")
        if self.server:
            self.server.start()
        self.cluster.start_head()
        self.cluster.start_nodes()

    def stop(self) -> None:
        """End every process that was started here."""
        self._driver.kill()
        self.cluster.kill()
        if self.server:
            self.server.kill()

    def round(self, name: str, until: float = 0.0) -> Rows:
        """Extract everything once more, with kills until that time; the rows.

        Raises:
            MerRayError: the driver fails again and again though nobody disturbs it.
        """
        run = self.root / name
        told = ["--config", str(self.config), f"run.dir={run}"]
        command = [sys.executable, str(REPOSITORY / "jobs/extract.py"), *told]
        # a head of this machine, whatever else is told of one: as a user would, with the same command each time
        environment = {"RAY_ADDRESS": self.cluster.address, "RAY_AUTH_MODE": "disabled"}
        self._driver = Killable(command, self.folder / "driver.log", environment)
        self._tables, self._until = run / "tables", until
        self._num_parts = self._parts_at_kill = 0
        self._driver.start()
        self._settle()
        failures = 0
        while self._driver.code != 0:
            time.sleep(_TICK_SECONDS)
            self.cluster.mend()
            kills = self.tally.kills.total()
            self._kill_if_due()
            if self.tally.kills.total() > kills:
                failures = 0
            if self._driver.code is not None and self._driver.code != 0:
                failures += 1
                self._start_again(failures)
        self.tally.exits[0] += 1
        return _rows_of(self._tables)

    def _start_again(self, failures: int) -> None:
        """Give the same command again."""
        code = self._driver.code
        if code is not None and code >= 0:
            self.tally.exits[code] += 1
            self._tell(f"the driver ended with {code}: {self._driver.printed().strip()[-300:]}")
        if failures > _MOST_FAILURES:
            raise MerRayError(f"the driver fails though nobody disturbs it: {self._driver.printed()[-2000:]}")
        self._driver.kill()
        self._driver.start()
        self.tally.restarts += 1

    def _kill_if_due(self) -> None:
        """Kill the next one once its time has come and something was committed since; in peace see that all goes on."""
        now = time.monotonic()
        if now > self._until:
            self._watch(now)
        elif now > self._killed_at + self._wait_seconds:
            has_committed = self._count_parts() > self._parts_at_kill
            if (has_committed or now > self._killed_at + _PATIENCE_SECONDS) and getattr(self, f"_kill_{self._next}")():
                self.tally.kills[self._next] += 1
                self._tell(f"killed: {self._next}{'' if has_committed else ', nothing committed since the last kill'}")
                self._next = next(self._kinds)
                self._settle()

    def _settle(self) -> None:
        self._killed_at = self._seen_at = time.monotonic()
        self._wait_seconds = self._chance.uniform(*_WAIT_SECONDS)
        self._parts_at_kill = self._num_parts

    def _watch(self, now: float) -> None:
        """In peace: a driver that commits nothing for too long is killed."""
        before = self._num_parts
        if self._count_parts() > before:
            self._seen_at = now
        elif now > self._seen_at + _QUIET_SECONDS:
            self._seen_at = now
            self._end_hung("it commits nothing")

    def _end_hung(self, why: str) -> None:
        self.tally.hung += 1
        self._tell(f"the driver hangs: {why}: {self._driver.printed().strip()[-300:]}")
        self._driver.kill()

    def _count_parts(self) -> int:
        """Parts that are committed in this round; as many as before where the storage does not answer."""
        try:
            self._num_parts = len(_parts(self._tables))
        except StorageError as error:
            self._tell(str(error))
        return self._num_parts

    def _kill_actor(self) -> bool:
        actors = sorted(self.cluster.workers(_ACTOR), key=lambda process: process.pid)
        if not actors:
            return False
        try:
            self._chance.choice(actors).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _kill_node(self) -> bool:
        node = self._chance.choice(self.cluster.nodes)
        is_up = node.is_running and "--block" in node.printed()
        if is_up:
            node.kill()
            node.start()
        return is_up

    def _kill_driver(self) -> bool:
        is_up = self._driver.is_running
        if is_up:
            self._driver.kill()
        return is_up

    def _kill_server(self) -> bool:
        assert self.server is not None
        is_up = self.server.is_running
        self.server.kill()
        self.server.start()
        return is_up

    def _kill_head(self) -> bool:
        """It is started again at once; nodes that outlive it know another head, and are started anew with it."""
        if not self._driver.is_running:
            return False
        self.cluster.head.kill()
        killed_at = time.monotonic()
        self.cluster.start_head()
        if wait_until(lambda: not self._driver.is_running, _HANG_SECONDS):
            missed = time.monotonic() - killed_at
            self.tally.head_missed_seconds = max(self.tally.head_missed_seconds, missed)
            self._tell(f"the driver outlived its head by {missed:.1f} s")
        else:
            self._end_hung("its head is gone")
        for node in self.cluster.nodes:
            node.kill()
        self.cluster.start_nodes()
        return True

    def _tell(self, what: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {what}", markup=False, soft_wrap=True)


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Make the reference, then rounds until the time is over; what is left of them, after each.

    Raises:
        ConfigError: a server is told of that nothing lies on.
        MerRayError: no bucket can be made, the cluster does not start, or extraction fails though nobody disturbs it.
    """
    if settings.server and not settings.s3:
        raise ConfigError("server: name the bucket that it answers for, s3=s3://BUCKET/PREFIX")
    if not settings.server:
        console.print("no S3 server is killed: name one by s3=s3://BUCKET/PREFIX and server=COMMAND", soft_wrap=True)
    with short_folder() as folder:
        place = Store(settings.s3 or f"{folder}/runs")
        root = place / f"chaos-{uuid.uuid4().hex[:8]}"
        chaos = Chaos(settings, folder, root, console)
        try:
            chaos.start()
            yield from _rounds(settings, chaos, console)
            root.remove("")
        finally:
            chaos.stop()


def _rounds(settings: Config, chaos: Chaos, console: Console) -> Iterator[dict[str, Any]]:
    expected = chaos.round("undisturbed")
    one = {(step, row["clip_id"]): row for step, rows in expected.items() for row in rows}
    if len(one) != settings.clips * len(expected) or any(row["error"] for row in one.values()):
        raise MerRayError("the undisturbed round is not whole, so that nothing can be compared with it")
    chaos.tally = Tally()
    started = time.monotonic()
    counted: Counter[str] = Counter()
    are_equal = True
    for number in itertools.count(1):
        found = _by_clip(chaos.round(f"round_{number:03d}", started + 60.0 * settings.minutes))
        counted.update(
            rows_expected=len(one),
            rows_found=sum(key in one for key in found),
            duplicates=sum(len(rows) - 1 for rows in found.values()),
            blamed=sum(row["error"] is not None for rows in found.values() for row in rows),
        )
        are_equal &= all(row == one[key] for key, rows in found.items() if key in one for row in rows)
        tally, seconds = chaos.tally, time.monotonic() - started
        figures = {
            **counted,
            "features_equal": are_equal,
            "kills": tally.kills.total(),
            "kills_by_kind": {kind: tally.kills[kind] for kind in _BAG},
            "rounds": number,
            "restarts": tally.restarts,
            "exits": {str(code): count for code, count in sorted(tally.exits.items())},
            "hung": tally.hung,
            "head_missed_seconds": round(tally.head_missed_seconds, 1),
            "seconds": round(seconds, 1),
        }
        yield figures
        if seconds > 60.0 * settings.minutes:
            break
    table(console, "what is left", ["figure", "value"], list(figures.items()))


def _sequence(kinds: list[str], seed: int) -> Iterator[str]:
    """Kinds for ever, each as often in a bag as ``_BAG`` says; every kind comes once before any comes again.

    >>> kinds = _sequence(["actor", "head"], 0)
    >>> sorted(next(kinds) for _ in range(2)), sorted(next(kinds) for _ in range(5))
    (['actor', 'head'], ['actor', 'actor', 'actor', 'actor', 'head'])
    """
    chance = random.Random(seed)
    yield from chance.sample(kinds, len(kinds))
    while True:
        bag = [kind for kind in kinds for _ in range(_BAG[kind])]
        chance.shuffle(bag)
        yield from bag


def _parts(tables: Store) -> list[str]:
    return [name for name in tables.details(deep=True) if name.endswith(".parquet") and "/_" not in name]


def _rows_of(tables: Store) -> Rows:
    """As a stranger would read them: every part, by itself."""
    rows: Rows = {}
    for part in _parts(tables):
        read = pq.read_table(io.BytesIO(tables.read(part))).to_pylist()
        rows.setdefault(part.partition("/")[0], []).extend(read)
    return rows


def _by_clip(rows: Rows) -> dict[tuple[str, str], list[dict[str, Any]]]:
    by_clip: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for step, own in rows.items():
        for row in own:
            by_clip.setdefault((step, row["clip_id"]), []).append(row)
    return by_clip
