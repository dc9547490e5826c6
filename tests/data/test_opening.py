import os
import socket

import pytest

from mer_ray.data.opening import open_beneath
from mer_ray.errors import ClipError, Reason


@pytest.fixture
def root(tmp_path):
    """A root with a file in it, and a secret beside it."""
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "deep" / "a.mp4").write_bytes(b"media")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.mp4").write_bytes(b"secret")
    return tmp_path / "root"


def refusal(path, root):
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(ClipError) as caught:
        open_beneath(str(path), str(root))
    assert len(os.listdir("/dev/fd")) == before, "what is refused is closed"
    return caught.value


def test_what_lies_beneath_is_read(root, tmp_path):
    (root / "link.mp4").symlink_to(root / "deep" / "a.mp4")
    (tmp_path / "alias").symlink_to(root)
    for path in (root / "deep" / "a.mp4", root / "link.mp4", tmp_path / "alias" / "deep" / "a.mp4"):
        for beneath in (root, tmp_path / "alias", None):
            with open_beneath(str(path), beneath and str(beneath)) as file:
                assert file.read() == b"media"


def test_a_symlink_that_leads_out_is_refused_wherever_on_the_way_it_is(root, tmp_path):
    (root / "out.mp4").symlink_to(tmp_path / "secret" / "a.mp4")
    (root / "way").symlink_to(tmp_path / "secret")
    (root / "deep" / "up").symlink_to("../..")
    for path in (root / "out.mp4", root / "way" / "a.mp4", root / "deep" / "up" / "secret" / "a.mp4"):
        error = refusal(path, root)
        assert error.reason is Reason.FORBIDDEN_FORMAT
        assert "leads out of the media root" in error.detail


def test_a_neighbour_with_the_same_beginning_is_outside(root, tmp_path):
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "x.mp4").touch()
    assert refusal(tmp_path / "root2" / "x.mp4", root).reason is Reason.FORBIDDEN_FORMAT


def test_what_is_no_plain_file_is_refused_without_waiting(root):
    os.mkfifo(root / "pipe.mp4")  # to open it would wait for a writer
    for path in (root / "pipe.mp4", root / "deep"):
        assert "no plain file" in refusal(path, root).detail


def test_what_is_not_there_is_missing(root):
    (root / "broken.mp4").symlink_to("nothing.mp4")
    for path in (root / "no.mp4", root / "deep" / "a.mp4" / "x", root / "broken.mp4"):
        assert refusal(path, root).reason is Reason.MISSING_FILE


def test_what_the_system_refuses_is_told_as_it_is(root, monkeypatch):
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.mp4")
        with pytest.raises(OSError, match="No such device"):
            open_beneath("s.mp4", str(root))
