"""A folder of recordings without transcripts, through folder.yaml with a real Whisper and a real denoiser."""

import in_process
import made_runs
import made_speech
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    manifest = made_speech.recordings(root, COUNT)
    told = (*made_speech.OPTIONS, *made_runs.QUICK, f"run.dir={root}/run", "denoise.batch_size=4")
    code = in_process.run("mine", "--config", "jobs/configs/folder.yaml", f"data.manifest={manifest}", *told)
    assert code == 0
    return root


def table(folder, step):
    parts = [path for path in folder.glob(f"run/tables/{step}/*/*.parquet") if path.name[0] != "_"]
    return {row["clip_id"]: row for row in pads.dataset(parts).to_table().to_pylist()}


def test_every_recording_gets_a_label(folder):
    predictions = pq.read_table(folder / "run/predictions.parquet")
    assert len(predictions) == COUNT
    assert set(predictions["label"].to_pylist()) <= set(made_speech.CLASSES)


def test_what_was_said_is_in_the_table_and_was_heard_once(folder):
    audio, transcripts = table(folder, "audio"), table(folder, "transcript")
    assert len(audio) == len(transcripts) == COUNT
    said = [row for row in transcripts.values() if row["present"]]
    assert len(said) >= COUNT // 2
    for row in said:
        original = audio[row["clip_id"]]["transcripts"][0]
        assert (row["source"], row["heard"], row["language"]) == ("recognised", "original", "en")
        assert row["text"] == " ".join(original["text"].split())
        assert row["score"] == original["score"] <= 0
        assert row["segments"]


def test_the_audio_table_says_what_was_chosen_and_why(folder):
    for row in table(folder, "audio").values():
        assert len(row["transcripts"]) == 3
        assert (row["original"] is None) == (row["choice"] == "original")
        assert -20 <= row["snr_db"] <= 60
