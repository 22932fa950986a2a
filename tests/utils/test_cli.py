"""How the tools end."""

import pytest

from utils import cli
from utils.errors import Interrupted, UserError


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (None, 0, ""),
        (2, 2, ""),
        (UserError("X: found 1, expected 2"), 2, "error: X: found 1, expected 2\n"),
        (Interrupted(15), 143, "stopped by SIGTERM\n"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "error: /x/y: Permission denied\n"),
        (ImportError("libGL.so.1: cannot open shared object file"), 2, "error: opencv-python needs libGL, which"),
    ],
)
def test_exit_codes(outcome, code, line, capfd):
    def main(argv):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == code
    err = capfd.readouterr().err
    assert err.startswith(line) and err.count("\n") == bool(line)


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), ImportError("no module"), OSError("no errno")])
def test_a_bug_keeps_its_traceback(bug):
    def main(argv):
        raise bug

    with pytest.raises(type(bug)):
        cli.run(main)
