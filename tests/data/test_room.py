import pickle
import tempfile

import numpy as np
from made_clips import clips

from mer_ray.data.room import Room


def test_what_no_longer_fits_is_kept_in_files_of_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    room = Room(memory_bytes=100)
    here, there, small = room.zeros((5, 4), np.float32), room.zeros((5, 4), np.float32), room.zeros((5, 2), np.float16)
    assert [isinstance(x.base, np.memmap) for x in (here, there, small)] == [False, True, False]
    assert here.dtype == there.dtype == np.float32
    there[3] = 7
    assert there.sum() == 28
    assert list(tmp_path.iterdir()) == []
    buffers = []
    pickle.dumps(there, protocol=5, buffer_callback=buffers.append)
    assert [len(one.raw()) for one in buffers] == [80], "it would be copied into the message"


def test_clips_are_taken_without_a_copy_where_none_is_needed():
    given, _ = clips(num_clips=9000)
    assert Room(0).take(given, np.arange(9000)) is given
    rows = np.random.default_rng(0).permutation(9000)[:5000]
    taken, expected = Room(0).take(given, rows), given.take(rows)
    assert taken.clip_ids == expected.clip_ids
    for one, other in zip(taken.features, expected.features, strict=True):
        assert (one.name, one.modality) == (other.name, other.modality)
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.present, other.present)
