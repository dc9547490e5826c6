"""The machine fails, and no clip is blamed for it. Each test asserts that its fault happened."""

import numpy as np
import pytest
import soundfile
from made_steps import rows_of, step_of, tries
from media_samples import voice

from mer_ray.config import ExtractConfig, RuntimeConfig
from mer_ray.data.storage import Store
from mer_ray.errors import MachineFault, MaterialiseError
from mer_ray.pipelines import planning
from mer_ray.runtime import materialise as materialising
from mer_ray.runtime import stream as streaming
from mer_ray.runtime.materialise import materialise
from mer_ray.types import Clip, Split

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Short ones."""
    monkeypatch.setattr(materialising, "_FIRST_WAIT_SECONDS", 0.1)


def test_a_broken_device_costs_its_process_and_no_clip(ray_cluster, tmp_path):
    texts = {f"c{i}": "sticky" if i == 5 else "x" * i for i in range(16)}
    step, faults = step_of(tmp_path, texts), []
    made = materialise(step, {}, RuntimeConfig(), on_fault=faults.append)
    assert (tmp_path / "marks" / "c5.died").exists(), "the device did not break"
    assert len(faults) == 1, "a process whose device is broken was given another batch"
    assert "device-side assert" in faults[0].what
    assert dict(made.errors) == {}
    assert {c: row["letters"] for c, row in rows_of(step).items()} == {c: len(text) for c, text in texts.items()}


def test_a_fault_that_stays_ends_the_run_without_a_row_and_the_others_are_made(ray_cluster, tmp_path):
    texts = {f"c{i:02}": "full" if i == 5 else "x" * i for i in range(16)}
    step, faults = step_of(tmp_path, texts), []
    with pytest.raises(MachineFault, match=r"failed 3 times.*on node .*No space left.*same command") as caught:
        materialise(step, {}, RuntimeConfig(max_machine_faults=2), on_fault=faults.append)
    assert caught.value.exit_code == 1
    assert len(faults) == 3
    rows = rows_of(step)
    batch_of_the_fault = {"c04", "c05", "c06", "c07"}
    assert rows.keys() == texts.keys() - batch_of_the_fault
    assert not any(row["error"] for row in rows.values())
    well = step_of(tmp_path, texts)
    well.stage.full_is_over = True
    made = materialise(well, {}, RuntimeConfig())
    assert made.rows_made == len(batch_of_the_fault)
    assert not made.errors


def test_a_storage_that_is_down_is_not_tried_batch_by_batch(ray_cluster, tmp_path):
    step, faults = step_of(tmp_path, {f"c{i}": "full" for i in range(40)}, batch_size=1), []
    with pytest.raises(MachineFault):
        materialise(step, {}, RuntimeConfig(max_machine_faults=0), on_fault=faults.append)
    assert len(faults) == 8, "after eight in a row nothing else is tried for now"
    assert rows_of_none(step)


def rows_of_none(step) -> bool:
    return not [name for name in step.table.store.files() if name.endswith(".parquet") and name[0] != "_"]


def test_a_process_that_may_open_no_more_files_costs_no_clip(ray_cluster, tmp_path):
    texts = {f"c{i}": "no files" if i == 5 else "x" * i for i in range(16)}
    step = step_of(tmp_path, texts)
    made = materialise(step, {}, RuntimeConfig())
    assert (tmp_path / "marks" / "c5.died").exists(), "the limit was not set"
    assert tries(tmp_path, "c5") >= 2, "its batch was not begun anew"
    assert dict(made.errors) == {}
    assert {c: row["letters"] for c, row in rows_of(step).items()} == {c: len(text) for c, text in texts.items()}
    assert step.table.store.files("_corrupt") == []


def test_a_full_disk_leaves_no_row_in_error_and_the_same_command_goes_on(ray_cluster, small_disk, tmp_path):
    place, grow = small_disk
    texts = {f"c{i:02}": f"{i} " + "".join(map(chr, np.random.default_rng(i).integers(97, 123, 10))) for i in range(64)}
    step = step_of(place, texts, batch_size=1)
    filler = place / "filler"
    filler.write_bytes(bytes(150_000))
    with pytest.raises(MachineFault, match="No space left"):
        materialise(step, {}, RuntimeConfig(max_machine_faults=1))
    assert len(step.table.index(step.keys)) < len(texts), "the disk was not full"
    assert not any(ref.error for ref in step.table.index(step.keys).values())
    grow()
    made = materialise(step_of(place, texts, batch_size=1), {}, RuntimeConfig())
    assert len(made.refs) == len(texts)
    assert not any(ref.error for ref in made.refs.values())
    assert step.table.store.files("_corrupt") == []


def test_a_clip_without_memory_is_the_only_one_blamed(ray_cluster, tmp_path):
    step = step_of(tmp_path, {f"c{i}": "memory" if i == 2 else "x" for i in range(8)})
    materialise(step, {}, RuntimeConfig())
    assert {c: row["error"] for c, row in rows_of(step).items() if row["error"]} == {"c2": "out_of_memory"}
    assert tries(tmp_path, "c2") >= 2


def test_a_clip_that_hangs_in_a_full_batch_costs_one_command_and_the_time_of_a_few_clips(ray_cluster, tmp_path):
    step = step_of(tmp_path, {f"c{i}": "hang" if i == 5 else "x" for i in range(16)}, batch_size=16, clip_seconds=2.0)
    materialise(step, {}, RuntimeConfig())
    assert {c: row["error"] for c, row in rows_of(step).items() if row["error"]} == {"c5": "timeout"}
    assert tries(tmp_path, "c5") == 2 + 3 + 2, "the batch twice, its halves, and alone"


def test_batches_of_which_nothing_is_told_end_the_run_and_are_not_asked_for_ever(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_outcomes", lambda bundles: (done for done in list(bundles)[:0]))
    with pytest.raises(MaterialiseError, match="told nothing of 2 batches"):
        materialise(step_of(tmp_path, {"a": "x", "b": "x"}, batch_size=1), {}, RuntimeConfig())


def test_a_step_that_stalls_is_begun_once_more(ray_cluster, tmp_path):
    texts = {"a": "await kill", "b": "x"}
    step = step_of(tmp_path, texts, batch_size=1, clip_seconds=60.0)
    made = materialise(step, {}, RuntimeConfig(stall_seconds=20.0))
    assert (tmp_path / "marks" / "a.pid").exists(), "nothing hung"
    assert tries(tmp_path, "a") == 2
    assert made.rows_made == 2
    with pytest.raises(MaterialiseError, match="no batch was finished"):
        materialise(step_of(tmp_path, {"c": "sleep 90"}, clip_seconds=200.0), {}, RuntimeConfig(stall_seconds=20.0))
    assert tries(tmp_path, "c") == 2


def test_a_file_that_is_gone_from_the_nodes_ends_the_run_and_is_missing_in_the_next(ray_cluster, tmp_path):
    files = {name: tmp_path / f"{name}.wav" for name in ("a", "gone", "never")}
    for name in ("a", "gone"):
        soundfile.write(files[name], voice(1.0), 16_000)
    clips = [Clip(name, Split.UNLABELED, audio=str(file)) for name, file in files.items()]
    settings = ExtractConfig.model_validate({"encoders": {"loud": {"plugin": "logmel"}}})

    def planned():
        return planning.plan(settings, clips, Store(str(tmp_path / "tables")))[0]

    step, faults = planned(), []
    files["gone"].unlink()
    with pytest.raises(MachineFault, match=r"on node .*gone\.wav was there when the job began"):
        materialise(step, {}, RuntimeConfig(max_machine_faults=1), on_fault=faults.append)
    assert len(faults) == 2
    assert rows_of_none(step)
    made = materialise(planned(), {}, RuntimeConfig())
    assert {name: ref.error for name, ref in made.refs.items()} == {
        "a": None,
        "gone": "missing_file",
        "never": "missing_file",
    }
