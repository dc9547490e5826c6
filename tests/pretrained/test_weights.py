import json
import os
import pickle
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError
from safetensors.torch import save_file

from mer_ray.errors import NotHereError, PluginError
from mer_ray.pretrained import weights
from mer_ray.pretrained.weights import Weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    save_file({"a": torch.arange(3.0)}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return path


def test_a_folder_is_taken_as_it_is(folder):
    assert weights.fetch(Weights(source=str(folder))) == folder


def test_identity_is_the_content_and_not_the_place(folder, tmp_path):
    here = weights.identity(Weights(source=str(folder)))
    moved = folder.rename(tmp_path / "moved")
    (moved / "README.md").write_text("words")
    assert weights.identity(Weights(source=str(moved))) == here
    (moved / "config.json").write_text('{"eps": 1}')
    weights.identity.cache_clear()
    assert weights.identity(Weights(source=str(moved))) != here


def test_a_hub_name_needs_a_commit():
    with pytest.raises(ValidationError, match="40 hex digits"):
        Weights(source="facebook/hubert-base-ls960")
    with pytest.raises(ValidationError, match="a branch can change"):
        Weights(source="facebook/hubert-base-ls960", revision="main")
    pinned = Weights(source="facebook/hubert-base-ls960", revision=COMMIT)
    assert weights.identity(pinned) == f"facebook/hubert-base-ls960@{COMMIT}"


def test_remote_code_needs_a_commit_too(folder):
    with pytest.raises(ValidationError, match="own code"):
        Weights(source=str(folder), trust_remote_code=True)
    assert Weights(source=str(folder), trust_remote_code=True, revision=COMMIT).trust_remote_code


def test_a_models_own_code_is_part_of_its_identity_where_it_may_run(folder):
    given = {"source": str(folder), "revision": COMMIT}
    (folder / "modeling.py").write_text("answer = 1")
    before = [weights.identity(Weights(**given, trust_remote_code=trust)) for trust in (False, True)]
    (folder / "modeling.py").write_text("answer = 2")
    weights.identity.cache_clear()
    after = [weights.identity(Weights(**given, trust_remote_code=trust)) for trust in (False, True)]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False]


def test_a_relative_folder_is_not_taken_for_a_hub_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    given = Weights(source=f"{folder.parent.name}/{folder.name}")
    monkeypatch.chdir(folder)  # as a worker that is run elsewhere
    assert not given.is_on_hub
    assert weights.fetch(pickle.loads(pickle.dumps(given))) == folder
    assert weights.identity(given) == weights.identity(Weights(source=str(folder)))


def test_a_hub_model_that_cannot_be_had_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PluginError, match=f"hf download no/such --revision {COMMIT} --local-dir DIR"):
        weights.fetch(Weights(source="no/such", revision=COMMIT))


def test_a_hub_model_is_found_in_the_cache_without_a_network(folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--someone--something" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = weights.fetch(Weights(source="someone/something", revision=COMMIT))
    assert (found / "model.safetensors").is_file()


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PluginError, match=r"only pytorch_model\.bin .* can run code"):
        weights.fetch(Weights(source=str(folder)))
    assert weights.fetch(Weights(source=str(folder)), only_config=True) == folder


