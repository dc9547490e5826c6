import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel, HubertConfig, RobertaConfig

from mer_ray import config
from mer_ray.benchmarks import clips, extract, harness, peers
from mer_ray.config import EncoderConfig
from mer_ray.encoders import clip, hubert, text_bert
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained.architecture import Architecture

WIDTHS = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}  # fmt: skip
SMALL = HubertConfig(**WIDTHS)
KEYS = {
    "bare_clips_per_s", "peer_clips_per_s", "bare_over_peer", "parity_max_relative_error", "real_time_factor",
    "model_flops_per_s", "matrix_flops_per_s", "matrix_rate_share", "peak_memory_bytes",
}  # fmt: skip


TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02}
"""Of ``parity_max_relative_error`` by ``dtype``: bfloat16 keeps eight bits, so one rounding is up to 0.004."""


@pytest.fixture(params=["float32", "bfloat16"])
def processor_takes(request, monkeypatch):
    """The precision that ``dtype=auto`` comes to: on a processor without units for bfloat16, and on one with them."""
    monkeypatch.setattr(extract, "has_fast_bfloat16", lambda device: request.param == "bfloat16")
    monkeypatch.setitem(harness._MATRIX_SIDE, "cpu", 128)  # larger ones take minutes where the units are not there
    return request.param


@pytest.fixture
def small(monkeypatch):
    architecture = Architecture(lambda: SMALL, 1e5, "here", "none", "none")
    monkeypatch.setitem(hubert.ARCHITECTURES, "small", architecture)
    return architecture


WITHOUT = """
import sys
from importlib import machinery

class Finder(machinery.PathFinder):
    "As if neither the modules nor what pip knows of them were there."
    missing = set("ray deepspeed opensmile open_clip pandas joblib sklearn".split())

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.missing else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        return (found for found in super().find_distributions(*context) if found.name not in cls.missing)

sys.meta_path[sys.meta_path.index(machinery.PathFinder)] = Finder

from transformers import HubertConfig
from mer_ray.benchmarks import harness
from mer_ray.encoders import hubert
from mer_ray.pretrained.architecture import Architecture

hubert.ARCHITECTURES["small"] = Architecture(lambda: HubertConfig(**WIDTHS), 1e5, "here", "none", "none")
sys.exit(harness.main(sys.argv[1:]))
"""


def test_bare_and_peer_are_measured_without_ray(tmp_path):
    out = tmp_path / "bench.json"
    arguments = ["extract", "--json", str(out), "encoders=[small]", "clips=4", "repeats=2", "pipeline=false"]
    arguments += ["dtype=float32", "seconds=0.6"]
    code = f"WIDTHS = {WIDTHS}\n{WITHOUT}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    figures = written["encoders"]["small"]
    assert figures.keys() >= KEYS
    assert "pipeline_clips_per_s" not in figures
    assert figures["dtype"] == "float32"
    assert figures["parity_max_relative_error"] < TOLERANCE["float32"]
    assert 0 < figures["matrix_rate_share"] < 1
    assert written["benchmark"] == "extract"
    assert written["cpus"] >= 1
    assert written["config"]["clips"] == 4
    assert (written["versions"]["ray"], written["versions"]["deepspeed"]) == (None, None)


def test_what_the_processor_takes_is_named_and_held_to_its_own_tolerance(small, processor_takes):
    settings = extract.Config(encoders=["small"], clips=1, seconds=0.6, repeats=1, pipeline=False, device="cpu")
    *_, made = extract.run(settings, Console(quiet=True))
    figures = made["encoders"]["small"]
    assert figures["dtype"] == processor_takes
    assert figures["parity_max_relative_error"] < TOLERANCE[processor_takes]
    if processor_takes == "bfloat16":
        assert figures["parity_max_relative_error"] > TOLERANCE["float32"], "it was float32 all the same"


