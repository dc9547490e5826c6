"""What the documented commands speak of, as small as it can be, under the names that the documents give it."""

import itertools
import shutil

import documented
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import soundfile
import torch
import yaml
from transformers import BertConfig, BertModel

from mer_ray.encoders import hubert

MODEL = "models/chinese-hubert-large"


def lay_out(folder, mined_clips):
    """Fill a folder with manifests, clips, features, data sets, weights. ``data/`` in it stands for ``/data``."""
    whole = pq.read_table(mined_clips / "clips/truth/truth.parquet").to_pandas().query("broken.isna()")["clip_id"]
    videos = itertools.cycle(sorted(v for v in mined_clips.glob("clips/clips/*/*.mp4") if v.stem in set(whole)))

    def put(place):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(videos), folder / place)

    for name, text in manifests().items():
        (folder / name).write_text(text)
        for place in pd.read_csv(folder / name).get("video", []):
            put(place)
    new = pd.DataFrame({"clip_id": ["n1", "n2", "n3"], "video": ["new/1.mp4", "new/2.mp4", "new/3.mp4"]})
    new.to_csv(folder / "new.csv", index=False)
    for place in new["video"]:
        put(place)
    features(folder / "data/features", pd.read_csv(folder / "clips.csv")["clip_id"])
    features(folder / "data/new-features", new["clip_id"])
    mer2024(folder, put)
    chsims(folder, put)
    shutil.copytree(hubert.tiny().config.weights.source, folder / MODEL)
    trained = {"adapted": {"plugin": "hubert", "options": {"weights": {"source": f"./{MODEL}"}, "layers": 2}}}
    (folder / "runs/adapted").mkdir(parents=True)
    (folder / "runs/adapted/encoder.yaml").write_text(yaml.safe_dump({"encoders": trained}))
    nemo(folder / "nemo")
    pickled(folder / "DIR")


def manifests():
    """README's example manifests, by the names that the command below each gives them."""
    fences = documented.fences(documented.ROOT / "README.md")
    found = {}
    for example, below in itertools.pairwise(fences):
        if example.language == "csv":
            (command,) = documented.commands(below.text)
            (name,) = [told.partition("=")[2] for told in command if told.startswith("data.manifest=")]
            found[name] = example.text
    return found


def features(folder, clip_ids):
    folder.mkdir(parents=True)
    for seed, name in enumerate(("audio", "video")):
        vector = np.random.default_rng(seed).normal(size=(len(clip_ids), 4)).astype(np.float32)
        np.savez(folder / f"{name}.npz", clip_id=np.array(clip_ids, dtype=str), vector=vector)


def mer2024(folder, put):
    names = ["l1", "l2", "l3", "l4"]
    for name in names:
        put(f"data/mer2024/video-labeled/{name}.mp4")
    put("data/mer2024/video-unlabeled-with-test2noise/u1.mp4")
    labels = pd.DataFrame({"name": names, "discrete": ["happy", "sad"] * 2, "valence": 0.0})
    labels.to_csv(folder / "data/mer2024/label-disdim.csv", index=False)


def chsims(folder, put):
    modes = ["train", "train", "valid", "valid", "test", "unsupervised"]
    rows = [("v", f"{i}", "so it is", (-1.0) ** i, mode) for i, mode in enumerate(modes)]
    for _, clip, *_ in rows:
        put(f"data/ch-sims-v2/Raw/v/{clip}.mp4")
    table = pd.DataFrame(rows, columns=["video_id", "clip_id", "text", "label", "mode"])
    table.to_csv(folder / "data/ch-sims-v2/meta.csv", index=False)


def nemo(folder):
    """Recordings of five speakers in two emotions, and their list."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for speaker, emotion, i in itertools.product(("EB0", "KS0", "MP0", "IC0", "KD0"), ("anger", "fear"), range(5)):
        rows.append((f"{speaker}_{emotion}_{i}.wav", emotion, speaker, "Tak."))
        soundfile.write(folder / rows[-1][0], 0.1 * rng.standard_normal(8_000), 16_000)
    pd.DataFrame(rows, columns=["file", "emotion", "speaker", "text"]).to_csv(folder / "metadata.csv", index=False)


def pickled(folder):
    """A model as some publish it: its weights in a pickle alone."""
    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
