import numpy as np
import pandas as pd
import pytest

from mer_ray.config import DataConfig
from mer_ray.data import layouts
from mer_ray.errors import ConfigError, ManifestError
from mer_ray.types import MER2024, Split


def put(root, *names, data=b"media"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def csv(root, file, **columns):
    pd.DataFrame(columns).to_csv(root / file, index=False)


def load(root, labels="auto", **options):
    return layouts.load(DataConfig(layout="mertools", root=str(root), **options), labels)


def by_id(source):
    return {clip.clip_id: clip for clip in source.manifest.clips}


@pytest.fixture
def mer2024(tmp_path):
    put(tmp_path, "video-labeled/l1.mp4", "video-labeled/l2.mp4")
    put(tmp_path, *(f"video-unlabeled-with-test2noise/u{i}.mp4" for i in range(3)))
    csv(
        tmp_path,
        "label-disdim.csv",
        name=["l1", "l2", "l3"],
        discrete=["happy", "worried", "sad"],
        valence=[1.5, -2, None],
    )
    csv(tmp_path, "label-transcription.csv", name=["l1", "u0"], chinese=["好", "不"])
    return tmp_path


def test_mer2024_raw(mer2024):
    source = load(mer2024)
    clips = by_id(source)
    assert {c: clip.split for c, clip in clips.items()} == {
        **dict.fromkeys(["l1", "l2", "l3"], Split.TRAIN),
        **dict.fromkeys(["u0", "u1", "u2"], Split.UNLABELED),
    }
    assert [clips[c].label for c in ("l1", "l2", "l3", "u0")] == ["happiness", "worry", "sadness", None]
    assert [clips[c].valence for c in ("l1", "l2", "l3")] == [1.5, -2.0, None]
    assert clips["l1"].video == str(mer2024 / "video-labeled" / "l1.mp4")
    assert clips["l3"].video == str(mer2024 / "video-labeled" / "l3.mp4"), "missing, for quarantine"
    assert clips["u2"].video == str(mer2024 / "video-unlabeled-with-test2noise" / "u2.mp4")
    assert [clips[c].text for c in ("l1", "l2", "u0")] == ["好", None, "不"]
    assert source.candidates is None
    assert source.features == ()
    assert (
        source.manifest.label_space.names
        == ("happiness", "sadness", "worry")
        == tuple(n for n in MER2024.names if n in ("happiness", "sadness", "worry"))
    )


def test_labels_of_another_release_are_refused_not_guessed(mer2024):
    csv(mer2024, "label-disdim.csv", name=["samplenew3_1", "samplenew3_2"], discrete=["happy", "sad"])
    with pytest.raises(ManifestError, match=r"samplenew3_1.*the same release"):
        load(mer2024)


def test_a_doubled_label_names_its_rows(mer2024):
    csv(mer2024, "label-disdim.csv", name=["l1", "l2", "l1"], discrete=["happy", "sad", "sad"])
    with pytest.raises(
        ManifestError, match=r"label-disdim.csv row 4: duplicate clip_id 'l1', also in label-disdim.csv row 2"
    ):
        load(mer2024)


def test_a_slip_names_the_row_of_the_label_file(mer2024):
    csv(mer2024, "label-disdim.csv", name=["l1", "l2", "l3"], discrete=["sad", "sda", "sad"])
    with pytest.raises(ManifestError, match=r"label-disdim\.csv row 3: class 'sda'"):
        load(mer2024)


def test_a_labelled_clip_in_the_pool_too_keeps_its_label(mer2024):
    put(mer2024, "video-unlabeled-with-test2noise/l1.mp4")
    clip = by_id(load(mer2024))["l1"]
    assert (clip.split, clip.label) == (Split.TRAIN, "happiness")
    assert clip.video == str(mer2024 / "video-labeled" / "l1.mp4")


def test_a_damaged_transcript_is_left_out_and_reported(mer2024):
    (mer2024 / "label-transcription.csv").write_bytes(b"name,chinese\nl1,\xc4\xe3\nl2,ok\n")
    source = load(mer2024)
    assert [by_id(source)[c].text for c in ("l1", "l2")] == [None, "ok"]
    assert any("1 transcript(s) are not UTF-8" in warning for warning in source.manifest.warnings)


def test_mer2025_raw(tmp_path):
    put(tmp_path, "video/t1.mp4", "video/t2.mp4", "video/c1.mp4", "video/other.mp4", "audio/t1.wav")
    put(tmp_path, "openface_face/t1/t1.npy", "openface_face/t2/notes.txt")
    csv(tmp_path, "track1_train_disdim.csv", name=["t1", "t2"], discrete=["angry", "neutral"], valence=[-1, 0])
    csv(tmp_path, "track_all_candidates.csv", name=["c2", "c1"])
    csv(tmp_path, "subtitle_chieng.csv", name=["t1", "c1"], chinese=["好", None], english=["good", "no"])
    csv(tmp_path, "track1_track2_candidate.csv", name=["other"])
    csv(tmp_path, "old_track_candidates.csv", name=["t1"])
    source = load(tmp_path)
    clips = by_id(source)
    assert source.candidates == ("c2", "c1")
    read, *others = sorted(source.manifest.warnings, key=lambda note: "is not read" in note)
    assert read.startswith(str(tmp_path / "track_all_candidates.csv") + " is read")
    for file, note in zip(("old_track_candidates.csv", "track1_track2_candidate.csv"), others, strict=True):
        assert note == f"{tmp_path / file} is not read unless you set submission.candidates={tmp_path / file}"
    assert {c: clip.split.value for c, clip in clips.items()} == {
        "t1": "train", "t2": "train", "c1": "unlabeled", "other": "unlabeled", "c2": "unlabeled",
    }  # fmt: skip
    assert clips["t1"].faces == str(tmp_path / "openface_face" / "t1" / "t1.npy")
    assert clips["t1"].audio == str(tmp_path / "audio" / "t1.wav")
    assert clips["t2"].faces is None, "the face tool found no face there"
    assert clips["t2"].audio is None
    assert clips["c2"].video == str(tmp_path / "video" / "c2.mp4"), "missing, for quarantine"
    assert [clips[c].text for c in ("t1", "c1")] == ["好", "no"]


def test_mer2026_raw(tmp_path):
    """Also in one folder with the label file of the year before: it is said which was taken."""
    put(tmp_path, "video/t1.mp4", "video/t2.mp4", "video/c1.mp4")
    csv(tmp_path, "track1_train.csv", name=["t1", "t2"], discrete=["angry", "neutral"])
    csv(tmp_path, "track1_track2_candidate.csv", name=["c1"])
    csv(tmp_path, "track_all_candidates.csv", name=["t2", "c1"])
    source = load(tmp_path)
    assert source.candidates == ("c1",)
    assert {c: (clip.split.value, clip.label) for c, clip in by_id(source).items()} == {
        "t1": ("train", "anger"), "t2": ("train", "neutral"), "c1": ("unlabeled", None),
    }  # fmt: skip
    assert [note.partition(" unless")[0] for note in source.manifest.warnings] == [
        f"{tmp_path / 'track1_track2_candidate.csv'} is read: its clips are submitted,",
        f"{tmp_path / 'track_all_candidates.csv'} is not read",
    ]
    csv(tmp_path, "track1_train_disdim.csv", name=["c1", "t2"], discrete=["happy", "sad"])
    both = load(tmp_path)
    assert both.candidates == ("t2", "c1")
    assert by_id(both)["t1"].label is None
    assert (
        f"{tmp_path / 'track1_train.csv'} is not read: labels are those of track1_train_disdim.csv"
        in both.manifest.warnings
    )


def test_a_layout_without_a_list_of_its_own_takes_no_other(mer2024):
    csv(mer2024, "track_all_candidates.csv", name=["u1"])
    source = load(mer2024)
    assert source.candidates is None
    (note,) = source.manifest.warnings
    assert "track_all_candidates.csv is not read unless you set submission.candidates=" in note


@pytest.fixture
def processed(tmp_path):
    put(tmp_path, "video/a.avi", "video/b.mp4", "video/b.avi", "video/u1.mp4", "video/t1.mp4", "audio/u1.wav")
    np.savez_compressed(
        tmp_path / "label-6way.npz",
        train_corpus={"a": {"emo": "angry", "val": -2.0}, "b": {"emo": 5, "val": 0.0}, "v": {"emo": "happy"}},
        test1_corpus={name: {"emo": "neutral", "val": -10} for name in ("u1", "u2", "a")},
        test2_corpus={"t1": {"emo": "happy", "val": 1.0}, "t2": {"emo": "neutral", "val": 0.0}},
    )
    csv(tmp_path, "transcription.csv", name=["a", "u1"], sentence=["recognised a", "recognised u1"])
    csv(tmp_path, "transcription-merge.csv", name=["a"], chinese=["merged a"])
    return tmp_path


def test_mertools_processed(processed):
    clips = by_id(load(processed))
    assert {c: (clip.split.value, clip.label) for c, clip in clips.items()} == {
        "a": ("train", "anger"),
        "b": ("train", "surprise"),
        "v": ("train", "happiness"),
        "u1": ("unlabeled", None),
        "u2": ("unlabeled", None),
        "t1": ("test", "happiness"),
        "t2": ("test", "neutral"),
    }
    assert clips["u1"].valence is None, "-10 is as fake as the label"
    assert clips["a"].valence == -2.0
    assert clips["a"].video == str(processed / "video" / "a.avi")
    assert clips["b"].video == str(processed / "video" / "b.mp4")
    assert clips["u1"].audio == str(processed / "audio" / "u1.wav")
    assert [clips[c].text for c in ("a", "u1")] == ["merged a", "recognised u1"]


def test_fake_labels_are_in_no_class_either(tmp_path):
    np.savez_compressed(
        tmp_path / "label-6way.npz",
        train_corpus={"a": {"emo": "angry"}, "b": {"emo": "sad"}},
        test1_corpus={"c": {"emo": "neutral"}},
    )
    csv(tmp_path, "transcription.csv", name=["a", "b", "c"], sentence=["x", "y", "z"])
    source = load(tmp_path)
    assert source.manifest.label_space.names == ("anger", "sadness")
    assert by_id(source)["c"].label is None


def test_features_of_mertools_come_along_without_any_media(tmp_path):
    np.savez_compressed(tmp_path / "label-6way.npz", train_corpus={"a": {"emo": "angry"}, "b": {"emo": "sad"}})
    for name in "ab":
        for feature in ("chinese-hubert-large-UTT", "mine-UTT"):
            (tmp_path / "features" / feature).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "features" / feature / f"{name}.npy", np.ones(4, np.float32))
    source = load(tmp_path, modalities={"mine-UTT": "video"})
    assert [(f.name, f.modality) for f in source.features] == [
        ("chinese-hubert-large-UTT", "audio"),
        ("mine-UTT", "video"),
    ]


