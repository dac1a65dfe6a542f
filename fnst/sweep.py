"""The trade-off of content against style: one style trained at several strengths.

The pipeline does the work, through DVC's command line. Each strength is an experiment (`dvc exp
show` lists them) and a version in the registry; one that was trained before comes from DVC's cache,
and an interrupted sweep goes on where it stopped.
"""

import io
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import yaml
from jaxtyping import Float

from fnst import checkpoint, files, images, params
from fnst.devices import device, keep_digits
from fnst.errors import FnstError, ParamsError
from fnst.photos import Photos
from fnst.stylize import stylize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Image = Float[torch.Tensor, "1 3 _ _"]  # sRGB in [0, 1]

# From gentle to strong, each twice the one before; 1 is content weight 1 and style weight 12.
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)

# Of the page: a picture's short side, at most and at least (below it labels would meet), and an
# inch, in pixels; and how many pictures make a row.
SIDE, LEAST, DPI, COLUMNS = 384, 240, 100, 3


@dataclass(frozen=True)
class Point:
    """A style trained at one strength."""

    strength: float
    content: float
    """Held-out content loss before its weight: how far from the photographs."""
    style: float
    """Held-out style loss as a share of the untouched photographs': how far from the painting."""
    version: int
    photo: Image
    """The photograph that all points share."""
    painted: Image
    """What it makes of that."""


def sweep(style: str, strengths: Sequence[float], photo: Path | None = None) -> Path:
    """Train a style at several strengths, and draw them; the page, with its numbers beside it.

    Args:
        style: a row of params.yaml.
        strengths: each a training, unless it was made before.
        photo: what every point paints; the first held-out photograph when None.

    Raises:
        ParamsError: when there is no such style, or it does not weigh content.
        ImageError: when the photograph cannot be read.
        FnstError: when there is no git repository, or DVC fails.
    """
    given = _fitted(rgb := images.load(photo).rgb, min(rgb.shape[2:])) if photo else None
    with _ended_by_sigterm():
        return _swept(style, strengths, given)


def _swept(style: str, strengths: Sequence[float], photo: Image | None) -> Path:
    points = [*train(style, strengths, photo)]
    page = params.project_root() / "data" / "results" / style / "tradeoff.jpg"
    pictures = {"photo", "painted"}
    rows = [{k: v for k, v in vars(p).items() if k not in pictures} for p in points]
    picture = draw(style, points)
    files.write_json(page.with_suffix(".json"), rows)
    files.write(page, picture)
    _dvc("repro", _target(style))  # its own strength again, registered with the picture
    return page


def train(style: str, strengths: Sequence[float], photo: Image | None = None) -> list[Point]:
    """Train, judge and register a style at several strengths, and at its own; weakest first.

    Afterwards params.yaml is as it was; data/ is that of the last training, until `dvc repro`.
    """
    row, target = params.load().style(style), _target(style)
    if not row.content_weight:
        raise ParamsError(
            f"styles: {style}: expected a content_weight above 0, without which there is nothing "
            "to trade style against; got 0."
        )
    _check_git(params.project_root())
    # Its own strength first, so that it leads a registry in which there was no version yet.
    _dvc("repro", target)
    points = [_point(style, row.strength, photo)]
    with _kept(params.project_root() / "params.yaml", style):
        for strength in sorted(set(strengths) - {row.strength}):
            # Two plus signs: whether or not the row names a strength already. A whole number stays
            # one, as DVC knows a training by how its parameters are written.
            written = repr(strength).removesuffix(".0")
            _dvc("exp", "run", "-S", f"++styles.{style}.strength={written}", target)
            points.append(_point(style, strength, photo))
    return sorted(points, key=lambda point: point.strength)


def _fitted(photo: Image, side: int) -> Image:
    """A photograph that came with that short side, as a page shows it."""
    return images.fit(photo, min(SIDE, max(LEAST, side)))


def _target(style: str) -> str:
    return f"register@{style}"


@contextmanager
def _kept(path: Path, style: str) -> Iterator[None]:
    """Params are as they were when the block ends, however that comes but by `kill -9`.

    Where somebody else changed more than the style's strength meanwhile, theirs is put beside it.
    """
    before = path.read_bytes()
    try:
        yield
    finally:
        try:
            _put_aside(path, before, style)
        finally:
            files.write(path, before)


