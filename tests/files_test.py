"""Files are whole or not there."""

import errno

import pytest

from saejax.errors import InputError
from saejax.files import atomic_write


def test_write_and_replace(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"one", b"two"):
        with atomic_write(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Not enough free space to write 22913280 bytes after offset 128"),
    ],
)
def test_full_disk_is_one_line_that_names_the_file(tmp_path, error):
    path = tmp_path / "file"
    with (
        pytest.raises(InputError, match=f"no space left on the disk while writing {path}"),
        atomic_write(path),
    ):
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["file/x", "file/x/y", "folder"])
def test_places_where_no_file_can_be(tmp_path, below):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"), atomic_write(tmp_path / below) as file:
        file.write(b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