def test_a_folder_of_no_known_kind(tmp_path):
    with pytest.raises(ManifestError, match=r"holds none of label-6way.npz, label-disdim.csv, track1_train_disdim.csv"):
        load(tmp_path)


def test_symlinks_out_of_the_folder_are_refused(mer2024, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "x.mp4")
    (mer2024 / "video-labeled" / "l2.mp4").unlink()
    (mer2024 / "video-labeled" / "l2.mp4").symlink_to(elsewhere / "x.mp4")
    with pytest.raises(ManifestError, match="symlink that leads out"):
        load(mer2024)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"layout": "manifest"}, "data.manifest"),
        ({"layout": "mertools"}, "data.root"),
        ({"layout": "chsims"}, "data.root"),
        ({"layout": "demo"}, "layout=demo"),
    ],
)
def test_what_is_not_set_is_named(options, key):
    with pytest.raises(ConfigError, match=key):
        layouts.load(DataConfig(**options), "auto")


def test_a_manifest_with_ready_features(tmp_path):
    csv(tmp_path, "clips.csv", clip_id=["a", "b"], label=["happy", "sad"])
    config = DataConfig(layout="manifest", manifest=str(tmp_path / "clips.csv"))
    with pytest.raises(ManifestError, match="no clip has media or text"):
        layouts.load(config, "auto")
    (tmp_path / "features").mkdir()
    np.savez(tmp_path / "features" / "audio.npz", clip_id=np.array(["a", "b"]), vector=np.ones((2, 3), np.float32))
    source = layouts.load(config.model_copy(update={"features": str(tmp_path / "features")}), "auto")
    assert [(f.name, f.modality) for f in source.features] == [("audio", "audio")]