def test_one_that_fails_is_told_and_the_others_are_kept(small, monkeypatch, tmp_path):
    def broken():
        raise ValueError("no such width")

    def killed():
        raise KeyboardInterrupt

    for make in (broken, killed):
        monkeypatch.setitem(hubert.ARCHITECTURES, make.__name__, Architecture(make, 1e5, "here", "none", "none"))
    out = tmp_path / "new" / "folder" / "bench.json"
    arguments = ["extract", "--json", str(out), "clips=2", "repeats=1", "pipeline=false", "peer=false"]
    arguments += ["dtype=float32", "seconds=0.6"]
    with pytest.raises(KeyboardInterrupt):
        harness.main([*arguments, "encoders=[broken,small,killed]"])
    written = json.loads(out.read_text())
    assert written["failed"] == {"broken": "ValueError: no such width"}
    assert written["encoders"]["small"].keys() >= KEYS - {"peer_clips_per_s", "bare_over_peer"}
    assert "NaN" not in out.read_text()
    assert harness.main([*arguments, "encoders=[broken]"]) == 1


@pytest.mark.slow
def test_the_pipeline_gives_what_the_bare_loop_gives():
    settings = extract.Config(encoders=["hubert-base"], clips=2, seconds=1.5, repeats=1, dtype="float32")
    *_, made = extract.run(settings, Console(quiet=True))
    assert made["failed"] == {}
    figures = made["encoders"]["hubert-base"]
    assert figures["pipeline_clips_per_s"] > 0
    assert figures["pipeline_over_bare"] > 0
    assert figures["parity_max_relative_error"] < TOLERANCE["float32"]


def test_the_peer_of_texts_gives_what_the_encoder_gives(monkeypatch, tmp_path):
    model = RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=5, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=130, pad_token_id=1,
    )  # fmt: skip
    published = Architecture(lambda: model, 1e5, "here", "none", "none")
    monkeypatch.setitem(text_bert.ARCHITECTURES, "small", published)
    peer = peers.PEERS["text_bert"]
    encoder = text_bert.Encoder(text_bert.Config(weights={"source": "random:small"}, device="cpu", **peer.options))
    given = {"a": ClipInput(text="oh no"), "b": ClipInput(text="a much longer sentence, said twice")}
    peers.PeerRun(peer, published, "cpu").run(given, tmp_path)
    for (clip_id, _), frames in zip(given.items(), encoder.encode(list(given.values())), strict=True):
        np.testing.assert_allclose(frames.mean(axis=0), peers.read(tmp_path, clip_id), rtol=0, atol=1e-4)
    of_library, of_encoder = (peers.flops(who, published, encoder, list(given.values())) for who in (peer, None))
    assert of_library - of_encoder == 2 * (2 * 32 * 32), "the library's model has a pooler, ours has not"
    with pytest.raises(ConfigError, match="has 202 tokens and the model 128 positions"):
        peer.inputs(ClipInput(text="x" * 200), model)


def test_the_peer_of_faces_gives_what_the_encoder_gives(monkeypatch, tmp_path):
    model = clip.tiny().model_config
    published = Architecture(lambda: model, 1e5, "here", "none", "none")
    monkeypatch.setitem(clip.ARCHITECTURES, "small", published)
    encoder = clip.Encoder(clip.Config(weights={"source": "random:small"}, device="cpu"))
    faces = np.random.default_rng(0).integers(0, 256, (5, 60, 60, 3), dtype=np.uint8)
    peers.PeerRun(peers.PEERS["clip"], published, "cpu").run({"a": ClipInput(faces=faces)}, tmp_path)
    (frames,) = encoder.encode([ClipInput(faces=faces)])
    np.testing.assert_allclose(frames.mean(axis=0), peers.read(tmp_path, "a"), rtol=0, atol=1e-4)


def test_flops_are_those_of_the_matrices(small):
    one, two = (ClipInput(audio=np.zeros(n, np.float32)) for n in (16_000, 32_000))
    counted, of_both = (peers.flops(peers.PEERS["hubert"], small, None, clips) for clips in ([one], [one, two]))
    layer = 2 * 49 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * 49 * 49 * 32
    assert counted > 4 * layer
    assert of_both > 2.9 * counted


