"""The ``rounds/`` of a run directory: what is finished is what is there, whole and unaltered (DESIGN section 3).

A learner's folder is finished when its ``metrics.json`` is: that is written last, and holds the digest of all that the
learner was made from and a checksum of each of its files. Anything else is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mer_ray.data.storage import Store
from mer_ray.rounds.split import Adoptions

_EXPERIMENT = "experiment.json"
_METRICS = "metrics.json"


@dataclass(frozen=True)
class Rounds:
    """The folder ``rounds/`` of one experiment; made by ``open_rounds``."""

    store: Store

    def save_learner(self, folder: str, digest: str, files: Mapping[str, bytes], metrics: Mapping[str, Any]) -> None:
        """Write a learner's files, its ``metrics.json`` last.

        Args:
            folder: ``NN/<learner>``.
            digest: of everything that the learner was made from.
            files: by name.
            metrics: figures to keep beside the digest.
        """
        for name, data in files.items():
            self.store.write(f"{folder}/{name}", data)
        checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        told = {**metrics, "digest": digest, "sha256": checksums}
        self.store.write(f"{folder}/{_METRICS}", _to_json(told))

    def load_learner(self, folder: str, digest: str, names: Sequence[str]) -> dict[str, bytes] | None:
        """Some files of a finished learner; None when it is missing, of another digest, or damaged."""
        try:
            told = json.loads(self.store.read(f"{folder}/{_METRICS}"))
            if told["digest"] != digest:
                return None
            files = {name: self.store.read(f"{folder}/{name}") for name in told["sha256"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if any(hashlib.sha256(files[name]).hexdigest() != checksum for name, checksum in told["sha256"].items()):
            return None
        return {name: files[name] for name in names}

    def copy_learner(self, folder: str, to: str) -> None:
        """Give a finished learner another folder too; it is finished there when all of it is.

        Raises:
            FileNotFoundError: it is not finished.
        """
        told = json.loads(self.store.read(f"{folder}/{_METRICS}"))
        files = {name: self.store.read(f"{folder}/{name}") for name in told.pop("sha256")}
        self.save_learner(to, told.pop("digest"), files, told)

    def write_votes(
        self, round_number: int, clip_ids: Sequence[str], class_names: Sequence[str], votes: Mapping[str, NDArray[Any]]
    ) -> None:
        """``votes.parquet``: a row per clip and learner that does not abstain.

        Args:
            round_number: the round.
            clip_ids: N clips that are not labelled for training.
            class_names: C classes.
            votes: by learner, fold-averaged probabilities (N, C); NaN rows where it abstains.
        """
        parts = []
        for learner, probabilities in votes.items():
            votes_here = np.flatnonzero(~np.isnan(probabilities).any(axis=1)).tolist()
            columns: dict[str, Any] = {
                "clip_id": pa.array([clip_ids[row] for row in votes_here], pa.string()),
                "learner": pa.array([learner] * len(votes_here), pa.string()),
            }
            columns |= {f"prob_{name}": probabilities[votes_here, c] for c, name in enumerate(class_names)}
            parts.append(pa.table(columns))
        self.store.write(f"{name_of(round_number)}/votes.parquet", _to_parquet(pa.concat_tables(parts)))

    def write_selected(
        self,
        round_number: int,
        adoptions: Adoptions,
        clip_ids: Sequence[str],
        class_names: Sequence[str],
        learners: Sequence[str],
    ) -> None:
        """``selected.parquet``: the clips that this round's votes adopt for the next, by fold, clip and learner.

        ``prob_<class>`` is what they are trained towards.
        """
        table = pa.table(
            {
                "clip_id": pa.array([clip_ids[clip] for clip in adoptions.clip], pa.string()),
                "fold": adoptions.fold,
                "label": pa.array([class_names[label] for label in adoptions.label], pa.string()),
                "agreement": adoptions.agreement,
                "confidence": adoptions.confidence,
                "learner": pa.array([learners[learner] for learner in adoptions.learner], pa.string()),
                "weight": adoptions.weight,
                **{f"prob_{name}": adoptions.target[:, c] for c, name in enumerate(class_names)},
            }
        )
        self.store.write(f"{name_of(round_number)}/selected.parquet", _to_parquet(table))

    def write_metrics(self, round_number: int, metrics: Mapping[str, Any]) -> None:
        """``metrics.json`` of a round."""
        self.store.write(f"{name_of(round_number)}/{_METRICS}", _to_json(metrics))

    def write_standardised(self, figures: Mapping[str, Any]) -> None:
        """``standardise/metrics.json``: which way of standardising was chosen, and what each came to."""
        self.store.write(f"standardise/{_METRICS}", _to_json(figures))


def open_rounds(run_dir: Store, digest: str) -> tuple[Rounds, str | None]:
    """The rounds of the experiment ``digest``; those of another are moved aside first, never mixed.

    Returns:
        The rounds, and the name under which an earlier experiment's were kept, or None.
    """
    store = run_dir / "rounds"
    try:
        earlier = json.loads(store.read(_EXPERIMENT))["digest"]
    except FileNotFoundError:
        earlier = "unfinished" if store.files() or store.folders() else digest
    except (ValueError, KeyError, TypeError):
        earlier = "damaged"
    moved = None
    if earlier != digest:
        moved = f"rounds.{earlier}"
        while run_dir.files(moved) or run_dir.folders(moved):
            moved += "+"
        run_dir.move("rounds", moved)
    store.write(_EXPERIMENT, _to_json({"digest": digest}))
    return Rounds(store), moved


def name_of(round_number: int) -> str:
    """The folder of a round.

    >>> name_of(3)
    '03'
    """
    return f"{round_number:02d}"


def _to_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _to_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
