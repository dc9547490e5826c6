"""A finished run, opened again: its settings, and its final ensemble, ready to be asked about any clips.

Shapes: K learners, N clips, M features of a learner, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from mer_ray import registry
from mer_ray.config import MineConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, CorruptPartError, FeatureFileError, InputError
from mer_ray.evaluation import explain
from mer_ray.learners.learner import Learner
from mer_ray.learners.scaling import Scaling
from mer_ray.rounds import votes
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.final import Final
from mer_ray.rounds.state import name_of
from mer_ray.types import Split

_FILES = ("model.safetensors", "config.json")
_SCALING = "scaling.safetensors"


@dataclass(frozen=True)
class Said:
    """What a voter says of clips, NaN where it abstains.

    Attributes:
        raw: float64 (N, C), probabilities as its models gave them.
        probabilities: float64 (N, C), the same, tempered.
        weights: float64 (N, M), how much each of its features counted.
        valence: float64 (N,); None where it is not learnt.
    """

    raw: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    weights: NDArray[np.float64]
    valence: NDArray[np.float64] | None


@dataclass(frozen=True)
class Answer:
    """What a finished ensemble says of clips.

    Attributes:
        given: their features, as the learners were given them.
        said: by each voter, best first.
        votes_KNC: float64, the probabilities of all of them.
        raw_NC: float64, the mean of what they gave before it was tempered.
        last_word: the labels that come of it.
        rests_on: see ``rests_on``.
    """

    given: FeatureSet
    said: tuple[Said, ...]
    votes_KNC: NDArray[np.float64]
    raw_NC: NDArray[np.float64]
    last_word: Ensemble
    rests_on: NDArray[np.int64] | None


@dataclass(frozen=True)
class Finished:
    """The final ensemble of a run.

    Attributes:
        final: who votes, and how the votes are combined.
        learners: of each voter.
    """

    final: Final
    learners: tuple[Learner, ...]

    def vote(self, place: int, features: FeatureSet, held_out: NDArray[np.int64] | None = None) -> Said:
        """What the voter at ``place`` says.

        Args:
            place: of the voter, best first.
            features: of the clips, standardised as in training.
            held_out: int64 (N,), the fold that holds out each labelled clip of the run, -1 for all others; default:
                none is one.

        Raises:
            FeatureFileError: a feature is missing or has another width than in training.
        """
        held_out = np.full(len(features.clip_ids), -1, dtype=np.int64) if held_out is None else held_out
        predictions = self.learners[place].predict(features)
        temperatures_F = np.array(self.final.voters[place].temperatures)
        tempered_FNC = votes.temper(predictions.probabilities_FNC, temperatures_F[:, None, None])
        tempered = replace(predictions, probabilities_FNC=tempered_FNC.astype(np.float32))
        raw, weights = predictions.clean(held_out)
        return Said(raw, tempered.clean(held_out)[0], weights, tempered.clean_valence(held_out))

    def ask(
        self, run_dir: Store, features: FeatureSet, speakers: Sequence[str | None], room: Room, *, join: bool = True
    ) -> Answer:
        """What the ensemble says of clips as they were extracted.

        Args:
            run_dir: the run.
            features: of the clips, made as the run's were; one that is missing is absent everywhere.
            speakers: of each clip.
            room: where standardised features go.
            join: see ``standardise``.

        Raises:
            CorruptPartError, FeatureFileError: see ``standardise``.
        """
        learnt = as_learnt(self.final, features)
        given = standardise(run_dir, learnt, speakers, room, join=join)
        said = tuple(self.vote(place, given) for place in range(len(self.learners)))
        votes_KNC = np.stack([one.probabilities for one in said])
        count = rests_on(run_dir, learnt, speakers, join=join)
        raw = replace(self.final, temperature=1.0).combine(np.stack([one.raw for one in said])).probabilities
        return Answer(given, said, votes_KNC, raw, self.final.combine(votes_KNC), count)

    def by_modality(self, weights: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """``explain.by_modality`` of the voters' weights, in their order."""
        modality = {feature.name: feature.modality for feature in self.final.features}
        own = [[modality[name] for name in learner.config.features] for learner in self.learners]
        return explain.by_modality(list(dict.fromkeys(modality.values())), weights, own)


