"""Draw the pictures of README.md anew, of what `dvc repro` made: `python -m benchmarks.readme`."""

import sys

from benchmarks import ROOT
from benchmarks.gallery import beside
from benchmarks.pictures import put
from fnst import images, params
from fnst.errors import FnstError

STEPS = (0, 50, 100, 200)  # of which recipe `laptop` keeps samples


def main() -> int:
    """Draw them, and say where they are; 1 where something is missing."""
    try:
        style = next(iter(params.load().styles))
        samples = ROOT / "data" / "models" / style / "samples"
        drawn = [images.load(samples / f"step-{step:06d}.jpg").rgb for step in STEPS]
        sheet = images.load(ROOT / "data" / "results" / style / "sheet.jpg").rgb
    except FnstError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    put("training", beside(drawn))
    put("before-after", sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
