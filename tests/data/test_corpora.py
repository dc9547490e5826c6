import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from mer_ray.data import corpora
from mer_ray.errors import ManifestError


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def with_pickle(payload: bytes, name="train_corpus") -> bytes:
    """An npz whose one object array is this pickle."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": ()})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.npy", member.getvalue() + payload)
    return file.getvalue()


def test_what_the_toolbox_writes_is_read():
    data = npz(
        train_corpus={"a": {"emo": "happy", "val": -1.5}, "b": {"emo": np.str_("sad"), "val": np.float64(2)}},
        test1_corpus={"c": {"emo": "neutral"}},
        test2_corpus={"d": {"emo": np.int64(4), "val": np.float32(0.5)}, "e": {"emo": 1, "val": 0}},
        whole_corpus={},
    )
    assert corpora.read(data, "x") == {
        "train_corpus": {"a": corpora.Mark("happy", -1.5), "b": corpora.Mark("sad", 2.0)},
        "test1_corpus": {"c": corpora.Mark("neutral", None)},
        "test2_corpus": {"d": corpora.Mark("worried", 0.5), "e": corpora.Mark("angry", 0.0)},
        "whole_corpus": {},
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_every_protocol_and_of_old_numpy(protocol):
    array = np.array({"a": {"emo": np.str_("happy"), "val": np.float64(1)}}, dtype=object)
    payload = pickle.dumps(array, protocol=protocol)
    if protocol <= 3:  # numpy 1 wrote this module's name
        payload = payload.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert corpora.read(with_pickle(payload), "x") == {"train_corpus": {"a": corpora.Mark("happy", 1.0)}}


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, exec, print])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, function, protocol):
    mark = tmp_path / "mark"
    argument = f"open({str(mark)!r}, 'w').close()" if function in (eval, exec) else str(mark)
    argument = f"touch {mark}" if function is os.system else argument
    evil = np.array({"a": {"emo": Runs(function, argument)}}, dtype=object)
    with pytest.raises(ManifestError, match="do not trust this file"):
        corpora.read(with_pickle(pickle.dumps(evil, protocol=protocol)), "label-6way.npz")
    assert not mark.exists()


@pytest.mark.parametrize(
    "call",
    [Runs(np.ndarray, (10**12,)), Runs(np._core.multiarray._reconstruct, np.ndarray, (10**12,), b"b")],
    ids=["ndarray", "reconstruct"],
)
def test_an_array_bomb_is_refused(call):
    with pytest.raises(ManifestError, match="x "):
        corpora.read(with_pickle(pickle.dumps(call)), "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (npz(train_corpus={"a": {"emo": "happy"}})[:-40], "cannot be read"),
        (with_pickle(b"\x80\x04."), "x (is refused|cannot be read)"),
        (with_pickle(pickle.dumps({"a": 1})), "holds no single dictionary"),
        (npz(train_corpus=np.zeros(3)), "an array of float64"),
        (npz(other={"a": 1}), "no train_corpus"),
        (npz(train_corpus=np.array([{}, {}])), "holds no single dictionary"),
        (npz(train_corpus={"a": "happy"}), "clip 'a' has no"),
        (npz(train_corpus={"a": {"emo": 6}}), "emo 6 is not one of 0..5"),
        (npz(train_corpus={"a": {"emo": ["happy"]}}), "are not a name and a number"),
    ],
)
def test_damage_and_other_content_are_refused(data, reason):
    with pytest.raises(ManifestError, match=reason):
        corpora.read(data, "x")