@pytest.mark.parametrize("compiled", [False, True])
def test_the_flops_of_attention_are_counted_on_a_cpu(compiled):
    heads = torch.randn(3, 2, 5, 7, 16)
    attend = torch.compile(scaled_dot_product_attention) if compiled else scaled_dot_product_attention
    assert peers.count_flops(lambda: attend(*heads)) == 2 * (2 * 2 * 5 * 7 * 7 * 16)


def test_clips_are_the_same_for_the_same_seed_and_of_different_lengths(tmp_path):
    made = clips.make(tmp_path / "a", 5, 2.0, seed=3)
    again = clips.make(tmp_path / "b", 5, 2.0, seed=3)
    heard = clips.inputs(made, EncoderConfig(plugin="logmel"), 4)
    for one, two in zip(heard, clips.inputs(again, EncoderConfig(plugin="logmel"), 4), strict=True):
        np.testing.assert_array_equal(one.audio, two.audio)
    assert len({len(clip.audio) for clip in heard}) == 5
    seen = clips.inputs(made[:1], EncoderConfig(plugin="hog"), 4)
    assert seen[0].faces.shape == (4, 112, 112, 3)


def test_an_unknown_architecture_or_benchmark_is_refused(capsys):
    with pytest.raises(ConfigError, match="did you mean 'hubert-large'"):
        extract.find("hubert-larg")
    assert harness.main(["extrakt"]) == 2
    assert "did you mean 'extract'" in capsys.readouterr().err
    assert harness.main(["extract", "clip=3"]) == 2
    assert "unknown key clip; did you mean 'clips'" in capsys.readouterr().err
    assert harness.main(["[red]"]) == 2
    assert "no benchmark '[red]'" in capsys.readouterr().err


def test_help_lists_the_benchmarks_and_the_keys_and_figures_of_one(capsys):
    assert harness.main(["--help"]) == 0
    assert set(harness.names()) <= set(capsys.readouterr().out.split())
    assert harness.main(["extract", "--help"]) == 0
    told = capsys.readouterr().out
    assert {key for key, _, _ in config.describe(extract.Config)} <= set(told.split())
    assert "real_time_factor" in told


def test_the_peer_is_the_same_model(small):
    encoder = hubert.Encoder(hubert.Config(weights={"source": "random:small"}, device="cpu"))
    encoder.load()
    theirs = peers.PeerRun(peers.PEERS["hubert"], small, "cpu").model.state_dict()
    for name, tensor in AutoModel.from_config(SMALL).state_dict().items():
        assert theirs[name].shape == tensor.shape
    np.testing.assert_array_equal(
        encoder._model.state_dict()["encoder.layers.0.attention.k_proj.weight"].numpy(),
        theirs["encoder.layers.0.attention.k_proj.weight"].numpy(),
    )


def test_on_a_gpu_all_that_fit_are_measured():
    settings = extract.Config(pipeline=False)
    small = extract.fitting(settings, 4 * 2**30)
    assert {"hubert-base", "clip-vit-base-patch32", "roberta-base"} <= set(small)
    assert "internvit-6b-448px" not in small
    large = extract.fitting(settings, 139 * 2**30)
    assert set(small) < set(large)
    assert "internvit-6b-448px" in large
    sizes = [extract.find(name)[1].num_parameters for name in large]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("ways", "bytes_per_parameter"), [({}, 10), ({"pipeline": False}, 6), ({"peer": False}, 6)])
def test_a_model_fits_with_every_copy_as_it_is_built(ways, bytes_per_parameter):
    needed = 1.5 * bytes_per_parameter * extract.find("hubert-base")[1].num_parameters
    assert "hubert-base" in extract.fitting(extract.Config(**ways), 1.01 * needed)
    assert "hubert-base" not in extract.fitting(extract.Config(**ways), 0.99 * needed)


def test_memory_is_that_of_all_processes():
    with harness.peak_memory() as memory:
        held = np.ones(30 * 2**20, np.uint8)
        memory.sample()
    assert memory.peak_bytes > held.nbytes
