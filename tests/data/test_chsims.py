import numpy as np
import pandas as pd
import pytest

from mer_ray.config import DataConfig
from mer_ray.data import chsims, layouts
from mer_ray.errors import ManifestError
from mer_ray.types import SENTIMENT, Split

ROWS = {
    "video_id": ["video_0001", "video_0001", "video_0002", "aqgy3", "aqgy4"],
    "clip_id": ["0001", "0002", "0001", "0007", "00023"],
    "text": ["好", None, "不", "嗯", "啊"],
    "label": [0.8, -0.4, 0.0, 1.0, 0.6],
    "label_T": [0.6, -0.2, None, 1.0, 0.1],
    "label_A": [1.0, None, 0.2, 0.4, 0.2],
    "label_V": [0.8, -0.6, 0.0, 0.2, 0.3],
    "annotation": ["Positive", "Negative", "Neutral", "Positive", "Positive"],
    "mode": ["train", "valid", "train", "test", "unsupervised"],
}


def folder(root, file="meta.csv", videos=("video_0001/0001.mp4",), drop=(), **changed):
    rows = {name: cells for name, cells in {**ROWS, **changed}.items() if name not in drop}
    pd.DataFrame(rows).to_csv(root / file, index=False)
    for video in videos:
        path = root / "Raw" / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"media")
    return root


def load(root, labels="auto", **options):
    return layouts.load(DataConfig(layout="chsims", root=str(root), **options), labels)


def clips(source):
    return source.manifest.clips


@pytest.mark.parametrize("file", ["meta.csv", "label.csv"])
def test_every_column_comes_to_its_place(tmp_path, file):
    source = load(folder(tmp_path, file))
    first, second, third, test, free = clips(source)
    assert [c.clip_id for c in clips(source)] == [
        "video_0001_0001", "video_0001_0002", "video_0002_0001", "aqgy3_0007", "aqgy4_00023",
    ]  # fmt: skip
    assert [c.split for c in clips(source)] == [Split.TRAIN] * 3 + [Split.TEST, Split.UNLABELED]
    assert [c.label for c in clips(source)] == ["positive", "negative", "neutral", "positive", None]
    assert [c.valence for c in clips(source)] == [0.8, -0.4, 0.0, 1.0, None]
    assert [c.text for c in clips(source)] == ["好", None, "不", "嗯", "啊"]
    assert (first.label_text, first.label_audio, first.label_video) == ("0.6", "1.0", "0.8")
    assert (second.label_audio, third.label_text) == (None, None)
    assert test.label_video == "0.2"
    assert (free.label_text, free.label_audio, free.label_video) == (None, None, None)
    assert first.video == str(tmp_path / "Raw/video_0001/0001.mp4")
    assert second.video == str(tmp_path / "Raw/video_0001/0002.mp4"), "missing, for quarantine"
    assert source.manifest.label_space == SENTIMENT
    assert source.candidates is None
    assert source.manifest.warnings == ()


@pytest.mark.parametrize("how", ["no column", "blank cells"])
def test_without_annotations_the_sign_gives_the_class(tmp_path, how):
    blank = {"drop": ["annotation"]} if how == "no column" else {"annotation": ["", "Negative", "", "", ""]}
    label = [0.01, -3.0, -0.0, -0.2, 2.0]
    source = load(folder(tmp_path, label=label, **blank))
    assert [c.label for c in clips(source)] == ["positive", "negative", "neutral", "negative", None]
    assert [c.valence for c in clips(source)] == [0.01, -3.0, 0.0, -0.2, None]


def test_an_annotation_is_believed_before_the_sign(tmp_path):
    source = load(folder(tmp_path, label=[-1.0, 1.0, 1.0, -1.0, 0.0]))
    assert [c.label for c in clips(source)] == ["positive", "negative", "neutral", "positive", None]


def test_annotations_of_other_words_are_the_classes_and_no_sign_is_mixed_in(tmp_path):
    source = load(folder(tmp_path, annotation=["Happy", "Sad", "Happy", "", "Sad"]))
    assert [c.label for c in clips(source)] == ["happiness", "sadness", "happiness", None, None]
    (tmp_path / "other").mkdir()
    with pytest.raises(ManifestError, match="row 3: split is train and there is no label"):
        load(folder(tmp_path / "other", annotation=["Happy", "", "Sad", "Sad", ""]))


def test_unsupervised_clips_teach_nothing_even_if_all_is_filled_in(tmp_path):
    modes = ["train", "valid", "unsupervised", "unsupervised", "unsupervised"]
    source = load(folder(tmp_path, mode=modes, label=[1, -1, "junk", 1, 1]))
    assert source.manifest.label_space.names == ("negative", "positive")
    for clip in clips(source)[2:]:
        assert {clip.label, clip.valence, clip.label_text, clip.label_audio, clip.label_video} == {None}


