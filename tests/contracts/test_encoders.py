"""What every encoder must hold (encoders/base.py), over every file of the kind."""

import json
import pickle
import runpy
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mer_ray import registry
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import InputError, PluginError
from mer_ray.pretrained.weights import Weights, identity
from mer_ray.types import Modality

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))
TEXTS = ["I really did not expect that!", "你怎么又来了,我很难过。", "no", "Oh no, not again… please?"]


def make(name):
    module = registry.find("encoders", name)
    encoder = module.tiny() if hasattr(module, "tiny") else registry.build("encoders", name, {})
    encoder.load()
    return encoder


@pytest.fixture(scope="module", params=registry.names("encoders"))
def encoder(request):
    return make(request.param)


def clip(seed, seconds=1.5, num_frames=6):
    frames = SAMPLES["talking_face"]((112, 112), num_frames, mouth=0.2 + 0.2 * seed)
    return ClipInput(
        audio=SAMPLES["voice"](seconds, seed),
        faces=np.roll(frames, seed, axis=2),
        face_times=np.arange(num_frames, dtype=np.float32) / 5,
        text=TEXTS[seed % len(TEXTS)],
    )


CLIPS = [clip(0), clip(1, 0.9, 3), clip(2, 2.2, 9), clip(3, 1.5, 6)]
EDGES = {
    "short": clip(0, 0.2, 1),
    "silent": ClipInput(
        np.zeros(16_000, np.float32), np.zeros((1, 112, 112, 3), np.uint8), np.zeros(1, np.float32), ""
    ),
    "loud": ClipInput(
        np.ones(16_000, np.float32), np.full((2, 112, 112, 3), 255, np.uint8), np.zeros(2, np.float32), "!?" * 2000
    ),
    "noise": ClipInput(
        np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32),
        np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8),
        np.arange(3, dtype=np.float32),
        "😀" * 50,
    ),
    "long": ClipInput(
        np.tile(SAMPLES["voice"](10.0, 4), 30),
        np.random.default_rng(1).integers(0, 256, (1500, 32, 32, 3), dtype=np.uint8),
        np.arange(1500, dtype=np.float32) / 5,
        "I never said that. " * 250,
    ),
}


def test_it_says_what_it_is(encoder):
    assert encoder.modality in Modality
    assert encoder.reads
    assert set(encoder.reads) <= {"audio", "faces", "transcript"}
    assert isinstance(encoder.version, int)
    assert isinstance(encoder.identity, str)


def test_frames_are_float32_of_the_promised_width(encoder):
    results = encoder.encode(CLIPS)
    assert len(results) == len(CLIPS)
    for frames in results:
        assert frames.ndim == 2
        assert frames.shape[0] >= 1
        assert frames.shape[1] == encoder.dim
        assert frames.dtype == np.float32
        assert np.isfinite(frames).all()


def test_different_clips_give_different_features(encoder):
    pooled = [frames.mean(axis=0) for frames in encoder.encode(CLIPS)]
    for i, first in enumerate(pooled):
        for second in pooled[i + 1 :]:
            assert np.abs(first - second).max() > 1e-4


UNEQUAL = [clip(0, 0.2, 1), clip(1, 6.3, 24), clip(2, 1.1, 3), clip(3, 3.37, 9)]
SPREAD = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far a clip's features may move with its batch, relative to their largest value."""


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]
ALL_IN_ONE = 2**40
"""A budget under which all clips share a batch, unless the encoder wants them of one length."""


def has_weights(encoder):
    return hasattr(registry.find("encoders", type(encoder).__module__.rpartition(".")[2]), "tiny")


