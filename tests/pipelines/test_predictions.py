"""The columns of ``predictions.parquet``, of arrays made by hand."""

import numpy as np
import pyarrow as pa
import pytest

from mer_ray.pipelines import predictions
from mer_ray.rounds.final import Final, Read, Voter
from mer_ray.types import Split

VOTES_KNC = np.array([[[0.9, 0.1], [np.nan, np.nan]], [[0.4, 0.6], [np.nan, np.nan]]])


def table(valence, mean_valence, **others):
    """Of a clip that two learners vote on, and one that none does."""
    voters = (Voter("all", 0, (1.0,)), Voter("voice", 0, (1.0,)))
    features = (Read("hog", "video", 4), Read("mel", "audio", 8), Read("pose", "video", 2))
    final = Final("mean", ("sad", "joy"), (0.3, 0.7), voters, features, mean_valence)
    weights = {"video": np.array([0.25, np.nan]), "audio": np.array([0.75, np.nan])}
    falls = {"video": np.array([0.5, np.nan]), "audio": np.array([-0.125, np.nan])}
    explained = predictions.Explained(final, VOTES_KNC, weights, falls, np.empty((2, 0), dtype=np.int64))
    splits = (Split.UNLABELED, Split.TEST)
    return predictions.table(("a", "b"), splits, final.combine(VOTES_KNC), explained, valence, others)


def test_every_column_stands_in_its_place_and_what_is_not_known_is_null():
    made = table(np.array([1.5, np.nan]), 0.25, round=[0, None])
    assert made.to_pylist() == [
        {
            "clip_id": "a", "split": "unlabeled", "label": "sad", "confidence": 0.65, "prob_sad": 0.65,
            "prob_joy": 0.35, "vote_all": "sad", "vote_voice": "joy", "valence": 1.5, "weight_video": 0.25,
            "weight_audio": 0.75,
            "without_video": -0.5, "without_audio": 0.125, "round": 0, "given": None, "nearest": None,
            "nearest_given": None,
            "speaker_clips": None,
        },
        {
            "clip_id": "b", "split": "test", "label": "joy", "confidence": 0.7, "prob_sad": 0.3, "prob_joy": 0.7,
            "vote_all": None, "vote_voice": None, "valence": None, "weight_video": None, "weight_audio": None,
            "without_video": None, "without_audio": None, "round": None, "given": None, "nearest": None,
            "nearest_given": None,
            "speaker_clips": None,
        },
    ]  # fmt: skip
    assert made.schema.field("round").type == pa.int64()
    assert made.schema.field("nearest").type == pa.list_(pa.string())


@pytest.mark.parametrize(("valence", "mean_valence"), [(None, None), (np.zeros(2), None)])
def test_a_valence_that_no_clip_taught_is_no_column(valence, mean_valence):
    assert "valence" not in table(valence, mean_valence).column_names


def test_clips_that_no_learner_could_vote_on_are_known_by_their_votes():
    assert predictions.unvoted(table(None, None)) == {"b"}


def test_a_column_that_is_none_of_the_schemas_is_refused():
    with pytest.raises(AssertionError, match="no column joined"):
        table(None, None, joined=[])