def test_names_that_are_no_ids_are_made_legal_and_stay_apart(tmp_path):
    video = ["电影", "影电", "a_1", "a", ".x" * 150]
    source = load(folder(tmp_path, video_id=video, clip_id=["1", "1", "2", "1_2", "1"], videos=["电影/1.mp4"]))
    ids = [c.clip_id for c in clips(source)]
    assert len(set(ids)) == 5
    assert clips(source)[0].video == str(tmp_path / "Raw/电影/1.mp4")
    (tmp_path / "less").mkdir()
    kept = [4, 3, 0]
    rows = {name: [cells[i] for i in kept] for name, cells in ROWS.items()}
    rows |= {"video_id": [video[i] for i in kept], "clip_id": ["1", "1_2", "1"]}
    rows["mode"], rows["annotation"] = ["train"] * 3, ["Positive", "Negative", "Neutral"]
    again = load(folder(tmp_path / "less", videos=["电影/1.mp4"], **rows))
    assert [c.clip_id for c in clips(again)][::2] == [ids[4], ids[0]], "an id depends on the rows beside it"


def test_doubled_clips_and_paths_out_of_the_folder_are_refused(tmp_path):
    doubled = {"video_id": ["v"] * 5, "clip_id": ["1", "2", "3", "4", "2"]}
    with pytest.raises(ManifestError, match="row 6: duplicate clip_id 'v_2', also in row 3"):
        load(folder(tmp_path, videos=["v/1.mp4"], **doubled))
    odd = ["v/w"] * 2
    with pytest.raises(ManifestError, match="row 3: duplicate clip_id 'v-w_1-"):
        load(folder(tmp_path, video_id=[*odd, "a", "b", "c"], clip_id=["1", "1", "1", "1", "1"]))
    with pytest.raises(ManifestError, match=r"row 2: video goes up with '\.\.'"):
        load(folder(tmp_path, video_id=["../../x", *ROWS["video_id"][1:]], clip_id=["1", "2", "3", "4", "5"]))


def test_a_number_that_lost_its_zeros_finds_its_file(tmp_path):
    videos = ["v/0001.mp4", "v/02.avi", "v/02.mp4", "v/3.mp4", "v/03.mp4", "v/._3.mp4", "v/4.txt"]
    source = load(folder(tmp_path, video_id=["v"] * 5, clip_id=[1, 2, 3, 4, 5], videos=videos))
    assert [c.video.removeprefix(str(tmp_path / "Raw")) for c in clips(source)] == [
        "/v/0001.mp4", "/v/02.mp4", "/v/3.mp4", "/v/4.mp4", "/v/5.mp4",
    ]  # fmt: skip


def test_text_alone_will_do_and_is_said(tmp_path):
    source = load(folder(tmp_path, videos=()))
    assert {c.video for c in clips(source)} == {None}
    assert any("has no folder Raw" in warning for warning in source.manifest.warnings)


def test_of_two_label_files_one_is_read_and_it_is_said(tmp_path):
    folder(tmp_path, "label.csv", mode=["test"] * 5)
    source = load(folder(tmp_path))
    assert clips(source)[0].split is Split.TRAIN
    assert any("label.csv is not read: meta.csv is" in warning for warning in source.manifest.warnings)


def test_a_folder_without_label_file(tmp_path):
    with pytest.raises(ManifestError, match=r"holds neither meta.csv nor label.csv"):
        load(tmp_path)


@pytest.mark.parametrize("column", ["video_id", "clip_id", "text", "label", "mode"])
def test_a_missing_column_is_named(tmp_path, column):
    with pytest.raises(ManifestError, match=rf"meta.csv is refused: it has no column {column} \(it has: "):
        load(folder(tmp_path, drop=[column]))


def test_faults_name_their_rows(tmp_path):
    with pytest.raises(ManifestError) as caught:
        load(folder(tmp_path, mode=["tran", "valid", None, "test", "test"], clip_id=["1", "2", "3", None, "5"]))
    told = str(caught.value)
    assert "row 2: mode 'tran' is none of train, valid, test, unsupervised; did you mean 'train'?" in told
    assert "row 4: mode '' is none of" in told
    assert "row 5: clip_id is blank" in told
    with pytest.raises(ManifestError, match="row 3: valence 'much' is not a finite number"):
        load(folder(tmp_path, label=[1, "much", 0, 1, 1]))


def test_a_slip_among_annotations_is_refused(tmp_path):
    root = folder(tmp_path, annotation=["Positive", "Positve", "Neutral", "Positive", "Positve"])
    with pytest.raises(
        ManifestError, match=r"1 fault.*\n.*row 3: class 'positve' \(1 clip.*from 'positive' \(2 clips\)"
    ):
        load(root)
    assert clips(load(root, ["positive", "positve", "neutral"]))[1].label == "positve"


def test_ready_features_need_no_video(tmp_path):
    (tmp_path / "vectors").mkdir()
    np.savez(tmp_path / "vectors/audio.npz", clip_id=np.array(["aqgy3_0007"]), vector=np.ones((1, 3), np.float32))
    source = load(folder(tmp_path, videos=()), features=str(tmp_path / "vectors"))
    assert [(f.name, f.modality) for f in source.features] == [("audio", "audio")]


def test_ids_do_not_depend_on_order():
    places = [("a", "b_c"), ("a_b", "c"), ("d", "e")]
    assert chsims.clip_ids(places[::-1]) == chsims.clip_ids(places)[::-1]
    assert chsims.clip_ids(places)[2] == "d_e"
