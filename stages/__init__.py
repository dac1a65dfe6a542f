"""The pipeline's stages, run by DVC: parameters in, library calls, declared outs written."""

import os
import sys
from collections.abc import Callable

from fnst import memory
from fnst.errors import FnstError, ParamsError


def run(stage: Callable[[], None], again: str | None = None) -> None:
    """Run a stage; what goes wrong on purpose ends in one sentence and exit code 1.

    Args:
        stage: what runs.
        again: what is left to do then, if it is not `dvc repro`.
    """
    kept = again or "`dvc repro` goes on with what was kept"
    try:
        stage()
    except FnstError as error:
        sys.exit(f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        if not memory.is_lacking(error):
            raise
        reason = str(error).partition("\n")[0] or "no more is said"
        sys.exit(
            f"error: there is not enough memory ({reason}); where there is more, {kept}, and "
            "with a smaller batch_size or crop a training takes less"
        )
    except OSError as error:  # a full disk, or a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}; once that is mended, {kept}")
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # one of several says it
            print(f"interrupted; {again or '`dvc repro` goes on from here'}", file=sys.stderr)
        sys.exit(130)


def style_named() -> str:
    """The style that the command line names, for the stages that run once per style."""
    if len(sys.argv) != 2:
        raise ParamsError(
            "expected the name of a style, as in `python -m stages.train great-wave`."
        )
    return sys.argv[1]
