"""Hostile manifests: each is read as it is meant, or refused with a reason; nothing is opened, and none takes long."""

import os
import re
import time

import made_manifests
import pytest

from mer_ray.data import manifest
from mer_ray.errors import ManifestError

CASES = {case.name: case for case in made_manifests.cases()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifests")
    root = folder / "root"
    (root / "folder").mkdir(parents=True)
    (folder / "secret.mp4").write_bytes(b"secret")
    (root / "good.mp4").write_bytes(b"good")
    (root / "out").symlink_to(folder / "secret.mp4")
    (root / "way").symlink_to(folder)
    os.mkfifo(root / "pipe")
    return root


def test_there_are_many():
    assert len(CASES) > 70


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_is_read_or_refused_with_its_reason(root, name):
    case, path = CASES[name], root / "clips.csv"
    path.write_bytes(case.data)
    started = time.process_time()
    if isinstance(case.told, tuple):
        assert tuple(clip.text for clip in manifest.read(str(path)).clips) == case.told
    else:
        with pytest.raises(ManifestError) as caught:
            manifest.read(str(path))
        assert re.search(case.told, str(caught.value)), caught.value
        assert "hush" not in str(caught.value)
    assert time.process_time() - started < 4
