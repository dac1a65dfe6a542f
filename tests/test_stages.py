"""How a stage ends when something is wrong: one sentence and an exit code."""

import errno

import pytest
import torch

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
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee there"),
            "error: there is not enough memory (CUDA out of memory. Tried to allocate 2.00 GiB.); "
            "where there is more, `dvc repro` goes on with what was kept, and with a smaller "
            "batch_size or crop a training takes less",
        ),
        (MemoryError(), "error: there is not enough memory (no more is said); where there is more"),
        (OSError("the peer went away"), "error: the peer went away; once that is mended, "),
    ],
)
def test_what_goes_wrong_is_one_sentence(error, said):
    with pytest.raises(SystemExit) as ended:
        run(failing(error))
    assert str(ended.value).startswith(said)


def test_a_mistake_of_our_own_shows_where_it_was_made():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(failing(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))


def test_an_interrupt_ends_with_its_own_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        run(failing(KeyboardInterrupt))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; `dvc repro` goes on from here\n"


def test_of_several_processes_the_first_alone_says_that_it_was_interrupted(capsys, monkeypatch):
    for rank, said in (("0", "interrupted; `dvc repro` goes on from here\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            run(failing(KeyboardInterrupt))
        assert capsys.readouterr().err == said
