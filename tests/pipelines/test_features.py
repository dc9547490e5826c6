"""Which tables a config asks for."""

from types import SimpleNamespace

import numpy as np
import pytest

from mer_ray.config import ExtractConfig
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError
from mer_ray.pipelines import features, planning
from mer_ray.types import Clip, Split


def test_encoders_of_one_modality_share_one_decoding_of_the_media(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    plugins = {"loud": "logmel", "voice": "opensmile", "shape": "hog", "moves": "motion"}
    encoders = {name: {"plugin": plugin} for name, plugin in plugins.items()}
    clips = [Clip("a", Split.UNLABELED, video=str(tmp_path / "a.mp4"))]
    steps = planning.plan(ExtractConfig.model_validate({"encoders": encoders}), clips, Store(str(tmp_path / "tables")))
    assert [step.stage.name for step in steps if "clip" in step.stage.reads] == ["audio", "faces"]
    read = {step.stage.name: step.stage.reads for step in steps if step.stage.name in encoders}
    assert read == {"loud": ("audio",), "voice": ("audio",), "shape": ("faces",), "moves": ("faces",)}


def test_what_features_will_take_is_known_before_anything_is_made(tmp_path):
    clips = [Clip(name, Split.UNLABELED, text=name) for name in ("a", "b", "c")]
    settings = ExtractConfig.model_validate({"encoders": {"words": {"plugin": "ngrams"}}})
    steps = planning.plan(settings, clips, Store(str(tmp_path / "tables")))
    (dim,) = (step.stage.dim for step in steps if step.stage.name == "words")
    ready = SimpleNamespace(feature=SimpleNamespace(values=np.zeros((3, 7), np.float16)))
    assert features.held_bytes(settings, steps, [ready], len(clips)) == 4 * 3 * dim + 2 * 3 * 7


def test_a_stall_shorter_than_a_batch_is_refused(tmp_path):
    encoders = {"words": {"plugin": "ngrams", "batch_size": 4}}
    told = {"encoders": encoders, "runtime": {"stall_seconds": 100, "clip_seconds": 30}}
    with pytest.raises(ConfigError, match=r"stall_seconds=100: a batch of step .* may take \d+ s .* auto") as refused:
        planning.plan(ExtractConfig.model_validate(told), [], Store(str(tmp_path / "tables")))
    assert refused.value.exit_code == 2
    told["runtime"]["stall_seconds"] = 10_000
    planning.plan(ExtractConfig.model_validate(told), [], Store(str(tmp_path / "tables")))
