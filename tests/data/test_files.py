import os

import pytest

from mer_ray.data.files import MISSING, identify, locate, stat_inputs
from mer_ray.data.storage import Store
from mer_ray.types import Clip, Split


@pytest.fixture
def root(tmp_path):
    """A media root with a file at each depth, and a secret beside it."""
    root = tmp_path / "root"
    (root / "deep" / "er").mkdir(parents=True)
    for name in ("a.mp4", "deep/b.mp4", "deep/er/c.mp4"):
        (root / name).write_bytes(b"media")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.mp4").write_bytes(b"secret")
    return root


def one(root, uri):
    return locate(str(root), [uri])[uri]


@pytest.mark.parametrize("uri", ["a.mp4", "./a.mp4", "deep/b.mp4", "deep//er/./c.mp4"])
def test_what_lies_beneath_is_found(root, uri):
    place = one(root, uri)
    assert place.refused is None
    assert place.exists
    assert os.path.samefile(place.address, root / uri)
    assert one(root, str(root / uri)).exists


@pytest.mark.parametrize("uri", ["no.mp4", "deep/no.mp4", "nowhere/at/all.mp4", "a.mp4/x.mp4"])
def test_what_is_missing_is_no_refusal(root, uri):
    place = one(root, uri)
    assert place.refused is None
    assert not place.exists
    assert place.address == str(root / uri)


@pytest.mark.parametrize(
    "uri",
    [
        "../secret/s.mp4", "deep/../../secret/s.mp4", "deep/..", "deep", "deep/", ".", "/", "a\0.mp4", "x" * 5000,
        "http:a.mp4", "https://host/a.mp4", "concat:a.mp4|b.mp4", "file:a.mp4", "data:,x", "s3://bucket/a.mp4",
        "pipe:0", "C:/a.mp4", "/etc/passwd", "//etc/passwd",
    ],
)  # fmt: skip
def test_what_may_not_be_opened_is_refused(root, uri):
    place = one(root, uri)
    assert place.refused
    assert not place.exists
    assert place.address == ""


def test_symlinks_are_followed_inside_and_refused_outside(root, tmp_path):
    (root / "in.mp4").symlink_to(root / "deep" / "b.mp4")
    (root / "shortcut").symlink_to(root / "deep")
    (root / "out.mp4").symlink_to(tmp_path / "secret" / "s.mp4")
    (root / "way_out").symlink_to(tmp_path / "secret")
    (root / "deep" / "up").symlink_to("../..")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "broken.mp4").symlink_to("nothing.mp4")
    for uri in ("in.mp4", "shortcut/b.mp4", "shortcut/er/c.mp4"):
        assert one(root, uri).exists, uri
    for uri in ("out.mp4", "way_out/s.mp4", "way_out/no.mp4", "deep/up/secret/s.mp4", str(root / "way_out" / "s.mp4")):
        assert "symlink" in str(one(root, uri).refused) or "outside" in str(one(root, uri).refused), uri
    for uri in ("loop.mp4", "broken.mp4"):
        assert not one(root, uri).exists
        assert one(root, uri).refused is None


def test_a_root_that_is_itself_a_symlink(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    assert one(tmp_path / "alias", "deep/b.mp4").exists
    assert one(tmp_path / "alias", str(tmp_path / "alias" / "deep" / "b.mp4")).exists
    assert one(tmp_path / "alias", str(root / "a.mp4")).exists


def test_a_place_whose_name_is_no_text_is_refused(root, tmp_path):
    """Addresses are hashed and sent to workers as UTF-8."""
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    root.rename(odd)
    assert "UTF-8" in str(one(odd, "deep/b.mp4").refused)
    (tmp_path / "alias").symlink_to(odd)
    assert "UTF-8" in str(one(tmp_path / "alias", "a.mp4").refused)


def test_a_neighbour_with_the_same_beginning_is_outside(root, tmp_path):
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "x.mp4").touch()
    assert one(root, str(tmp_path / "root2" / "x.mp4")).refused


def test_a_pipe_is_refused(root):
    os.mkfifo(root / "pipe.mp4")
    assert "not a regular file" in str(one(root, "pipe.mp4").refused)


def test_a_very_deep_uri_does_not_exhaust_the_stack(root):
    assert not one(root, "d/" * 2000 + "a.mp4").exists


def test_identity_follows_size_and_time(root):
    path = str(root / "a.mp4")
    before = identify([path])[path]
    os.utime(path, ns=(1, 1))
    touched = identify([path])[path]
    (root / "a.mp4").write_bytes(b"longer media")
    os.utime(path, ns=(1, 1))
    grown = identify([path])[path]
    assert len({before, touched, grown, MISSING}) == 4
    assert identify([str(root / "no.mp4"), str(root / "a.mp4" / "x")]) == {
        str(root / "no.mp4"): MISSING,
        str(root / "a.mp4" / "x"): MISSING,
    }


def test_stat_inputs_covers_every_medium_of_every_clip(root):
    video, audio, faces = (str(root / name) for name in ("a.mp4", "deep/b.mp4", "no.npy"))
    clips = [
        Clip("x", Split.TRAIN, video=video, audio=audio),
        Clip("y", Split.TEST, faces=faces),
        Clip("z", Split.TEST),
    ]
    found = stat_inputs(clips)
    assert set(found) == {video, audio, faces}
    assert found[faces] == MISSING != found[video]


def test_details_of_a_folder_shallow_and_deep(root):
    assert set(Store(str(root)).details()) == {"a.mp4"}
    assert set(Store(str(root)).details(deep=True)) == {"a.mp4", "deep/b.mp4", "deep/er/c.mp4"}
    assert Store(str(root)).details("deep")["b.mp4"]["size"] == 5
    assert Store(str(root)).details("nowhere", deep=True) == {}
