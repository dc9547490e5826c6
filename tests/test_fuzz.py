"""Whatever a user brings gives a result or a refusal that says why, never another exception.

The same few hundred examples in every run; the slow tests draw as many as two minutes take, others each time.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_input import CELLS, CLIPS, FOLDERS, JOBS, NAMES, brought, config_files, overrides, sheets

from mer_ray import config
from mer_ray.data import layouts, manifest
from mer_ray.data.files import stat_inputs
from mer_ray.data.table import row_key
from mer_ray.errors import InputError
from mer_ray.types import Clip

EXTENT = pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])


def fuzz(check: Callable[..., bool], few: int, many: int, is_many: bool, **drawn: st.SearchStrategy) -> None:
    """Give ``check`` what is drawn, ``few`` or ``many`` times; it tells whether that could be used.

    Some of it must be: what is refused at the door tries nothing behind it.
    """
    told = Counter()
    how = settings(
        max_examples=many if is_many else few,
        derandomize=not is_many,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    how(given(**drawn)(lambda **given: told.update([check(**given)])))()
    assert min(told[True], told[False]) > few / 10, told


def use(clips: Sequence[Clip]) -> None:
    """What becomes of clips next: their files are looked at, and they travel to workers under their keys."""
    identities = stat_inputs(clips)
    assert all(row_key(address, identity) for address, identity in identities.items())
    assert len(pa.array([asdict(clip) for clip in clips])) == len(clips)


@EXTENT
def test_any_bytes_are_a_manifest_or_are_refused(tmp_path, many):
    (tmp_path / "a.mp4").write_bytes(b"media")
    path = tmp_path / "clips.csv"

    def check(data, labels, required):
        path.write_bytes(data)
        try:
            read = manifest.read(str(path), labels=labels, require_media=required, require_labels=required)
        except InputError:
            return False
        use(read.clips)
        return True

    labels = st.one_of(st.sampled_from(["auto", "auto", "mer2024", "mer2042"]), st.lists(CELLS, min_size=2, max_size=3))
    fuzz(
        check, 300, 3000, many, data=sheets(CLIPS, ["clip_id", "label", "text"]), labels=labels, required=st.booleans()
    )


@pytest.mark.parametrize("layout", FOLDERS)
@EXTENT
def test_any_folder_is_a_layout_or_is_refused(layout, many):
    folders = FOLDERS[layout][1]

    def check(files, media, required):
        with tempfile.TemporaryDirectory() as folder:
            for name in folders if media else ():
                Path(folder, name).mkdir(parents=True, exist_ok=True)
            for place, name in [(folders[1], "c0.mp4"), *media] if media else ():
                if not Path(folder, place, name).exists():
                    Path(folder, place, name).write_bytes(b"media")
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            data = config.DataConfig(layout=layout, root=folder)
            try:
                source = layouts.load(data, "auto", require_labels=required, use_features=False, require_media=required)
            except InputError:
                return False
            use(source.manifest.clips)
            return True

    fuzz(
        check, 100, 1000, many,
        files=brought(layout),
        media=st.lists(st.tuples(st.sampled_from(folders), NAMES), max_size=5),
        required=st.booleans(),
    )  # fmt: skip


@EXTENT
def test_any_config_is_one_or_is_refused(tmp_path, many):
    path = tmp_path / "config.yaml"

    def check(job, file, overrides):
        path.write_bytes(file)
        try:
            read = config.load(job, str(path), overrides)
        except InputError:
            return False
        return bool(config.digest(read))

    fuzz(
        check, 500, 5000, many,
        job=st.sampled_from(JOBS), file=config_files(), overrides=st.lists(overrides(), max_size=2),
    )  # fmt: skip