def _put_aside(path: Path, before: bytes, style: str) -> None:
    now = path.read_bytes()
    if _but_strength(now, style) != _but_strength(before, style):
        names = (path.with_name(f"{path.stem}-edited-{n}{path.suffix}") for n in count(1))
        edited = next(name for name in names if not name.exists())
        files.write(edited, now)
        print(f"sweep: {path.name} was edited meanwhile; it is as before, yours is {edited}")


def _but_strength(text: bytes, style: str) -> Any:
    """What params say of everything but the strength that a sweep changes."""
    try:
        values = yaml.safe_load(text)
        values["styles"][style].pop("strength", None)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return text
    return values


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """What is asked to end within the block does so in order, and takes DVC with it."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is signal.SIG_DFL:  # which would end this process without a word
        signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _check_git(root: Path) -> None:
    asked = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        found = subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        raise FnstError(
            f"{root}: expected a git repository with a commit, in which `dvc exp run` keeps what "
            'it tries; `git init && git add . && git commit -m "fnst" && make setup` makes one.'
        )


def _dvc(*words: str) -> None:
    """Run DVC in the project, with this Python for its stages, until it ends."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "dvc", *words]
    print(f"sweep: dvc {' '.join(words)}", flush=True)
    with subprocess.Popen(
        command, cwd=params.project_root(), env=os.environ | {"PATH": here}
    ) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # DVC was interrupted as well, and the training keeps its state
            process.wait()
            raise
        except SystemExit:  # of which DVC knows nothing; what it runs is to end as by Ctrl-C
            for child in psutil.Process(process.pid).children(recursive=True):
                child.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code:
        raise FnstError(
            f"`dvc {' '.join(words)}` ended with exit code {code}, for the reason that stands "
            "above; the same command goes on from there."
        )


def _point(style: str, strength: float, photo: Image | None) -> Point:
    """What lies in data/ after a training."""
    data = params.project_root() / "data"
    metrics = files.read_json(data / "results" / style / "metrics.json")
    if photo is None:
        held_out = Photos(data / "photos" / "held_out")
        photo = _fitted(held_out.whole(0), held_out.side(0))
    network = checkpoint.load(data / "models" / style).network.to(device())
    keep_digits()
    return Point(
        strength=strength,
        content=metrics["content"] / params.load().style(style).content_weight,
        style=metrics["relative_style"],
        version=files.read_json(data / "results" / style / "registered.json")["version"],
        photo=photo,
        painted=stylize(network, photo),
    )


# --- the page -------------------------------------------------------------------------------------


def draw(style: str, points: Sequence[Point]) -> bytes:
    """The curve of content against style, and below it a picture for each of its points, as JPEG.

    Args:
        style: its name.
        points: in the order of their strengths.
    """
    from matplotlib.figure import Figure

    cells = [("the photograph\n", points[0].photo), *((_label(p), p.painted) for p in points)]
    rows = math.ceil(len(cells) / COLUMNS)
    _, _, h, w = points[0].photo.shape
    width, height, curve = w / DPI + 0.2, h / DPI + 0.7, 4.5  # inches
    figure = Figure((COLUMNS * width, curve + rows * height), DPI, layout="constrained")
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[curve, *[height] * rows])
    _curve(figure.add_subplot(grid[0, :]), style, points)
    for number, (label, image) in enumerate(cells):
        row, column = divmod(number, COLUMNS)
        _picture(figure.add_subplot(grid[1 + row, column]), image, label)
    page = io.BytesIO()
    figure.savefig(page, format="jpg", pil_kwargs={"quality": 92})
    return page.getvalue()


def _label(point: Point) -> str:
    return (
        f"strength {point.strength:g}, version {point.version}\n"
        f"content {point.content:.3f}, style {point.style:.1%}"
    )


def _curve(axes: "Axes", style: str, points: Sequence[Point]) -> None:
    axes.plot([p.content for p in points], [100 * p.style for p in points], "o-", color="#23406e")
    for point in points:
        axes.annotate(
            f"{point.strength:g}",
            (point.content, 100 * point.style),
            xytext=(8, 6),
            textcoords="offset points",
            fontsize=12,
        )
    axes.set_title(f"{style}: content against style, by strength, on held-out photographs")
    axes.set_xlabel("content loss: further from the photograph to the right")
    axes.set_ylabel("style loss, % of the photograph's own")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _picture(axes: "Axes", image: Image, title: str) -> None:
    axes.imshow(image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy())
    axes.set_title(title, fontsize=12)
    axes.axis("off")
