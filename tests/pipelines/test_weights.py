"""``jobs/weights.py convert``: published pickles become folders that plug-ins load, and nothing else does."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import in_process
import numpy as np
import pytest
import torch
import yaml
from closeness import assert_close
from safetensors.torch import load_file

from mer_ray import registry
from mer_ray.pretrained import unpickle
from mer_ray.pretrained.weights import Weights


def published(name, folder, wrap=lambda tensors: {"model": tensors, "step": 7}, prefix=""):
    """A tiny separator, its weights as they are published, and the arguments of its network."""
    separator = registry.find("separators", name).tiny()
    source = Path(separator.config.weights.source)
    tensors = {f"{prefix}{key}": tensor for key, tensor in load_file(source / "model.safetensors").items()}
    torch.save(wrap(tensors), folder / "last_best_checkpoint.pt")
    return separator, folder / "last_best_checkpoint.pt", source / "config.json"


def convert(capsys, *arguments):
    code = in_process.run("weights", "convert", *arguments)
    told = capsys.readouterr()
    return code, " ".join((told.out + told.err).split())


@pytest.mark.parametrize(
    ("name", "wrap", "prefix"),
    [
        ("mossformer2", lambda tensors: {"model": tensors, "step": 7}, "module."),
        ("convtasnet", lambda tensors: tensors, ""),
    ],
)
def test_a_published_pickle_becomes_a_folder_that_the_separator_loads(name, wrap, prefix, tmp_path, capsys):
    separator, source, config = published(name, tmp_path, wrap, prefix)
    before = source.read_bytes()
    folder = tmp_path / "made" / "here"
    code, told = convert(capsys, source, folder, f"plugin={name}", f"config={config}")
    assert code == 0, told
    assert f"parameters of {name}" in told
    assert source.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["here"]
    made = type(separator)(separator.config.model_copy(update={"weights": Weights(source=str(folder))}))
    clip = (0.1 * np.random.default_rng(0).normal(size=8000)).astype(np.float32)
    assert_close(made.separate([clip])[0], separator.separate([clip])[0])


def test_a_recognisers_other_files_are_taken_from_beside_its_pickle(tmp_path, capsys):
    recogniser = registry.find("recognisers", "sensevoice").tiny()
    source = Path(recogniser.config.weights.source)
    torch.save({"state_dict": load_file(source / "model.safetensors")}, tmp_path / "model.pt")
    call = (tmp_path / "model.pt", tmp_path / "made", "plugin=sensevoice", f"config={source / 'config.json'}")
    (tmp_path / "am.mvn").write_bytes((source / "am.mvn").read_bytes())
    code, told = convert(capsys, *call)
    assert (code, (tmp_path / "made").exists()) == (2, False)
    assert "there is no tokens.json or chn_jpn_yue_eng_ko_spectok.bpe.model beside it" in told
    (tmp_path / "tokens.json").write_bytes((source / "tokens.json").read_bytes())
    code, told = convert(capsys, *call)
    assert code == 0, told
    assert "transcribe.recogniser={name: sensevoice, options:" in told
    made = type(recogniser)(recogniser.config.model_copy(update={"weights": Weights(source=call[1].as_posix())}))
    clips = [(0.1 * np.random.default_rng(i).normal(size=16_000)).astype(np.float32) for i in range(2)]
    assert made.transcribe(clips) == recogniser.transcribe(clips)


def test_tensors_that_a_network_does_without_are_left_out_and_no_others(tmp_path, capsys):
    recogniser = registry.find("recognisers", "paraformer").tiny()
    source = Path(recogniser.config.weights.source)
    for name in ("am.mvn", "tokens.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    tensors = load_file(source / "model.safetensors")
    more = {"decoder.embed.0.weight": torch.ones(40, 32), "predictor.blstm.weight_ih_l0": torch.ones(2)}
    torch.save(tensors | more, tmp_path / "model.pt")
    call = (tmp_path / "model.pt", tmp_path / "made", "plugin=paraformer", f"config={source / 'config.json'}")
    code, told = convert(capsys, *call)
    assert code == 0, told
    assert load_file(call[1] / "model.safetensors").keys() == tensors.keys()
    torch.save(tensors | {"predictor.blstn": torch.ones(2)}, tmp_path / "model.pt")
    code, told = convert(capsys, call[0], tmp_path / "again", *call[2:])
    assert (code, "1 not of this model: predictor.blstn" in told) == (2, True)


def test_a_punctuators_arguments_are_read_beside_its_pickle(tmp_path, capsys):
    punctuator = registry.find("punctuators", "ct_transformer").tiny()
    source = Path(punctuator.config.weights.source)
    torch.save(load_file(source / "model.safetensors"), tmp_path / "model.pt")
    (tmp_path / "tokens.json").write_bytes((source / "tokens.json").read_bytes())
    arguments = json.loads((source / "config.json").read_text())
    network = {"embed_unit": arguments["embed_unit"], "punc_list": arguments["marks"]}
    told = {"model": "CTTransformer", "model_conf": network, "encoder_conf": arguments}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(told))
    code, told = convert(capsys, tmp_path / "model.pt", tmp_path / "made", "plugin=ct_transformer")
    assert code == 0, told
    assert "transcribe.punctuator={name: ct_transformer, options:" in told
    assert json.loads((tmp_path / "made/config.json").read_text()) == arguments
    made = type(punctuator)(punctuator.config.model_copy(update={"weights": Weights(source=str(tmp_path / "made"))}))
    assert made.punctuate(["一丁七丈" * 8]) == punctuator.punctuate(["一丁七丈" * 8])


def test_weights_that_are_there_are_kept(tmp_path, capsys):
    _, source, config = published("convtasnet", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    code, told = convert(capsys, source, tmp_path, "plugin=convtasnet", f"config={config}")
    assert (code, (tmp_path / "config.json").read_text()) == (2, "{}")
    assert "holds config.json already" in told


def test_weights_of_another_model_are_refused_with_names_and_leave_nothing(tmp_path, capsys):
    _, source, _ = published("mossformer2", tmp_path)
    code, told = convert(capsys, source, tmp_path / "made", "plugin=convtasnet")
    assert code == 2
    assert "weights of another model" in told
    assert all(word in told for word in ("missing: ", "not of this model: ", ".weight"))
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_weights_of_another_size_are_refused_with_names(tmp_path, capsys):
    _, source, _ = published("convtasnet", tmp_path)
    code, told = convert(capsys, source, tmp_path / "made", "plugin=convtasnet")
    assert code == 2
    assert "decoder.weight (16, 1, 16) for (512, 1, 16)" in told


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    mark = tmp_path / "it-ran"
    for name, save in (
        ("torch.pt", torch.save),
        ("plain.pt", lambda thing, file: file.write_bytes(pickle.dumps(thing))),
    ):
        source = tmp_path / name
        save({"model": {"weight": torch.ones(1), "evil": Evil(mark)}}, source)
        code, told = convert(capsys, source, tmp_path / "made", "plugin=convtasnet")
        assert code == 2
        assert f"{name} is refused: UnpicklingError" in told
    assert not mark.exists()
    assert not (tmp_path / "made").exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert mark.exists(), "it does run where it is unpickled plainly"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [lambda table: table, lambda table: {"model": table, "step": 7}])
def test_tensors_are_found_at_the_top_and_under_a_key_by_their_own_names(wrap, prefix):
    weight = torch.ones(1)
    assert unpickle.state_of(wrap({f"{prefix}norm.module.weight": weight})) == {"norm.module.weight": weight}


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)], {"model": {"weight": [1, 2]}}])
def test_a_checkpoint_without_tensors_is_refused(content):
    with pytest.raises(ValueError, match="it holds no table of tensors"):
        unpickle.state_of(content)


def test_a_damaged_or_missing_file_is_told(tmp_path, capsys):
    (tmp_path / "x.pt").write_bytes(b"no pickle")
    code, told = convert(capsys, tmp_path / "x.pt", tmp_path / "made", "plugin=convtasnet")
    assert (code, "x.pt is refused" in told) == (2, True)
    code, told = convert(capsys, tmp_path / "y.pt", tmp_path / "made", "plugin=convtasnet")
    assert (code, "there is no such file" in told) == (2, True)


def test_a_plugin_without_such_weights_and_arguments_that_do_not_fit_are_told(tmp_path, capsys):
    _, source, config = published("convtasnet", tmp_path)
    code, told = convert(capsys, source, tmp_path / "made", "plugin=spectral")
    assert (code, "loads no checkpoint of its own" in told) == (2, True)
    code, told = convert(capsys, source, tmp_path / "made", "plugin=convtasnets")
    assert (code, "did you mean 'convtasnet'" in told) == (2, True)
    code, told = convert(capsys, source, tmp_path / "made", "plugin=mossformer2", f"config={config}")
    assert (code, "not arguments of mossformer2" in told) == (2, True)
    code, told = convert(capsys, source, tmp_path / "made")
    assert (code, "plugin" in told) == (2, True)


@pytest.mark.parametrize(
    "act",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
    ],
)
def test_the_process_that_reads_pickles_reaches_nothing(act):
    code = f"from mer_ray.pretrained import unpickle; unpickle.leave_network(); unpickle.seal(); {act}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PermissionError: a pickle tried " in done.stderr


def test_it_is_told_nothing_of_the_users_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    seen = {}

    def run(command, **options):
        seen.update(options["env"])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(unpickle.subprocess, "run", run)
    torch.save({}, tmp_path / "x.pt")
    unpickle.tensors_of(tmp_path / "x.pt", tmp_path / "out")
    assert "PYTHONPATH" in seen
    assert "SECRET_TOKEN" not in seen


def test_help_tells_the_keys_and_a_wrong_call_the_usage(capsys):
    assert in_process.run("weights", "--help") == 0
    told = capsys.readouterr().out
    assert "convert SOURCE DIR plugin=NAME" in told
    assert all(name in told for name in ("mossformer2", "convtasnet", "paraformer", "ct_transformer"))
    assert in_process.run("weights", "convert") == 2
    assert "convert SOURCE DIR plugin=NAME" in capsys.readouterr().out


def test_without_arguments_the_published_network_is_meant(tmp_path, capsys):
    module = registry.find("separators", "convtasnet")
    separator = module.Separator(module.Config(weights=Weights(source="random:convtasnet-base-libri2mix")))
    torch.save(separator.empty().state_dict(), tmp_path / "conv_tasnet_base_libri2mix.pt")
    code, told = convert(capsys, tmp_path / "conv_tasnet_base_libri2mix.pt", tmp_path / "made", "plugin=convtasnet")
    assert code == 0, told
    assert "5.0 million parameters" in told
    assert json.loads((tmp_path / "made/config.json").read_text())["msk_activate"] == "relu"
