import numpy as np
import pytest

from mer_ray.data import ready, ready_folder
from mer_ray.errors import FeatureFileError


def save(folder, name, array):
    path = folder / "enc" / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def load(folder, clips):
    (found,) = ready.discover(str(folder), {})
    return ready.load(found, clips)


def test_utterances_frames_and_folders_of_frames_become_vectors(tmp_path):
    frames = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    save(tmp_path, "utterance", frames[0])
    save(tmp_path, "sequence", frames)
    for i, frame in enumerate(frames):
        save(tmp_path, f"folder/{i:03d}", frame)
    save(tmp_path, "stranger", frames[0])
    loaded = load(tmp_path, ["folder", "none", "sequence", "utterance"])
    assert loaded.feature.present.tolist() == [True, False, True, True]
    np.testing.assert_allclose(loaded.feature.values[[0, 2]], [frames.mean(axis=0)] * 2, rtol=1e-6)
    np.testing.assert_array_equal(loaded.feature.values[3], frames[0])
    assert loaded.num_unknown == 1


def test_the_toolboxs_zeros_are_an_absent_modality(tmp_path):
    save(tmp_path, "a", np.ones(4, np.float32))
    save(tmp_path, "b", np.zeros(4, np.float32))
    save(tmp_path, "c", np.zeros((1, 4), np.float32))
    save(tmp_path, "d", np.zeros((0, 4), np.float32))
    loaded = load(tmp_path, list("abcd"))
    assert loaded.feature.present.tolist() == [True, False, False, False]
    assert loaded.quarantine == ()


def test_one_bad_file_costs_one_clip(tmp_path):
    for name in "abcdefg":
        save(tmp_path, name, np.ones((2, 4), np.float32))
    (tmp_path / "enc" / "b.npy").write_bytes(b"")
    (tmp_path / "enc" / "c.npy").write_bytes((tmp_path / "enc" / "a.npy").read_bytes()[:-9])
    save(tmp_path, "d", np.array([[1, np.nan, 1, 1]], np.float32))
    save(tmp_path, "e", np.ones((2, 2, 4), np.float32))
    np.save(tmp_path / "enc" / "f.npy", np.array([{}]), allow_pickle=True)
    loaded = load(tmp_path, list("abcdefg"))
    assert loaded.feature.present.tolist() == [True, False, False, False, False, False, True]
    assert {row["clip_id"]: row["error"] for row in loaded.quarantine} == {
        "b": "empty_file", "c": "unreadable", "d": "not_finite", "e": "unreadable", "f": "unreadable",
    }  # fmt: skip


def test_widths_that_differ_between_clips_are_refused(tmp_path):
    save(tmp_path, "a", np.ones(4, np.float32))
    save(tmp_path, "b", np.ones(5, np.float32))
    with pytest.raises(FeatureFileError, match="ragged: the vector of 'b' is 5 wide, those before it 4"):
        load(tmp_path, ["a", "b"])


def test_half_precision_is_kept_for_utterances(tmp_path):
    for name in "ab":
        save(tmp_path, name, np.ones(4, np.float16))
    assert load(tmp_path, ["a", "b"]).feature.values.dtype == np.float16


def test_frame_level_folders_give_way_to_pooled_ones():
    folders = ["x-UTT", "x-FRA", "y-FRA", "z_FRA", "z_UTT", "plain"]
    assert ready_folder.preferred(folders) == ["x-UTT", "y-FRA", "z_UTT", "plain"]


@pytest.mark.parametrize(
    ("feature", "modality"),
    [
        ("chinese-hubert-large-UTT", "audio"),
        ("chinese-hubert-base-noisesnr-UTT", "audio"),
        ("chinese-wav2vec2-large-FRA", "audio"),
        ("wavlm-base-UTT", "audio"),
        ("whisper-large-v2-UTT", "audio"),
        ("IS09_UTT", "audio"),
        ("eGeMAPS_UTT", "audio"),
        ("vggish_FRA", "audio"),
        ("clip-vit-large-patch14-UTT", "video"),
        ("dinov2-large-UTT", "video"),
        ("videomae-base-UTT", "video"),
        ("manet_UTT", "video"),
        ("resnet50face_UTT", "video"),
        ("eva02_base_patch14_224-UTT", "video"),
        ("openface_FRA", "video"),
        ("chinese-macbert-large-4-UTT", "text"),
        ("chinese-roberta-wwm-ext-large-UTT", "text"),
        ("Baichuan-13B-Base-UTT", "text"),
        ("Baichuan-13B-Base-langeng-UTT", "text"),
        ("chinese-alpaca-2-13b-UTT", "text"),
        ("Llama-2-13b-hf-FRA", "text"),
        ("chatglm2-6b-UTT", "text"),
        ("bloom-7b1-punccase1-UTT", "text"),
        ("deberta-chinese-large-UTT", "text"),
        ("Qwen-Audio-UTT", "joint"),
        ("my-own-thing", None),
        ("activity", None),
    ],
)
def test_the_modality_of_the_toolboxs_encoders(feature, modality):
    assert ready_folder.modality_of(feature) == modality
