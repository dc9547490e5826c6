"""The files of ``cluster/``, held to what the launcher, the operator and docs/cluster.md say; no cloud is asked."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import documented
import jsonschema
import numpy as np
import pytest
import torch
import yaml
from ray._private.authentication.authentication_token_setup import _get_default_token_path
from ray.autoscaler._private import util as launcher
from ray.scripts.scripts import cli
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, Qwen2Config

from mer_ray import config, registry
from mer_ray.encoders.base import ClipInput

CLUSTER = Path(config.REPOSITORY) / "cluster"
PAGE = Path(config.REPOSITORY) / "docs" / "cluster.md"
LAUNCHED = ("aws.yaml", "gcp.yaml")
MACHINES = {
    "g5.4xlarge": (24, 64),
    "g6e.4xlarge": (48, 128),
    "g2-standard-16": (24, 64),
    "a2-ultragpu-1g": (80, 170),
}
"""GB of the GPU and of the host, as their makers tell."""
ASKED_CPUS = 9
"""What docs/cluster.md says that an encoder asks for, to be sent to a large worker."""
COMMANDS = [command for command in documented.of_page(PAGE) if command[0].endswith("ray")]
NUM_CLIPS = 115_595
STORE_BYTES = 8_000_000_000
"""Of each node's object store."""


def written(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def prepared(name):
    """A launcher's file as ``ray up`` reads it."""
    return launcher.prepare_config(written(name))


def kubernetes():
    """The job, and the policy."""
    return list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))


