"""A trained style judged again, on any photographs, as it was when it was trained.

The painting, the loss network and the weights of the terms are those of its training, whatever
params.yaml says now: the files are known by their hashes. The formulas are those of this fnst.
"""

import csv
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float

from fnst import (
    assets,
    batch,
    collection,
    criterion,
    evaluation,
    files,
    gatys,
    images,
    memory,
    params,
    report,
    sheets,
    sources,
)
from fnst.errors import AssetError, CheckpointError, ImageError
from fnst.evaluation import Score
from fnst.gatys import Anchor
from fnst.losses import PerceptualLoss
from fnst.stylize import Paint

AnySize = Float[torch.Tensor, "1 3 _ _"]  # sRGB in [0, 1]

Source = tuple[str, Path | Callable[[], bytes]]  # a photograph's name, and its file or its bytes

# What ``write`` writes.
METRICS, TABLE, SHEET = "metrics.json", "photographs.csv", "sheet.jpg"
CURVE, PAGE = "gatys.csv", "index.html"

SHOWN = 8  # photographs on a sheet
COMPARED = 2  # photographs whose pixels are optimised, as in recipe `laptop`


@dataclass(frozen=True)
class Judge:
    """What judged a style when it was trained."""

    loss: PerceptualLoss
    painting: AnySize


# --- the judge ------------------------------------------------------------------------------------


def judge(card: Mapping[str, Any], device: torch.device) -> Judge:
    """The judge of a model's training.

    Args:
        card: the model's own, see ``checkpoint.read_card``.
        device: where to judge.

    Raises:
        CheckpointError: when the card does not say what it was trained with.
        AssetError: when a file of the training cannot be had any more.
    """
    trained, name = card["training"], card["style"]
    try:
        # a training that does not speak of the grid knew of none
        said = {"grid_weight": 0.0} | trained["params"]["loss"]
        style = params.read(params.Style, trained["params"]["style"], "model.json: style")
        loss = params.read(params.Loss, said, "model.json: loss")
        of_painting, of_network = trained["style_sha256"], trained["loss_network_sha256"]
    except KeyError as error:
        raise CheckpointError(
            f"this model of {name} does not say with what it was trained ({error} is missing in "
            "its card), so it cannot be judged again; train it anew."
        ) from error
    raw = params.project_root() / "data" / "raw"
    with tempfile.TemporaryDirectory() as scratch:
        bring = partial(_bring, scratch=Path(scratch))
        picture = bring(f"the painting of {name}", style.image, of_painting, raw / "styles")
        vgg = bring(f"the loss network of {name}", loss.network, of_network, raw / "network")
        return Judge(
            criterion.loss(loss, style, picture=picture, vgg=vgg, device=device),
            criterion.painting(picture, style.size).to(device),
        )


def _bring(what: str, source: str, digest: str, fetched: Path, *, scratch: Path) -> Path:
    """The file with that hash: where `fetch` puts it, at its own path, or from where it came."""
    near = [*fetched.rglob("*"), *filter(None, [sources.local(source)])]
    for path in near:
        if path.is_file() and files.sha256(path) == digest:
            return path
    try:
        path = assets.get(sources.find(source), scratch)
    except AssetError as error:
        reason = str(error)
    else:
        if files.sha256(path) == digest:
            return path
        reason = "it is another file today"
    raise AssetError(
        f"{what} cannot be had as it was in training, {source} with the SHA-256 {digest[:12]}...: "
        f"{reason.rstrip('.')}; put that file back, or train again."
    )


# --- the photographs ------------------------------------------------------------------------------


def sources_in(given: Iterable[Path]) -> list[Source]:
    """The photographs in files, zips and folders, with all below them; nothing is decoded yet.

    A file that is named is taken whatever its ending.

    Raises:
        ImageError: when a zip cannot be opened, or there is no photograph at all.
    """
    # a photograph that is named twice counts once
    found = list(dict(each for path in given for each in _sources(path)).values())
    if not found:
        raise ImageError(f"expected photographs in {', '.join(map(str, given))}, found none.")
    return found


