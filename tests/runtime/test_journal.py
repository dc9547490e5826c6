import json

import yaml

from mer_ray.config import MineConfig, load
from mer_ray.data.storage import Store
from mer_ray.runtime import journal as journal_
from mer_ray.runtime.journal import Journal, redact


def test_a_run_directory_tells_its_config_environment_and_events(tmp_path):
    journal = Journal(Store(str(tmp_path)))
    settings = load(MineConfig, None, ["seed=3"])
    journal.open(settings)
    journal.event("step_done", step="audio", seconds=1.5, clips=10, errors={})
    Journal(Store(str(tmp_path))).event("step_done", step="audio", seconds=0.5, clips=0, errors={})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 3
    assert json.loads((tmp_path / "environment.json").read_text())["versions"]["ray"]
    assert [event["event"] for event in journal.events()] == ["run_started", "step_done", "step_done"]
    assert journal.work() == {"audio": {"seconds": 2.0, "clips": 10.0}}


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(journal_, "_VERSIONS_OF", ("numpy", "no-such-library"))
    versions = journal_.environment()["versions"]
    assert versions["numpy"]
    assert versions["no-such-library"] is None


def test_a_line_cut_by_a_kill_is_passed_over(tmp_path):
    journal = Journal(Store(str(tmp_path)))
    journal.event("a")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "b", "ti')
    assert [event["event"] for event in journal.events()] == ["a"]
    journal.event("c")
    assert [event["event"] for event in journal.events()] == ["a", "c"]


def test_secrets_do_not_reach_the_run_directory(tmp_path):
    journal = Journal(Store(str(tmp_path)))
    token = "encoders.x={plugin: opensmile, options: {hub_token: hunter2}}"
    settings = load(MineConfig, None, ["data.manifest=s3://me:hunter2@bucket/clips.csv", token])
    journal.open(settings)
    journal.event("read", uri="https://host/x?X-Amz-Signature=hunter2&b=1")
    for file in ("config.yaml", "events.jsonl"):
        assert "hunter2" not in (tmp_path / file).read_text()
    assert redact("s3://bucket/plain?a=1") == "s3://bucket/plain?a=1"


def test_what_is_no_secret_stays_so_that_a_run_can_be_read_again():
    prompted = "encoders.x={plugin: text_llm, options: {window_tokens: 99}}"
    plain = load(MineConfig, None, [prompted]).model_dump(mode="json")
    assert plain["hint"]["max_tokens"]
    assert redact(plain) == plain