def pods(job):
    """Each group of pods by its name: its spec, and the only container."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]} | {one["groupName"]: one for one in cluster["workerGroupSpecs"]}
    return {name: (group, *group["template"]["spec"]["containers"]) for name, group in groups.items()}


def starts(spec):
    """The ``ray start`` of the head and of a worker, as words."""
    commands = (spec["head_start_ray_commands"], spec["worker_start_ray_commands"])
    return [shlex.split(next(one for one in each if one.startswith("ray start"))) for each in commands]


def parsed(words):
    """A ``ray`` command by its own parser, run no further."""
    command = cli.commands[words[1]]
    return command.make_context(words[1], list(words[2:])).params


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_takes_the_file(name):
    spec = prepared(name)
    launcher.validate_config(spec)
    types, head = spec["available_node_types"], spec["head_node_type"]
    workers = [types[kind] for kind in types if kind != head]
    assert all(one["min_workers"] < one["max_workers"] for one in workers)
    assert sum(one["max_workers"] for one in workers) == spec["max_workers"]
    assert any(one["min_workers"] and not one["resources"].get("GPU") for one in workers), "a head has no CPUs"
    assert spec["head_setup_commands"] == [], "the launcher would install another boto beside the pinned one"


@pytest.mark.parametrize(
    ("breach", "error"),
    [
        (lambda spec: spec.update(head_node_typ="head"), jsonschema.ValidationError),
        (lambda spec: spec["available_node_types"]["gpu_24"].update(max_worker=1), jsonschema.ValidationError),
        (lambda spec: spec.update(head_node_type="none"), ValueError),
    ],
)
def test_the_launcher_finds_a_fault_of_the_file(breach, error):
    spec = prepared("aws.yaml")
    breach(spec)
    with pytest.raises(error):
        launcher.validate_config(spec)


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_asks_for_the_token_and_has_it(name, tmp_path, monkeypatch):
    spec = prepared(name)
    assert "--env RAY_AUTH_MODE=token" in spec["docker"]["run_options"]
    ((there, here),) = spec["file_mounts"].items()
    assert environment()["HOME"] == "/home/ray"
    with patch.dict(os.environ, {"HOME": "/home/ray"}):
        assert there == str(_get_default_token_path())
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        launcher.hash_runtime_conf({there: here}, None, "without a token")
    subprocess.run(
        [*shlex.split(f"{sys.executable} -m ray.scripts.scripts"), *COMMANDS[0][1:]],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        check=True,
        capture_output=True,
    )
    assert Path(here).expanduser().read_text()
    assert launcher.hash_runtime_conf({there: here}, None, "with one")


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_drives_on_loopback_and_all_spill_to_their_disk(name):
    spec = prepared(name)
    assert spec["available_node_types"][spec["head_node_type"]]["resources"] == {"CPU": 0}
    head, worker = (parsed(words) for words in starts(spec))
    assert (head["head"], head["num_cpus"], head["dashboard_host"]) == (True, 0, "127.0.0.1")
    (shared,) = [option for option in spec["docker"]["run_options"] if option.startswith("--shm-size=")]
    room = int(shared.removeprefix("--shm-size=").removesuffix("g")) * 2**30
    assert head["object_store_memory"] == worker["object_store_memory"] == STORE_BYTES <= room
    assert head["object_spilling_directory"] == worker["object_spilling_directory"] == "/home/ray/spill"
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert f"mkdir -p /home/ray/runs /home/ray/.ray {worker['object_spilling_directory']}" in dockerfile()


@pytest.mark.parametrize(("name", "word"), [("aws.yaml", "base-oss-nvidia-driver-gpu"), ("gcp.yaml", "nvidia-580")])
def test_every_machine_names_an_image_with_the_driver(name, word):
    types = prepared(name)["available_node_types"]
    for kind, one in types.items():
        node = one["node_config"]
        image = node["ImageId"] if name == "aws.yaml" else node["disks"][0]["initializeParams"]["sourceImage"]
        assert word in image, kind
    for kind in ("head", "cpu_spot"):
        assert not types[kind]["resources"].get("GPU")
    spec = written(name)["docker"]
    void = "--env NVIDIA_VISIBLE_DEVICES=void"
    assert spec["head_run_options"] == types["cpu_spot"]["docker"]["worker_run_options"] == [void]


def workers_with_gpus(name):
    """CPUs, GB of the GPU and GB of the host of each kind of worker that has a GPU."""
    if name == "kuberay.yaml":
        found = {}
        for group, container in pods(kubernetes()[0]).values():
            asked = container["resources"]["requests"]
            assert asked == container["resources"]["limits"]
            if "nvidia.com/gpu" in asked:
                affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
                (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
                least = min(int(one["values"][0]) for one in term["matchExpressions"] if one["operator"] == "Gt")
                found[group["groupName"]] = (int(asked["cpu"]), least / 1000, int(asked["memory"].removesuffix("Gi")))
        return found
    types = prepared(name)["available_node_types"]
    found = {}
    for kind, one in types.items():
        if one["resources"].get("GPU"):
            machine = one["node_config"].get("InstanceType") or one["node_config"]["machineType"]
            assert one["docker"]["worker_run_options"] == ["--gpus all"]
            found[kind] = (one["resources"]["CPU"], *MACHINES[machine])
    return found


@pytest.mark.parametrize("name", [*LAUNCHED, "kuberay.yaml"])
def test_there_are_workers_of_24_gb_and_of_48_and_cpus_tell_them_apart(name):
    small, large = sorted(workers_with_gpus(name).values())
    assert small[0] < ASKED_CPUS < large[0], "one CPU of the large is left to prepare batches"
    assert small[1] <= 24
    assert large[1] >= 45
    gb = {row["encoder"]: float(row["weights, GB"]) for row in table("weights, GB")}
    for size in (small, large):
        fits = [weights for weights in gb.values() if weights + 2 <= size[1]]
        assert size[2] >= max(fits) + STORE_BYTES / 1e9 + 8, "weights, object store, and what prepares"
    shared = {f"encoders.{name}.cpus={ASKED_CPUS}" for name in ("llm", "internvit")}
    assert any(shared <= set(command) for command in COMMANDS)


def test_the_job_is_what_the_operator_takes():
    job, policy = kubernetes()
    schema = yaml.safe_load((Path(__file__).parent / "rayjob_schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(job, schema)
    for path, wrong in {
        ("spec", "backofLimit"): 0,
        ("spec", "backoffLimit"): "none",
        ("spec", "rayClusterSpec", "authOptions", "mode"): "tokens",
        ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"): 0,
    }.items():
        (broken, _) = kubernetes()
        place = broken
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")


def test_the_job_drives_from_a_head_without_work_behind_a_token():
    job, policy = kubernetes()
    cluster = job["spec"]["rayClusterSpec"]
    pinned = dict(line.split("==") for line in (CLUSTER.parent / "constraints.txt").read_text().split())
    assert cluster["rayVersion"] == pinned["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert (cluster["headGroupSpec"]["serviceType"], cluster["headGroupSpec"]["enableIngress"]) == ("ClusterIP", False)
    (labels,) = {tuple(group["template"]["metadata"]["labels"].items()) for group, _ in pods(job).values()}
    assert policy["spec"]["podSelector"]["matchLabels"] == dict(labels)
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert not any("ipBlock" in one for rule in policy["spec"]["ingress"] for one in rule["from"])
    assert len({container["image"] for _, container in pods(job).values()}) == 1
    for name, (group, container) in pods(job).items():
        words = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
        told = parsed(["ray", "start", *words])
        assert told["object_store_memory"] == STORE_BYTES, name
        assert told["object_spilling_directory"] in [mount["mountPath"] for mount in container["volumeMounts"]], name
        void = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container.get("env", [])
        assert void is (not name.startswith("gpu")), name


def test_the_job_is_tried_again_by_the_script_alone():
    spec = kubernetes()[0]["spec"]
    assert spec["backoffLimit"] == 0, "a RayJob tells no exit codes apart"
    words = shlex.split(spec["entrypoint"])
    assert words[:4] == ["bash", "cluster/again.sh", "python", "jobs/mine.py"]
    settings = config.load(config.MineConfig, words[words.index("--config") + 1], words[6:])
    assert settings.run.dir.startswith("s3://")


@pytest.mark.parametrize(("code", "tries"), [(0, 1), (1, 3), (2, 1), (3, 1), (130, 1), (143, 1), (137, 3), (139, 3)])
def test_what_another_try_cannot_mend_is_not_tried_again(code, tries, tmp_path):
    log = tmp_path / "log"
    done = subprocess.run(
        ["bash", CLUSTER / "again.sh", "bash", "-c", f'echo "$1" >> {log}; exit {code}', "job", "a 'b' $c"],
        env={**os.environ, "MER_RAY_AGAIN_SECONDS": "0"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert log.read_text().splitlines() == ["a 'b' $c"] * tries
    assert done.stderr.count("once more") == tries - 1


def test_a_try_that_ends_well_is_the_last(tmp_path):
    mark = tmp_path / "mark"
    done = subprocess.run(
        ["bash", CLUSTER / "again.sh", "bash", "-c", f"[ -e {mark} ] || {{ touch {mark}; exit 1; }}"],
        env={**os.environ, "MER_RAY_AGAIN_SECONDS": "0"},
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0


def dockerfile():
    return (CLUSTER / "Dockerfile").read_text()


def environment():
    """What the image sets."""
    joined = dockerfile().replace("\\\n", " ")
    lines = re.findall(r"^ENV (.*)$", joined, re.MULTILINE)
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def hadolint(text):
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_image_is_well_formed():
    assert hadolint(dockerfile()) == (0, "")
    code, told = hadolint(dockerfile().replace(" --no-cache-dir", ""))
    assert code != 0
    assert "DL3042" in told


def test_the_image_lets_the_container_toolkit_give_it_gpus():
    assert environment()["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(environment()["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
    extra = (CLUSTER.parent / "pyproject.toml").read_text()
    assert "'.[cluster]'" in dockerfile()
    assert 'cluster = ["boto3", "google-api-python-client"]' in extra


def test_rays_commands_take_what_the_page_gives_them():
    assert {command[1] for command in COMMANDS} == {"get-auth-token", "up", "dashboard", "job", "down"}
    for command in COMMANDS:
        if command[1] in {"up", "dashboard", "down"}:
            given = parsed(command)["cluster_config_file"]
            assert given.removeprefix("cluster/") in LAUNCHED
            launcher.validate_config(prepared(given.removeprefix("cluster/")))
        if command[1] == "job":
            words = command[command.index("--") + 1 :]
            assert words[:3] == ("bash", "cluster/again.sh", "python")
            job = config.MineConfig if words[3] == "jobs/mine.py" else config.ExtractConfig
            config.load(job, words[5], words[6:])


def table(column):
    """The rows of the page's table that has a column of this name, each by its heads."""
    (found,) = [
        block.strip().splitlines()
        for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE)
        if f"| {column} |" in block.splitlines()[0]
    ]
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def names(row):
    return re.findall(r"`(\w+)`", row["encoder"])