def _sources(path: Path) -> Iterator[tuple[tuple[Path, str], Source]]:
    """Each photograph after what tells it from others: where its file lies, and its member."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        place = file.resolve()
        if collection.is_zip(file.name):
            for entry in collection.entries(file):
                yield (place, entry.name.removeprefix(file.name)), (entry.name, entry.read)
        elif file == path or (file.is_file() and collection.is_picture(file.name)):
            yield (place, ""), (str(file), file)


def without_results(found: Sequence[Source]) -> tuple[list[Source], list[Path]]:
    """The photographs without fnst's own results among them, and those; one alone is none.

    Results are what was painted from a photograph that lies beside, and the sheets of ``write``.
    """
    if len(found) == 1:
        return list(found), []
    results = batch.results_among([Path(name) for name, _ in found])
    results |= {place for _, place in found if isinstance(place, Path) and _is_sheet(place)}
    fresh = [source for source in found if Path(source[0]) not in results]
    return fresh, [Path(name) for name, _ in found if Path(name) in results]


def _is_sheet(path: Path) -> bool:
    beside = (path.with_name(METRICS), path.with_name(TABLE))
    return path.name == SHEET and all(other.exists() for other in beside)


def photographs(
    found: Iterable[Source], left_out: Callable[[ImageError], None] = lambda error: None
) -> Iterator[tuple[str, AnySize]]:
    """Decode one photograph after another.

    Args:
        found: see ``sources_in``.
        left_out: told about each that cannot be read, or is too small; the others go on.
    """
    for name, place in found:
        try:
            photo = images.load(_opened(name, place), name=name).rgb
            evaluation.check(name, photo)
        except ImageError as error:
            left_out(error)
        else:
            yield name, photo


def _opened(name: str, place: Path | Callable[[], bytes]) -> Path | bytes:
    if isinstance(place, Path):
        return place
    try:
        return place()
    except Exception as error:  # a damaged member makes its decompressor raise almost anything
        raise ImageError(f"{name} cannot be read: {error}.") from error


# --- what comes of it -----------------------------------------------------------------------------


def scores(
    paint: Paint,
    by: Judge,
    found: Iterable[Source],
    sizes: Sequence[int],
    *,
    progress: Callable[[int, str], None],
    left_out: Callable[[ImageError], None],
) -> list[Score]:
    """Every number of every photograph at every size; see ``evaluation.evaluate``.

    Raises:
        ImageError: when no photograph was left to judge.
    """
    made: list[Score] = []
    for done, photo in enumerate(photographs(found, left_out), start=1):
        try:
            scored = list(evaluation.evaluate(paint, by.loss, by.painting, [photo], sizes))
        except (MemoryError, RuntimeError) as error:
            if not memory.is_lacking(error):
                raise
            told = f"there is not enough memory to judge it at {max(sizes)} pixels"
            left_out(ImageError(f"{photo[0]}: {told}; say a smaller --size."))
            continue
        made += scored
        progress(done, f"total {scored[-1].values['total']:.3f}")
    if not made:
        raise ImageError("none of the photographs could be judged.")
    return made


def subjects(found: Iterable[Source], size: int) -> list[tuple[str, AnySize]]:
    """The first photographs with that short side, or their own where it is smaller."""
    return [(name, _fitted(photo, size)) for name, photo in islice(photographs(found), COMPARED)]


def anchor(
    paint: Paint,
    by: Judge,
    photos: Sequence[tuple[str, AnySize]],
    iterations: int,
    *,
    progress: Callable[[int, str], None],
) -> Anchor:
    """Where the painter falls on the curve of these photographs' own pixels; see ``gatys``.

    Args:
        paint: what is judged.
        by: whose loss is lowered.
        photos: named, at the size in which they are optimised.
        iterations: of L-BFGS for each.
        progress: told after each how many are done in all, ``iterations + 1`` a photograph.

    Raises:
        ImageError: when there is not enough memory.
    """

    def told(done: int, total: float) -> None:
        progress(done, f"total {total:.3f}")

    sides = [(name, min(photo.shape[2:])) for name, photo in photos]
    try:
        here = [photo.to(by.painting.device) for _, photo in photos]
        curve = gatys.curve(by.loss, here, iterations, told)
        total = fmean(evaluation.total(paint, by.loss, photo) for photo in here)
    except (MemoryError, RuntimeError) as error:
        if not memory.is_lacking(error):
            raise
        largest = max(side for _, side in sides)
        raise ImageError(
            f"there is not enough memory to optimise pixels of photographs of {largest} pixels; "
            "say a smaller --size, or leave out --gatys."
        ) from error
    return Anchor(curve, total, sides)


def as_json(found: Sequence[Score]) -> dict[str, Any]:
    """Every number's mean at every size, with its interval, and each photograph's own."""
    means = evaluation.means(found)
    return {
        "photographs": len(evaluation.firsts(found)),
        "means": {
            str(size): {name: asdict(mean) for name, mean in by_name.items()}
            for size, by_name in means.items()
        },
        "scores": [evaluation.as_row(score) for score in found],
    }


def anchor_as_json(anchored: Anchor, size: int) -> dict[str, Any]:
    """Where the painter falls on the curve of the pixels, and that curve.

    Args:
        anchored: see ``anchor``.
        size: that was asked for; see ``subjects``.
    """
    return {
        **anchored.metrics,
        "gatys_size": size,
        "gatys_photographs": [name for name, _ in anchored.photographs],
        "gatys_curve": anchored.curve,
    }


# --- the folder -----------------------------------------------------------------------------------


def check_folder(folder: Path, found: Iterable[Source], *, overwrite: bool = False) -> None:
    """Refuse a folder that cannot be written, or has what ``write`` would destroy: before the work.

    An earlier judgement is replaced unasked, as the same command that is said again would do.

    Args:
        folder: need not exist.
        found: the photographs, which are never replaced.
        overwrite: whether other files may be.

    Raises:
        ImageError: when it is refused.
    """
    place = folder.resolve()
    if place.is_relative_to((params.project_root() / "data" / "results").resolve()):
        raise ImageError(f"{folder} is where the pipeline has its results; choose another folder.")
    near = next(each for each in (place, *place.parents) if os.access(each, os.F_OK))
    if not near.is_dir():
        raise ImageError(f"{folder}: expected a folder, but {near} is a file; choose another.")
    if not os.access(near, os.W_OK | os.X_OK):
        raise ImageError(f"{folder} cannot be written; choose another folder.")
    there = [name for name in (METRICS, TABLE, SHEET, CURVE, PAGE) if (folder / name).exists()]
    photos = {file.resolve() for _, file in found if isinstance(file, Path)}
    for name in there:
        if (folder / name).resolve() in photos:
            raise ImageError(f"{folder / name} is a photograph to judge; choose another folder.")
    is_ours = {METRICS, TABLE, PAGE} <= set(there) or _is_begun(folder, there)
    if there and not is_ours and not overwrite:
        raise ImageError(
            f"{folder / there[0]} is there already, and not from an earlier judgement; choose "
            "another folder, or say --overwrite to replace it."
        )


def _is_begun(folder: Path, there: Sequence[str]) -> bool:
    """Whether an earlier judgement was interrupted while it wrote: its table comes first."""
    try:
        return (
            TABLE in there
            and PAGE not in there
            and {"photo", "sifid"} <= set(files.read_rows(folder / TABLE)[0])
        )
    except (OSError, ValueError, IndexError, csv.Error):
        return False


def write(
    folder: Path,
    paint: Paint,
    found: Sequence[Score],
    photos: Iterable[tuple[str, AnySize]],
    *,
    title: str,
) -> Path:
    """Write the numbers, a before/after sheet, and a page that has both; the path of the page.

    Args:
        folder: where to; what an earlier judgement left there is replaced.
        paint: what was judged.
        found: its scores.
        photos: the photographs, in the order of the scores; some may have none.
        title: of the page.

    Raises:
        ImageError: when the folder cannot be written.
    """
    judged = {score.photo for score in found}
    scored = (photo for photo in photos if photo[0] in judged)
    pairs = zip(evaluation.largest(found), scored, strict=False)
    rows = [_row(paint, score, photo) for score, (_, photo) in islice(pairs, SHOWN)]
    sheet = images.Picture(images.sheet(rows, ("photograph", "painted")))
    content = images.encode(sheet, Path(SHEET).suffix)
    with _told(folder):
        files.write_rows(folder / TABLE, [evaluation.as_row(score) for score in found])
        files.write(folder / SHEET, content)
        (folder / CURVE).unlink(missing_ok=True)
        return _write_page(folder, found, title=title)


def write_anchor(folder: Path, found: Sequence[Score], anchored: Anchor, *, title: str) -> Path:
    """Write the curve of the pixels beside what ``write`` wrote, and the page anew, with it.

    Args:
        folder: that of ``write``.
        found: as there.
        anchored: where the painter falls on the curve.
        title: of the page.

    Raises:
        ImageError: when the folder cannot be written.
    """
    with _told(folder):
        files.write_rows(folder / CURVE, gatys.as_rows(anchored.curve))
        return _write_page(folder, found, anchored, title=title)


def _write_page(
    folder: Path, found: Sequence[Score], anchored: Anchor | None = None, *, title: str
) -> Path:
    metrics = evaluation.metrics(found) | (anchored.metrics if anchored else {})
    sheet = (folder / SHEET).read_bytes()
    files.write_json(folder / METRICS, metrics)
    files.write(folder / PAGE, report.page(title, found, anchored, sheet=sheet))
    return folder / PAGE


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say what keeps a folder from being written."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _fitted(photo: AnySize, size: int) -> AnySize:
    return images.fit(photo, min(size, *photo.shape[2:]))


def _row(paint: Paint, score: Score, photo: AnySize) -> tuple[str, tuple[AnySize, AnySize]]:
    """A row of the sheet: what was judged, shown smaller where it has no room."""
    judged = _fitted(photo, score.side)
    before, after = sheets.small(judged), sheets.small(paint(judged))
    return report.caption(score, min(before.shape[2:])), (before, after)
