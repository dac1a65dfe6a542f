"""How a stage ends when something is wrong: one sentence and an exit code."""

import errno

import pytest

from fnst.errors import ParamsError
from stages import run


def failing(error):
    def stage():
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ParamsError("steps: expected a number"), "error: steps: expected a number"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: No space left on device; once that is mended, `dvc repro` goes on with what "
            "was kept",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "data/models/wave"),
            "error: data/models/wave: Permission denied; once that is mended, `dvc repro` goes on "
            "with what was kept",
        ),
        (OSError("the peer went away"), "error: the peer went away; once that is mended, "),
    ],
)
def test_what_goes_wrong_is_one_sentence(error, said):
    with pytest.raises(SystemExit) as ended:
        run(failing(error))
    assert str(ended.value).startswith(said)


def test_an_interrupt_ends_with_its_own_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        run(failing(KeyboardInterrupt))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; `dvc repro` goes on from here\n"
