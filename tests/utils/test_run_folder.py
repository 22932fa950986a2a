"""Run folders: never shared by accident, found by what was saved last."""

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from utils.errors import UserError
from utils.run_folder import RunFolder, create_run, newest_runs, open_run, run_of


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(create_run, [tmp_path / "x"] * 16))
    assert len({run.path for run in runs}) == 16 == len(list((tmp_path / "x").iterdir()))


def test_the_newest_run_is_the_one_that_saved_last(tmp_path):
    for name, age in (("a/1", 30), ("a/2", 10), ("b/1", 20), ("c", 40)):
        run = RunFolder(tmp_path / name)
        run.weights.mkdir(parents=True)
        run.last.write_bytes(b"x")
        os.utime(run.last, (1e9 - age, 1e9 - age))
    (tmp_path / "a/3/weights").mkdir(parents=True)  # nothing was saved
    assert [str(run.path.relative_to(tmp_path)) for run in newest_runs(tmp_path)] == ["a/2", "b/1", "a/1", "c"]


def test_the_run_of_a_checkpoint(tmp_path):
    assert run_of(tmp_path / "run/weights/best.pth").path == tmp_path / "run"
    assert run_of(tmp_path / "run/best.pth") is None


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="OUTPUT_DIR: "):
        create_run(tmp_path / "file")
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot create"):
        create_run(tmp_path / "file" / "x")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    for _ in range(2):  # nothing can tell that the run is in use
        run = open_run(tmp_path / "run")
    assert run.weights.is_dir()
    assert caplog.messages[0].startswith(
        f"{run}: cannot lock this run: {os.strerror(number)}; do not continue it while"
    )


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_both_answers_of_a_lock_that_is_held(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    with pytest.raises(UserError, match="another process is training this run"):
        open_run(tmp_path / "run")


def failing(number: int):
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