def test_the_tables_are_of_the_papers_encoders():
    papers = set(config.load(config.ExtractConfig, "mer2024_semi.yaml").encoders)
    assert sorted(name for row in table("weights, GB") for name in names(row)) == sorted(papers)
    assert {name for row in table("hours") for name in names(row)} == papers


def counted():
    """Parameters that are read and FLOP of the page's clip, by the name of one encoder, on the meta device."""
    clip = ClipInput(
        audio=np.zeros(72_000, np.float32),
        faces=np.zeros((23, 224, 224, 3), np.uint8),
        face_times=np.arange(23, dtype=np.float32) / 5,
    )
    models = {
        "hubert": ("hubert", "hubert-large", {"layers": 4, "final_norm": True}),
        "clip": ("clip", "clip-vit-large-patch14", {}),
        "emotion_vit": ("emotion_vit", "vit-mae-base", {}),
        "internvit": ("internvit", "internvit-6b-448px", {"image_size": 224}),
    }
    found = {}
    for name, (plugin, model, options) in models.items():
        given = {"weights": {"source": f"random:{model}"}, "device": "cpu", **options}
        encoder = registry.build("encoders", plugin, given)
        with torch.device("meta"):
            network = encoder._adapt(encoder.empty()).eval()
        encoder._model = network
        encoder._prepare_randomly()
        inputs = encoder._collate([item.payload for item in encoder._items(0, clip)])
        moved = {key: value.to("meta") if torch.is_tensor(value) else value for key, value in inputs.items()}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder._forward(moved)
        found[name] = (parameters(network), counter.get_total_flops())
    return found


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def language_models():
    """The same of those that read tokens: two FLOP a parameter and token, without the embedding."""
    with torch.device("meta"):
        qwen = AutoModel.from_config(
            Qwen2Config(
                vocab_size=152_064,
                hidden_size=5120,
                intermediate_size=13_824,
                num_hidden_layers=48,
                num_attention_heads=40,
                num_key_value_heads=8,
            )
        )
        joint = registry.build("encoders", "joint_audio_text", {"weights": {"source": "random:qwen2-audio-7b"}}).empty()
    inner = joint.language_model
    heard = 2.27e12 + 2 * 162 * (parameters(inner) - inner.embed_tokens.weight.numel())
    said = 2 * 20 * (parameters(qwen) - qwen.embed_tokens.weight.numel())
    return {"llm": (parameters(qwen), said), "joint": (parameters(joint), heard)}