def read_settings(run_dir: Store) -> MineConfig:
    """The settings that a run was made with.

    Raises:
        ConfigError: there is no run, or not one of ``jobs/mine.py`` as it is here.
    """
    place = run_dir.path("config.yaml")
    try:
        return MineConfig.model_validate(yaml.safe_load(run_dir.read("config.yaml")))
    except FileNotFoundError as error:
        raise ConfigError(f"{place} is not there: {run_dir} is no run; give the run.dir of jobs/mine.py") from error
    except ValidationError as error:
        faults = "; ".join(registry.explain(error, MineConfig, ""))
        raise ConfigError(f"{place} is not of a run of jobs/mine.py of this version: {faults}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{place} is damaged ({error}); give the run's command again to write it anew") from error


def read(run_dir: Store) -> Finished:
    """The final ensemble of a run.

    Raises:
        InputError: the run is not finished.
        CorruptPartError: a file of it is damaged or lost.
    """
    rounds = run_dir / "rounds"
    final = Final.read(rounds)
    learners = tuple(_learner(rounds, f"{name_of(voter.round)}/{voter.name}") for voter in final.voters)
    return Finished(final, learners)


def standardise(
    run_dir: Store, features: FeatureSet, speakers: Sequence[str | None], room: Room, *, join: bool = True
) -> FeatureSet:
    """The features as the run's learners were given them: by speaker or voice if the run did so, else as they are.

    Args:
        run_dir: the run.
        features: of any clips, as ``as_learnt`` gives them.
        speakers: of each clip.
        room: where the result goes.
        join: whether the clips join what the run knew of their speakers or voices, see ``Scaling.apply``.

    Raises:
        CorruptPartError: what the run knew of its speakers is damaged.
        FeatureFileError: a feature has another width than in training.
    """
    scaling = _scaling(run_dir)
    return features if scaling is None else scaling.apply(features, speakers, room, join=join)


def rests_on(
    run_dir: Store, features: FeatureSet, speakers: Sequence[str | None], *, join: bool = True
) -> NDArray[np.int64] | None:
    """How many clips of its speaker or voice each clip is standardised by (N,); None where the run does not so.

    Args:
        run_dir: the run.
        features: of any clips, as ``as_learnt`` gives them.
        speakers: of each clip.
        join: see ``standardise``.

    Raises:
        CorruptPartError: what the run knew of its speakers is damaged.
    """
    scaling = _scaling(run_dir)
    return None if scaling is None else scaling.rests_on(features, speakers, join=join)


def check_widths(final: Final, features: Iterable[Feature]) -> None:
    """Hold features of new clips to those that the run learnt from.

    Raises:
        FeatureFileError: one has another width.
    """
    widths = {feature.name: feature.width for feature in final.features}
    for feature in features:
        width = feature.values.shape[1]
        if feature.present.any() and width != widths[feature.name]:
            raise FeatureFileError(
                f"feature {feature.name} is {width} wide and was {widths[feature.name]} in the run; make it by the "
                "same encoder with the same settings"
            )


def as_learnt(final: Final, given: FeatureSet) -> FeatureSet:
    """The run's features in its order, of the modalities that they had there; one not given is absent everywhere."""
    by_name, num_clips = {feature.name: feature for feature in given.features}, len(given.clip_ids)
    made = []
    for feature in final.features:
        absent = Feature("", "", np.zeros((num_clips, feature.width), np.float32), np.zeros(num_clips, dtype=bool))
        found = by_name.get(feature.name, absent)
        made.append(replace(found, name=feature.name, modality=feature.modality))
    return FeatureSet(given.clip_ids, tuple(made))


def trained_on(run_dir: Store) -> frozenset[str]:
    """The clips that were labelled for training in a run.

    Raises:
        InputError: the run is not finished.
    """
    try:
        with run_dir.open("predictions.parquet") as file:
            table = pq.read_table(file, columns=["clip_id", "split"])
    except FileNotFoundError as error:
        raise InputError(
            f"{run_dir} has no predictions.parquet: give the run's command again and let it end"
        ) from error
    return frozenset(table.filter(pc.equal(table["split"], str(Split.TRAIN)))["clip_id"].to_pylist())


def _scaling(run_dir: Store) -> Scaling | None:
    try:
        return Scaling.from_bytes((run_dir / "rounds").read(_SCALING))
    except FileNotFoundError:
        return None


def _learner(rounds: Store, folder: str) -> Learner:
    try:
        return Learner.from_files({name: rounds.read(f"{folder}/{name}") for name in _FILES})
    except FileNotFoundError as error:
        raise CorruptPartError(
            f"{rounds.path(folder)} lacks a file ({error}); give the run's command again to fit the learner anew"
        ) from error
