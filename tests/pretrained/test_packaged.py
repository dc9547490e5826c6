"""Weights that Python packages carry: the real ones, which the extra speech-demo installs."""

from dataclasses import replace

import pytest

from mer_ray.errors import NotHereError, PluginError
from mer_ray.pretrained import packaged, weights
from mer_ray.pretrained.weights import Weights

BASE, TINY = "whisper-base", "whisper-tiny.en"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    packaged.folder.cache_clear()
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    packaged.folder.cache_clear()


def test_the_best_that_is_installed_comes_first():
    assert packaged.installed() == [BASE, TINY]


def test_one_in_parts_is_put_together_once(cache):
    folder = weights.fetch(Weights(source=f"package:{BASE}"), files="model.bin")
    assert cache in folder.parents
    assert {path.name for path in folder.iterdir()} == {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"}
    made = (folder / "model.bin").stat().st_mtime_ns
    packaged.folder.cache_clear()
    assert packaged.folder(BASE, cache) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == made


def test_a_dry_run_puts_nothing_together_but_takes_what_is(cache):
    base, tiny = (Weights(source=f"package:{name}") for name in (BASE, TINY))
    with weights.only_here(), pytest.raises(NotHereError):
        weights.fetch(base, files="model.bin")
    assert not cache.exists()
    with weights.only_here():
        assert weights.fetch(tiny, files="model.bin").is_dir()
    made = weights.fetch(base, files="model.bin")
    with weights.only_here():
        assert weights.fetch(base, files="model.bin") == made


def test_what_it_is_does_not_depend_on_where_it_lies(tmp_path):
    there = Weights(source=f"package:{TINY}")
    (tmp_path / "copy").symlink_to(weights.fetch(there, files="model.bin"))
    copy = Weights(source=str(tmp_path / "copy"))
    assert weights.identity(there, "model.bin") == weights.identity(copy, "model.bin")


@pytest.mark.parametrize("name", [BASE, TINY])
def test_another_network_is_refused(name, cache, monkeypatch):
    monkeypatch.setitem(packaged.PACKAGED, name, replace(packaged.PACKAGED[name], sha256="0" * 64))
    with pytest.raises(PluginError, match="another model"):
        packaged.folder(name, cache)
    assert not list(cache.rglob("model.bin"))


def test_what_is_not_there_is_told(cache, monkeypatch):
    with pytest.raises(PluginError, match=r"package:whisper-base, package:whisper-tiny\.en"):
        packaged.folder("whisper-huge", cache)
    missing = replace(packaged.PACKAGED[TINY], packages={"nobody": "no-such-package"})
    monkeypatch.setitem(packaged.PACKAGED, TINY, missing)
    assert packaged.installed() == [BASE]
    with pytest.raises(PluginError, match=r"no-such-package is not installed; pip install 'mer_ray\[speech-demo\]'"):
        packaged.folder(TINY, cache)