def with_options(encoder, **options):
    return type(encoder)(encoder.config.model_copy(update=options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", SPREAD)
def test_a_clip_does_not_depend_on_its_neighbours(encoder, dtype, device):
    if has_weights(encoder):
        encoder = with_options(encoder, dtype=dtype, device=device, budget=ALL_IN_ONE)
        assert encoder.dtype == dtype
        encoder.load()
    if hasattr(encoder, "batches"):
        sizes = {item.size for i, clip in enumerate(UNEQUAL) for item in encoder._items(i, clip)}
        assert len(encoder.batches(UNEQUAL)) == (len(sizes) if encoder.exact else 1)
    for clips in (CLIPS, UNEQUAL):
        together = encoder.encode(clips)
        alone = [encoder.encode([clip])[0] for clip in clips]
        backwards = encoder.encode(clips[::-1])[::-1]
        for one, two, three in zip(together, alone, backwards, strict=True):
            assert one.shape == two.shape == three.shape
            if not has_weights(encoder):
                np.testing.assert_array_equal(one, two)
                np.testing.assert_array_equal(one, three)
            assert np.abs(one - two).max() <= SPREAD[dtype] * np.abs(two).max()
            assert np.abs(one - three).max() <= SPREAD[dtype] * np.abs(two).max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(encoder):
    if not has_weights(encoder):
        pytest.skip("no weights")
    on_gpu = with_options(encoder, device="cuda")
    assert on_gpu.dtype == "bfloat16"
    for ours, theirs in zip(on_gpu.encode(UNEQUAL), encoder.encode(UNEQUAL), strict=True):
        assert np.abs(ours - theirs).max() <= 3 * SPREAD["bfloat16"] * np.abs(theirs).max()


def test_small_budgets_change_nothing(encoder):
    if not has_weights(encoder):
        pytest.skip("no batches to cut")
    large, small = (with_options(encoder, budget=budget) for budget in (ALL_IN_ONE, 1))
    for one, two in zip(large.encode(UNEQUAL), small.encode(UNEQUAL), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=SPREAD["float32"] * np.abs(two).max())


def test_a_cpu_takes_a_sixth_of_the_default_budget_and_what_it_is_told(encoder):
    if not hasattr(encoder, "runner"):
        pytest.skip("no batches to cut")
    default = type(encoder.config).model_fields["budget"].default
    plain, told = with_options(encoder), with_options(encoder, budget=default)
    assert (plain.runner.budget, told.runner.budget) == (max(1, default // 6), default)


def test_where_the_weights_lie_is_not_in_its_spec(encoder, tmp_path):
    if not has_weights(encoder):
        pytest.skip("no weights")
    folder = shutil.copytree(encoder.config.weights.source, tmp_path / "elsewhere")
    moved = with_options(encoder, weights=Weights(source=str(folder)), budget=3, device="auto")
    assert (moved.identity, moved.dim) == (encoder.identity, encoder.dim)
    assert moved.spec_options == encoder.spec_options
    (largest,) = sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    identity.cache_clear()
    changed = with_options(encoder, weights=Weights(source=str(folder)))
    assert changed.identity != encoder.identity


def test_a_relative_path_is_the_same_place_for_a_worker_run_elsewhere(encoder, tmp_path, monkeypatch):
    if not has_weights(encoder):
        pytest.skip("no weights")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    files = getattr(encoder, "file_options", ())
    options = [option for option in files if option in type(encoder.config).model_fields]
    given = encoder.config.model_dump() | dict.fromkeys(options, "models/mine") | {"weights": {"source": "models/mine"}}
    config = type(encoder.config).model_validate(given)
    monkeypatch.chdir(tmp_path / "models")
    assert not config.weights.is_on_hub
    assert {config.weights.source, *(getattr(config, option) for option in options)} == {str(tmp_path / "models/mine")}


def test_code_beside_the_weights_is_not_run(encoder, tmp_path, monkeypatch):
    if not has_weights(encoder):
        pytest.skip("no weights")
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    folder = shutil.copytree(encoder.config.weights.source, tmp_path / "own")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'x')")
    kinds = ("Config", "Model", "Tokenizer", "FeatureExtractor", "ImageProcessor")
    for path in folder.glob("*config.json"):
        given = json.loads(path.read_text()) | {"auto_map": {f"Auto{kind}": "own.Own" for kind in kinds}}
        path.write_text(json.dumps(given | {key: "Own" for key in given if key == "image_processor_type"}))
    with suppress(InputError):
        with_options(encoder, weights=Weights(source=str(folder))).load()
    assert not (tmp_path / "run").exists()


def test_missing_weights_say_what_to_do(encoder, tmp_path):
    if not has_weights(encoder):
        pytest.skip("no weights")
    gone = with_options(encoder, weights=Weights(source=str(tmp_path / "gone")))
    with pytest.raises(PluginError, match="hf download"):
        _ = gone.dim
    empty = tmp_path / "pickled"
    empty.mkdir()
    (empty / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(PluginError, match="can run code"):
        with_options(encoder, weights=Weights(source=str(empty))).load()


def test_an_incomplete_file_of_weights_is_refused(encoder, tmp_path):
    if not has_weights(encoder):
        pytest.skip("no weights")
    folder = shutil.copytree(encoder.config.weights.source, tmp_path / "incomplete")
    for path in folder.rglob("*.safetensors"):
        tensors = load_file(path)
        kept = dict(sorted(tensors.items())[: len(tensors) // 2])
        save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(PluginError):
        with_options(encoder, weights=Weights(source=str(folder))).load()


def test_it_is_deterministic_and_pickles_before_it_is_loaded(encoder):
    copy = pickle.loads(pickle.dumps(type(encoder)(encoder.config)))
    copy.load()
    assert copy.dim == encoder.dim
    if encoder.identity == copy.identity:
        for one, two in zip(encoder.encode(CLIPS), copy.encode(CLIPS), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("case", [*list(EDGES)[:-1], pytest.param("long", marks=pytest.mark.slow)])
def test_it_is_defined_on_the_edge(encoder, case):
    (frames,) = encoder.encode([EDGES[case]])
    assert frames.shape[1] == encoder.dim
    assert np.isfinite(frames).all()


def test_its_input_is_not_changed_and_may_be_read_only(encoder):
    given = CLIPS[0]
    for array in (given.audio, given.faces, given.face_times):
        array.setflags(write=False)
    before = given.audio.copy(), given.faces.copy()
    encoder.encode([given])
    np.testing.assert_array_equal(given.audio, before[0])
    np.testing.assert_array_equal(given.faces, before[1])


def test_it_reads_only_what_it_names(encoder):
    given = ClipInput(
        audio=CLIPS[0].audio if "audio" in encoder.reads else None,
        faces=CLIPS[0].faces if "faces" in encoder.reads else None,
        face_times=CLIPS[0].face_times if "faces" in encoder.reads else None,
        text=CLIPS[0].text if "transcript" in encoder.reads else None,
    )
    np.testing.assert_array_equal(encoder.encode([given])[0], encoder.encode([CLIPS[0]])[0])


def test_an_unknown_option_is_refused_by_name(encoder):
    name = type(encoder).__module__.rpartition(".")[2]
    with pytest.raises(Exception, match="no_such_option"):
        registry.build("encoders", name, {"no_such_option": 1, "weights": {"source": "random:any"}})


def test_no_clips_give_no_features(encoder):
    assert encoder.encode([]) == []