def test_parameters_and_flops_are_those_of_the_models():
    measured = counted() | language_models()
    sizes, work = table("weights, GB"), table("hours")
    for name, (held, flop) in measured.items():
        (row,) = [row for row in sizes if name in names(row)]
        assert float(row["parameters, G"]) == pytest.approx(held / 1e9, abs=0.0006), name
        for row in work:
            if name in names(row):
                assert float(row["TFLOP of a clip"]) == pytest.approx(flop / 1e12, rel=0.01), name


def test_the_table_of_sizes_adds_up():
    for row in table("weights, GB"):
        weights, whole = float(row["weights, GB"]), float(row["with a batch, GB"])
        assert weights == pytest.approx(2 * float(row["parameters, G"]), abs=0.051)
        assert whole == pytest.approx(weights + 2, abs=0.001)
        assert [row["24 GB"], row["48 GB"]] == ["yes" if whole < 0.95 * size else "no" for size in (24, 48)]


def test_hours_and_dollars_follow_from_what_is_assumed():
    page = " ".join(PAGE.read_text().split())
    assert f"{NUM_CLIPS:,} clips x TFLOP" in page
    hours = dollars = 0.0
    for row in table("hours"):
        spent = NUM_CLIPS * float(row["TFLOP of a clip"]) / (float(row["TFLOP/s"]) * 0.30) / 3600
        assert float(row["hours"]) == pytest.approx(spent, abs=0.006)
        assert float(row["$"]) == pytest.approx(spent * float(row["$ an hour"]), abs=0.006)
        if (row["encoder"], row["worker"]) != ("`internvit`", "A10G"):
            hours += len(names(row)) * spent
            dollars += len(names(row)) * spent * float(row["$ an hour"])
    assert f"come to {hours:.1f} hours of a GPU and ${dollars:.1f}" in page