def test_a_folder_elsewhere_is_copied_once_and_again_when_it_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    given = bucket_of(folder, monkeypatch)
    (folder / "onnx").mkdir()
    for name in ("am.mvn", "qwen.tiktoken", "vocab.bpe", "onnx/config.json", "training.log"):
        (folder / name).write_text("x")
    config_only = weights.fetch(given, only_config=True)
    assert sorted(path.name for path in config_only.iterdir()) == [
        "am.mvn",
        "config.json",
        "qwen.tiktoken",
        "vocab.bpe",
    ]
    copied = weights.fetch(given)
    assert (copied / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    before = os.stat(copied / "model.safetensors")[stat.ST_MTIME]
    assert weights.fetch(given) == copied
    assert os.stat(copied / "model.safetensors")[stat.ST_MTIME] == before
    (folder / "config.json").write_text('{"changed": true}')
    assert weights.fetch(given) != copied


def test_of_many_workers_one_copies(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    given, copied, get_file = bucket_of(folder, monkeypatch), [], LocalFileSystem.get_file

    def slow(self, path, *arguments, **options):
        time.sleep(0.1)
        copied.append(path)
        return get_file(self, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "get_file", slow)
    with ThreadPoolExecutor(4) as workers:
        found = set(workers.map(lambda _: weights.fetch(given), range(4)))
    assert len(found) == 1
    assert sorted(copied) == [str(folder / "config.json"), str(folder / "model.safetensors")]


def test_what_a_killed_copy_left_is_cleared(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    given = bucket_of(folder, monkeypatch)
    copied = weights.fetch(given)
    left = copied.rename(copied.with_name(f".{copied.name}.part"))
    (left / "model.safetensors").write_bytes(b"half")
    (left / "stray").touch()
    assert sorted(path.name for path in weights.fetch(given).iterdir()) == ["config.json", "model.safetensors"]
    assert (copied / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not left.exists()


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub on this machine, where every model is what lies in ``folder``."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            names = [path.name for path in folder.iterdir()]
            name = self.path.partition("?")[0].rpartition("/")[2]
            tree = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": name} for name in names
            ]
            body = (folder / name).read_bytes() if name in names else json.dumps(tree).encode()
            self.send_response(200)
            for header in (("X-Repo-Commit", COMMIT), ("ETag", f'"{name}"'), ("Content-Length", str(len(body)))):
                self.send_header(*header)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_pickles_on_the_hub_are_told_before_anything_large_is_downloaded(folder):
    safe = weights.fetch(Weights(source="someone/safe", revision=COMMIT), only_config=True)
    assert [path.name for path in safe.iterdir()] == ["config.json"]
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    advice = (
        rf"only pytorch_model\.bin .* can run code.*hf download someone/unsafe --revision {COMMIT}.*save_pretrained"
    )
    with pytest.raises(PluginError, match=advice):
        weights.fetch(Weights(source="someone/unsafe", revision=COMMIT), only_config=True)


def test_pickles_in_a_bucket_are_told_before_anything_is_copied(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    given = bucket_of(folder, monkeypatch)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for ask in (weights.identity, lambda given: weights.fetch(given, only_config=True)):
        with pytest.raises(PluginError, match=r"only pytorch_model\.bin .* can run code.*save_pretrained.*bucket"):
            ask(given)
    assert not (tmp_path / "cache").exists()


def test_a_single_file_in_a_bucket_is_copied_once_and_is_the_same_file_there(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    bucket_of(folder, monkeypatch)
    here = folder / "model.safetensors"
    there = weights.fetch_file("s3://bucket/model/model.safetensors")
    assert there.read_bytes() == here.read_bytes()
    assert there.is_relative_to(tmp_path / "cache")
    assert [path.name for path in there.parent.iterdir()] == ["model.safetensors"]
    assert weights.file_identity("s3://bucket/model/model.safetensors") == weights.file_identity(str(here))
    with pytest.raises(PluginError, match=r"weights s3://bucket/model/none.safetensors: there is no such file"):
        weights.fetch_file("s3://bucket/model/none.safetensors")


def bucket_of(folder, monkeypatch):
    """Weights whose ``s3://`` address is led to a folder of this machine; ``faults/test_s3.py`` has the real thing."""
    from mer_ray.data.storage import Store  # noqa: PLC0415

    monkeypatch.setattr(weights, "Store", lambda source: Store(str(folder)))
    return Weights(source="s3://bucket/model")


@pytest.mark.parametrize(
    "reach",
    [
        lambda folder: weights.fetch(Weights(source="s3://nowhere/bert")),
        lambda folder: weights.identity(Weights(source="s3://nowhere/bert")),
        lambda folder: weights.fetch_file("s3://nowhere/adapters.safetensors"),
        lambda folder: weights.fetch(Weights(source=folder, revision="0" * 40, trust_remote_code=True)),
    ],
    ids=["a bucket", "what is in it", "a file of it", "a model's own code"],
)
def test_what_is_not_here_is_not_reached_for(reach, tmp_path):
    with weights.only_here(), pytest.raises(NotHereError, match="not on this machine yet"):
        reach(str(tmp_path))
