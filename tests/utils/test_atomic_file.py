"""Writing on file systems that cannot do everything."""

import errno
import os
import stat

import pytest

from utils.atomic_file import link_over, write_file


@pytest.fixture
def failing_sync(monkeypatch):
    """failing_sync(errno, of_folders): os.fsync of folders, or else of files, fails so."""

    def fail(number: int, of_folders: bool) -> None:
        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    return fail


@pytest.mark.parametrize("of_folders", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_what_a_file_system_cannot_sync_is_written(tmp_path, failing_sync, number, of_folders):
    failing_sync(number, of_folders)
    write_file(tmp_path / "a", "new")
    link_over(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new" and sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("of_folders", [True, False])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_is_an_error(tmp_path, failing_sync, number, of_folders):
    write_file(tmp_path / "a", "old")
    failing_sync(number, of_folders)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == ("new" if of_folders else "old")
