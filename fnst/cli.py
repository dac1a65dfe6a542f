"""The command line: stylize pictures with registered styles, and look after the registry.

Only what a command needs is imported, inside it: `fnst stylize` with a version that was used before
starts without mlflow.
"""

import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fnst.errors import FnstError, ImageError, RegistryError, VideoError

if TYPE_CHECKING:
    from typing import TextIO

    import torch

    from fnst.batch import Job, Plan, Words
    from fnst.overlap import Done
    from fnst.progress import Update
    from fnst.studio import Painter


def _examples(*lines: str) -> str:
    """An epilog: Typer makes one paragraph of everything that is not parted by a blank line."""
    return "\n\n".join(("Examples:", *(f"- {line}" for line in lines)))


app = typer.Typer(
    help="Fast neural style transfer: repaint photographs with styles trained by `dvc repro`.",
    epilog=_examples(
        "`fnst models` lists what there is to paint with",
        "`fnst stylize photo.jpg` paints with the champion",
        "`fnst stylize --model-version 3 photo.jpg` paints with version 3",
    ),
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Style = Annotated[
    str | None,
    typer.Option("--style", "-s", help="Which style; needed only where several are registered."),
]
Number = Annotated[
    int | None,
    typer.Option("--model-version", "-m", min=1, help="A version, as `fnst models` lists them."),
]
Alias = Annotated[
    str | None, typer.Option("--alias", "-a", help="An alias; `champion` if nothing is said.")
]
Device = Annotated[
    str, typer.Option("--device", "-d", help="cpu, cuda, cuda:1, mps; auto is the best here.")
]


class Precision(StrEnum):
    """Of the convolutions."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Pixels(StrEnum):
    """What an exported file takes and gives."""

    uint8 = "uint8"
    float = "float"


class Format(StrEnum):
    """Of an exported file."""

    onnx = "onnx"


class Layout(StrEnum):
    """The order of its axes."""

    nhwc = "nhwc"
    nchw = "nchw"


DEBUG = "FNST_DEBUG"
CONTROLS = "Controls"  # the heading above them in the help


def _print_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        print(f"fnst {version('fnst')}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    debug: Annotated[  # taken out by ``main``, and declared here for the help
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Say which fnst this is."
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""


# --- stylize --------------------------------------------------------------------------------------


@app.command(
    epilog=_examples(
        "`fnst stylize photo.jpg` uses the champion of the only style",
        "`fnst stylize --model-version 3 photo.jpg` uses version 3",
        "`fnst stylize -o painted/ photos/` fills a folder with all pictures of another",
        "`fnst stylize -o painted/ 'photos/**/*.jpg'` takes what fits a pattern",
        "`fnst stylize -o wave.webp --quality 80 photo.jpg` names the result and its format",
        "`fnst stylize moving.gif clip.mp4` paints frame by frame; clips keep their sound",
        "`fnst stylize - < photo.jpg > painted.jpg` reads and writes pipes",
        "`fnst stylize --max-memory 2GB panorama.tif` paints 48 megapixels and more",
        "`fnst stylize --strength 0.5 --keep-colors photo.jpg` paints half, in the photo's colours",
        "`fnst stylize --stroke-size 2 --mask sky.png photo.jpg` paints large strokes, in the sky",
        "`fnst stylize --blend great-wave:0.7,starry-night:0.3 photo.jpg` mixes two styles",
        "`fnst stylize -m 1,2 --compare photo.jpg` shows photo and versions on one sheet",
    )
)
def stylize(
    photos: Annotated[
        list[str],  # what cannot be read is named when its turn comes, and stops no other
        typer.Argument(
            metavar="PHOTO",
            help="Pictures, clips, patterns of both, folders of pictures, or - to pipe one in.",
        ),
    ],
    style: Style = None,
    numbers: Annotated[
        str | None,
        typer.Option(
            "--model-version",
            "-m",
            metavar="N[,N...]",
            help="A version, as `fnst models` lists them; several side by side on one sheet.",
        ),
    ] = None,
    alias: Alias = None,
    strength: Annotated[
        float,
        typer.Option(
            min=0,
            max=1.5,
            help="How much is painted: 0 is the photo, 1 the painting; above it, painted again.",
            rich_help_panel=CONTROLS,
        ),
    ] = 1.0,
    keep_colors: Annotated[
        bool,
        typer.Option(
            "--keep-colors",
            help="Take the painting's strokes and the photo's colours.",
            rich_help_panel=CONTROLS,
        ),
    ] = False,
    stroke_size: Annotated[
        float,
        typer.Option(
            min=0.25,
            max=16,
            help="How large the strokes are: 2 is twice as large; the picture's size stays.",
            rich_help_panel=CONTROLS,
        ),
    ] = 1.0,
    blend: Annotated[
        str | None,
        typer.Option(
            metavar="STYLE[@VERSION][:WEIGHT],...",
            help="Mix styles, such as great-wave:0.7,starry-night:0.3; a version or alias after @.",
            rich_help_panel=CONTROLS,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            readable=False,  # read, and said what is wrong with it, where all pictures are
            help="A picture that is white where to paint and black where not; stretched to each.",
            rich_help_panel=CONTROLS,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Write a sheet with the photo beside the result.",
            rich_help_panel=CONTROLS,
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file for one photo, a folder, or - to pipe it out; beside each photo if "
            "nothing is said.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are there already.")
    ] = False,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality", "-q", min=1, max=100, help="Of JPEG, WebP and AVIF results, and of clips."
        ),
    ] = None,
    allow_huge: Annotated[
        bool,
        typer.Option(
            "--allow-huge",
            help="Take photographs and masks above 250 megapixels or 10,000 frames, and strokes so "
            "small that they need as many.",
        ),
    ] = False,
    steady: Annotated[
        bool,
        typer.Option(
            "--steady/--no-steady", help="Of clips: let strokes stay where things are the same."
        ),
    ] = True,
    device: Device = "auto",
    precision: Annotated[
        Precision,
        typer.Option(
            help="bf16 is faster where the hardware has it, and looks the same, though single "
            "pixels are tens of levels off; auto is fp32 on a CPU and bf16 on a GPU that has it."
        ),
    ] = Precision.auto,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How much memory painting may take, such as 2GB; three quarters of what is free "
            "if nothing is said. What does not fit passes in strips, less than a level off.",
        ),
    ] = None,
) -> None:
    """Repaint photographs; each comes out in its size, and in its format where fnst writes that.

    Of many, what is done is not done twice: an interrupted batch goes on where it stopped.
    """
    _check_one_way({"--model-version": numbers, "--alias": alias, "--blend": blend})
    _check_one_way({"--style": style, "--blend": blend})
    _check_project()
    from fnst import batch, clips, controls, images, memory, originals, progress, studio
    from fnst.devices import device as find_device

    words = batch.told_apart(photos, clips.is_clip, output)
    still, moving = words.photos, words.clips
    versions = [controls.Ingredient(style, version) for version in _wanted(numbers, alias)]
    if moving and (compare or len(versions) > 1):
        raise typer.BadParameter("sheets are for pictures; paint clips with one version each")
    where = find_device(device)
    most_pixels = originals.NO_LIMIT if allow_huge else images.MOST_PIXELS
    with nullcontext() if words.are_many else progress.watch_if_long("stylizing") as tell:
        painter = studio.painter(
            [controls.ingredients(blend)] if blend else [[version] for version in versions],
            controls.Controls(
                stroke_size=stroke_size,
                strength=strength,
                keep_colors=keep_colors,
                mask=controls.load_mask(mask, most_pixels) if mask else None,
                mask_name=f"mask-{mask.stem}" if mask else "",
                most_pixels=most_pixels,
            ),
            where,
            max_memory=memory.parse(max_memory) if max_memory else memory.budget(where),
            precision=precision.value,
            compare=compare,
            progress=tell if still else None,
        )
        how = _How(
            output,
            is_batch=words.are_many,
            overwrite=overwrite,
            quality=quality,
            allow_huge=allow_huge,
            steady=steady,
        )
        if words.left_out:
            how_many = f"clips in folders, left out: {words.left_out}"
            print(f"{how_many}; name them, or a pattern such as '*.mp4'", file=sys.stderr)
        failed = _paint_photos(painter, still, how) if still else 0
        failed += _paint_clips(painter, words, where, how) if moving else 0
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _How:
    """What the reader said about results."""

    output: str | None
    is_batch: bool
    overwrite: bool
    quality: int | None
    allow_huge: bool
    steady: bool


def _paint_photos(painter: "Painter", photos: Sequence[str], how: _How) -> int:
    """Paint pictures, and say so; how many could not be."""
    from fnst import batch, overlap
    from fnst.clips import is_clip

    try:
        plan = batch.plan(
            photos,
            how.output,
            painter.label,
            is_batch=how.is_batch,
            overwrite=how.overwrite,
            piped=_piped_in,
            is_clip=is_clip,
        )
    except batch.OutputError as error:
        raise typer.BadParameter(str(error)) from error
    paint = overlap.Stopwatch(painter.paint)
    finished = overlap.run(
        paint,
        plan.jobs,
        quality=how.quality,
        allow_huge=how.allow_huge,
        keeps_size=painter.keeps_size,
    )
    painted: list[Job] = []
    out = _where_to_talk(plan)
    began = time.perf_counter()
    try:
        _watch(finished, plan, painted, out)
    except KeyboardInterrupt:
        print(
            "stopped: what is painted is whole, and the same command goes on with the rest"
            if len(plan.jobs) > 1
            else "stopped: nothing was written",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    share = paint.seconds / (time.perf_counter() - began)
    return _conclude(plan, painted, painter.said, share, how.output, out)


def _paint_clips(painter: "Painter", words: "Words", where: "torch.device", how: _How) -> int:
    """Paint clips one after the other, and say so; how many could not be."""
    from fnst import overlap, reels, video

    targets = video.targets(
        words.clips,
        how.output,
        painter.label,
        below=words.below,
        is_batch=how.is_batch,
        overwrite=how.overwrite,
    )
    _say_earlier(words.earlier, sys.stdout)
    failed = painted = 0
    for clip, target in zip(words.clips, targets, strict=True):
        if target.exists() and not how.overwrite:
            print(f"done before: {target}; --overwrite paints it again")
            continue
        paint = overlap.Stopwatch(painter.paint_frame)
        try:
            done = video.stylize(
                clip,
                target,
                paint,
                made_by=painter.made_of,
                device=where,
                steady=how.steady,
                quality=reels.rate_factor(how.quality) if how.quality else reels.QUALITY,
                overwrite=how.overwrite,
            )
        except KeyboardInterrupt:
            rest = "this clip; leave out those that are done" if how.overwrite else "the rest"
            rest = "the rest" if not painted else rest
            print(f"stopped: the same command goes on with {rest}", file=sys.stderr)
            raise typer.Exit(130) from None
        except (FnstError, OSError, RuntimeError, MemoryError) as error:
            if not isinstance(error, VideoError):
                error = VideoError(f"{clip} could not be stylized: {_reason(error)}.")
            _say(error)
            failed += 1
            continue
        painted += 1
        for note in done.notes:
            print(f"note: {clip}: {note}", file=sys.stderr)
        share = paint.seconds / done.seconds
        count = f"{done.frames} frames; the network ran {share:.0%} of the time"
        print(f"Stylized with {painter.said}: {target} ({count})", flush=True)
    return failed


def _wanted(numbers: str | None, alias: str | None) -> list[str | None]:
    """The versions of ``1,2``, each once; else the alias, which may be none."""
    if numbers is None:
        return [alias]
    parts = [part.strip() for part in numbers.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"expected a version such as 3, or several as 1,2, got {numbers}")
    return [*dict.fromkeys(parts)]


def _piped_in() -> bytes:
    from fnst import batch

    if sys.stdin.isatty():
        raise typer.BadParameter("- reads a picture that is piped in, and nothing is")
    content = sys.stdin.buffer.read(batch.MOST_PIPED + 1)
    if len(content) > batch.MOST_PIPED:
        raise ImageError(f"{batch.PIPED}: expected at most {batch.MOST_PIPED:,} bytes, got more.")
    return content


def _where_to_talk(plan: "Plan") -> "TextIO":
    """Not where the picture goes."""
    if all(job.target for job in plan.jobs):
        return sys.stdout
    if sys.stdout.isatty():
        raise typer.BadParameter("a picture is not for a terminal; say -o FILE, or > FILE")
    return sys.stderr


def _watch(finished: "Iterator[Done]", plan: "Plan", painted: "list[Job]", out: "TextIO") -> None:
    """Say what becomes of each photograph as it is over, and keep those that were painted."""
    is_watched = len(plan.jobs) > 1 and sys.stderr.isatty()
    bar = _bar(len(plan.jobs)) if is_watched else nullcontext()
    with closing(finished), bar as update:  # type: ignore[type-var]  # a generator
        for index, done in enumerate(finished, 1):
            if update:
                update(index, done.job.name)
            for note in _notes(done):
                print(f"note: {done.job.name}: {note}", file=sys.stderr)
            if done.error:
                _say(done.error)
                continue
            painted.append(done.job)
            if not done.job.target:
                sys.stdout.buffer.write(done.content)
            elif len(plan.jobs) > 1 and not (is_watched and out.isatty()):
                print(done.job.target, file=out, flush=True)


def _notes(done: "Done") -> "Iterator[str]":
    if done.job.is_converted and not done.error:
        kind = Path(done.job.name).suffix or "such"
        yield f"became a {done.job.ending}; fnst writes no {kind} files"
    yield from done.notes


@contextmanager
def _bar(count: int) -> "Iterator[Update]":
    from fnst import progress

    with progress.watch("stylizing", count) as update:
        yield update


def _conclude(
    plan: "Plan",
    painted: "Sequence[Job]",
    version: str,
    share: float,
    output: str | None,
    out: "TextIO",
) -> int:
    """Say which version painted and where to look; how many could not be painted."""
    jobs, count = plan.jobs, len(painted)
    _say_earlier(plan.earlier, out)
    if plan.done:
        print(f"done before: {plan.done}; --overwrite paints them again", file=out)
    if count and len(jobs) == 1:
        print(f"Stylized with {version}: {painted[0].target or 'piped out'}", file=out)
    elif count:
        where = f"in {Path(output)}{os.sep}" if output else "beside the photos"
        print(
            f"{count} of {len(jobs)} photos stylized with {version}, {where}; "
            f"the network ran {share:.0%} of the time",
            file=out,
        )
    elif not jobs:
        print("Nothing is left to paint.", file=out)
    if count < len(jobs) and len(jobs) > 1:
        _say(ImageError(f"{len(jobs) - count} of {len(jobs)} photos could not be stylized."))
    return len(jobs) - count


def _say_earlier(earlier: Sequence[Path], out: "TextIO", verb: str = "paint") -> None:
    """With names: somebody's own photograph may be called like a result."""
    if earlier:
        some = ", ".join(map(str, earlier[:3])) + (", ..." if len(earlier) > 3 else "")
        count = f"results of earlier runs, left alone: {len(earlier)} ({some})"
        print(f"{count}; to {verb} one, name it alone", file=out)


# --- the registry ---------------------------------------------------------------------------------


@app.command(
    epilog=_examples("`fnst models --style great-wave`", "`fnst models --json | jq '.[0].metrics'`")
)
def models(
    style: Annotated[str | None, typer.Option("--style", "-s", help="Only this style.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a JSON list.")] = False,
) -> None:
    """List the registered styles and their versions, with what they scored on held-out photos."""
    _check_project()
    from fnst import files, registry

    found = registry.versions(style)
    if as_json:
        rows = [
            {
                "style": v.style,
                "version": v.number,
                "aliases": list(v.aliases),
                "created": v.created.isoformat(),
                "run_id": v.run_id,
                "gate": str(v.verdict) if v.verdict else None,
                "forced": v.forced,
                "metrics": v.metrics,
            }
            for v in found
        ]
        print(files.as_json(rows))
    elif not found:
        print("No model is registered yet; `make run` (or `dvc repro`) makes one.")
    else:
        _table(found)


def _table(found: Sequence[Any]) -> None:
    from fnst import registry

    table = _plain_table(
        ("style", "version", "alias", "gate", "registered"), ("content", "style loss", "total")
    )
    for v in found:
        numbers = [f"{v.metrics[k]:.3f}" if k in v.metrics else "" for k in ("content", "style")]
        total = f"{v.metrics['total']:.3f}" if "total" in v.metrics else ""
        share = f" ({v.metrics['relative_total']:.0%})" if "relative_total" in v.metrics else ""
        moment = v.created.astimezone().strftime("%Y-%m-%d %H:%M")
        aliases = ", ".join(v.aliases)
        forced = v.forced and v.refused and registry.CHAMPION in v.aliases
        gate = "forced" if forced else v.verdict.word if v.verdict else ""
        table.add_row(v.style, str(v.number), aliases, gate, moment, *numbers, total + share)
    _print_wide(table)
    print("\nLosses on held-out photographs; in brackets, the share of the untouched ones' loss.")


def _plain_table(words: Sequence[str], numbers: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _print_wide(table: Any) -> None:
    """Wider than any table: a narrow terminal wraps lines, where rich would cut the words."""
    from rich.console import Console

    Console(width=1000, highlight=False).print(table)


@app.command(epilog=_examples("`fnst show`", "`fnst show --model-version 3`"))
def show(style: Style = None, number: Number = None, alias: Alias = None) -> None:
    """Show a version's model card: what it is, what it scored, where it comes from."""
    _check_one_way({"--model-version": number, "--alias": alias})
    _check_project()
    from fnst import registry

    style = style or registry.only_style()
    version = registry.get(style, number) if number else _aliased(style, alias)
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    print(f"{version.style} version {version.number}{aliases}, run {version.run_id}")
    if version.verdict:
        print(f"gate: {version.verdict}")
    if version.forced:
        print(f"made champion {version.forced}")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(version.card))
    else:
        print(version.card)


def _aliased(style: str, alias: str | None) -> Any:
    from fnst import registry

    wanted, found = alias or registry.CHAMPION, registry.versions(style)
    for version in found:
        if wanted in version.aliases:
            return version
    numbers = ", ".join(str(version.number) for version in found)
    raise RegistryError(f"Style {style} has no alias {wanted!r}; its versions: {numbers}.")


@app.command(
    epilog=_examples(
        "`fnst promote 2`",
        "`fnst promote 2 --style great-wave`",
        "`fnst promote 2 --force` although the gate refused it",
    )
)
def promote(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The new champion.")],
    style: Style = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Even a version that the gate refused; who did so is written on it."
        ),
    ] = False,
) -> None:
    """Make a version the champion, which is what `fnst stylize` uses when none is named."""
    _check_project()
    from fnst import registry

    version = registry.promote(style or registry.only_style(), number, force=force)
    although = f", although it was {version.verdict}" if version.refused else ""
    print(f"{version.style}: version {version.number} is the champion now{although}")


@app.command(epilog=_examples("`fnst ui`", "`fnst ui --port 8080`"))
def ui(
    port: Annotated[
        int, typer.Option("--port", "-p", min=1, max=65535, help="The port to listen on.")
    ] = 5000,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; 0.0.0.0 lets others connect.")
    ] = "127.0.0.1",
) -> None:
    """Open MLflow's UI on this project's store: runs, curves, sample pictures, versions."""
    _check_project()
    from fnst import registry

    raise typer.Exit(registry.serve_ui(host, port))


@app.command(
    epilog=_examples("`fnst needs`", "`fnst needs --recipe coco` before you choose that recipe")
)
def needs(
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Instead of that of params.yaml.")
    ] = None,
) -> None:
    """Say what a recipe needs: what is here, what has to be transferred, whether it fits.

    Asks no server. Exit code 1 when the disk is too small.
    """
    from dataclasses import replace

    from fnst import needs as need
    from fnst import params

    wanted = params.load()
    wanted = replace(wanted, recipe=recipe or wanted.recipe)
    data = params.project_root() / "data"
    found = need.needs(wanted, data)
    _needs_table(found.each)
    print(f"\n{found.summary} in {data}")
    need.check_room(found, data)
    print("`dvc repro` fetches it; interrupted, it goes on where it stopped.")


def _needs_table(found: Sequence[Any]) -> None:
    from fnst.files import readable

    table = _plain_table(("for", "source"), ("photographs", "to transfer"))
    table.add_column("where it is")
    for each in found:
        count = "" if each.photographs is None else f"{each.photographs:,}"
        cost = "unknown" if each.transfer is None else readable(each.transfer)
        table.add_row(each.use, each.source, count, cost, each.whence)
    _print_wide(table)


@app.command(
    epilog=_examples(
        "`fnst evaluate holiday/` judges the champion on all photographs of a folder",
        "`fnst evaluate -m 3 --size 256 --size 512 -o judged/ photos.zip`",
        "`fnst evaluate --gatys 40 -o judged/ holiday/` compares with optimising pixels as well",
        "`fnst evaluate --json *.jpg | jq '.means[\"256\"].total'`",
    )
)
def evaluate(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTOS", readable=False, help="Photographs, folders or zips."),
    ],
    style: Style = None,
    number: Number = None,
    alias: Alias = None,
    sizes: Annotated[
        list[int],
        typer.Option("--size", min=48, max=4096, help="Short side, pixels; may be said again."),
    ] = [256],  # noqa: B006  # Typer copies it
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="For a page with pictures, and its numbers."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace files there that are not from an earlier judgement."
        ),
    ] = False,
    gatys: Annotated[
        int,
        typer.Option(
            "--gatys",
            min=0,
            max=1000,
            metavar="N",
            help="Compare with N iterations of L-BFGS on the pixels of the first two photographs, "
            "at the smallest --size.",
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    device: Device = "auto",
) -> None:
    """Judge a version on any photographs, by what judged it when it was trained.

    With the painting, the loss network and the weights of its training, whatever params.yaml says.
    Photographs are judged whole, where the pipeline judges squares. Results of fnst's own that lie
    among them are left out.
    """
    _check_one_way({"--model-version": number, "--alias": alias})
    _check_project()
    from fnst import audit, evaluation, files, report, studio
    from fnst.devices import device as find_device
    from fnst.progress import watch
    from fnst.stylize import stylize as paint

    found, earlier = audit.without_results(audit.sources_in(photos))
    if output:
        audit.check_folder(output, found, overwrite=overwrite)
    _say_earlier(earlier, sys.stderr, verb="judge")
    where = find_device(device)
    missing: list[ImageError] = []

    def leave_out(error: ImageError) -> None:
        _say(error)
        missing.append(error)

    model, trained = studio.load(style, number, alias)
    judge = audit.judge(trained.card, where)
    painter = partial(paint, trained.network.to(where))
    with watch("judging", len(found)) as update:
        scores = audit.scores(painter, judge, found, sizes, progress=update, left_out=leave_out)
    told = {"style": model.style, "version": model.number, **audit.as_json(scores)}
    if not as_json:
        _numbers_table(told, evaluation.spans(scores))
    title = f"{model.style}, version {model.number}"
    # Whatever becomes of the rest, which may take long, the scores are told.
    try:
        if output:
            page = audit.write(output, painter, scores, audit.photographs(found), title=title)
            print(f"The page with pictures: {page}", file=sys.stderr if as_json else sys.stdout)
        if gatys:
            subjects = audit.subjects(found, min(sizes))
            with watch("optimising pixels", len(subjects) * (gatys + 1)) as update:
                anchored = audit.anchor(painter, judge, subjects, gatys, progress=update)
            told |= audit.anchor_as_json(anchored, min(sizes))
            if not as_json:
                print(report.against(anchored))
            if output:
                audit.write_anchor(output, scores, anchored, title=title)
    except KeyboardInterrupt:
        print("stopped: the scores stand; what was to come after them is missing", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        if as_json:
            print(files.as_json(told))
    if missing:
        _say(ImageError(f"{len(missing)} of {len(found)} photographs were left out."))
        raise typer.Exit(1)


def _numbers_table(report: Mapping[str, Any], spans: Mapping[int, str]) -> None:
    from fnst.evaluation import NUMBERS

    means = report["means"]
    sizes = [f"{span} pixels" for span in spans.values()]
    table = _plain_table(("number",), [*sizes, ""])
    table.columns[-1].justify = "left"
    names = dict.fromkeys([*NUMBERS, *next(iter(means.values()))])
    for name in names:
        cells = [
            f"{m[name]['mean']:.3f} ({m[name]['low']:.3f} to {m[name]['high']:.3f})"
            for m in means.values()
        ]
        _, told = NUMBERS.get(name, ("", ""))
        table.add_row(name, *cells, told)
    _print_wide(table)
    print(
        f"\n{report['style']} version {report['version']} on {report['photographs']} photographs: "
        "means, and the 95 % intervals of the means over all such photographs.",
        flush=True,
    )


@app.command(
    epilog=_examples(
        "`fnst export` writes the champion, such as great-wave-v3.onnx",
        "`fnst export -m 3 -o wave.onnx` names version and file",
        "`fnst export --pixels float --layout nchw` takes what networks take, 0 to 1",
    )
)
def export(
    style: Style = None,
    number: Number = None,
    alias: Alias = None,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="Of the file; there is one as yet.")
    ] = Format.onnx,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PATH", help="The file, or a folder for it."),
    ] = None,
    pixels: Annotated[
        Pixels, typer.Option(help="uint8 from 0 to 255, as decoders give them, or float, 0 to 1.")
    ] = Pixels.uint8,
    layout: Annotated[
        Layout, typer.Option(help="nhwc, as decoders give them, or nchw.")
    ] = Layout.nhwc,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there already.")
    ] = False,
) -> None:
    """Write a version as an ONNX file, for browsers, phones and other runtimes.

    Any picture goes in and comes out in its size; margins and colours are part of the file. Needs
    the package onnx: `pip install 'fnst[export]'`.
    """
    _check_one_way({"--model-version": number, "--alias": alias})
    _check_project()
    from fnst import export as exporting
    from fnst import studio

    model, trained = studio.load(style, number, alias)
    target = Path(output or "")
    if target.is_dir() or (output or "").endswith(os.sep):
        target /= f"{model.style}-v{model.number}.{format.value}"
    if target.exists() and not overwrite:
        raise FnstError(f"{target} is there already; say --overwrite to replace it.")
    exporting.write(
        target,
        trained,
        version=model.number,
        pixels=pixels.value,
        layout=layout.value,
    )
    print(f"{model.style} version {model.number}: {target}")


@app.command(
    epilog=_examples(
        "`fnst sweep` draws the first style of params.yaml at strengths 0.25 to 4",
        "`fnst sweep --style great-wave --strengths 0.5,1,2 --photo cat.jpg`",
    )
)
def sweep(
    style: Annotated[
        str | None, typer.Option("--style", "-s", help="A row of params.yaml; else the first.")
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="As in 0.5,1,2; 0.25,0.5,1,2,4 if nothing is said."),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Option(readable=False, help="What to show them on; else a held-out photograph."),
    ] = None,
) -> None:
    """Train a style at several strengths, and draw content against style, a picture per point.

    Each strength takes a whole training, once. Interrupted, it goes on where it stopped.
    """
    _check_project()
    from fnst import params
    from fnst import sweep as sweeping

    wanted = _numbers(strengths) if strengths else sweeping.STRENGTHS
    style = style or next(iter(params.load().styles))
    print(f"The trade-off of {style} is in {sweeping.sweep(style, wanted, photo)}")


def _numbers(text: str) -> list[float]:
    from fnst import params

    try:
        given = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers such as 0.5,1,2, got {text!r}") from error
    return [params.read(params.Strength, number, "--strengths") for number in given]


@app.command(epilog=_examples("`fnst summary`"))
def summary() -> None:
    """Say what the last `dvc repro` made, stylize a photograph with it, and say where to look."""
    from fnst import files, params

    root = params.project_root()
    wanted = params.load()
    results = {name: root / "data" / "results" / name for name in wanted.styles}
    made = {name: path for name, path in results.items() if (path / "registered.json").exists()}
    if not made:
        raise FnstError("Nothing is registered from this folder yet; run `dvc repro` first.")
    for name, folder in made.items():
        registered = files.read_json(folder / "registered.json")
        version, weights = registered["version"], registered["weights_sha256"]
        metrics = files.read_json(folder / "metrics.json")
        which = f"--style {name} --model-version" if len(made) > 1 else "--model-version"
        print(f"\n{name}, version {version}, on {metrics['photographs']} held-out photographs:")
        print(
            f"  content {metrics['content']:.3f}, style {metrics['style']:.3f}, total "
            f"{metrics['total']:.3f}: {metrics['relative_total']:.0%} of the untouched photographs'"
        )
        print(f"  before and after    {folder / 'sheet.jpg'}")
        print(f"  curve and numbers   {folder / 'index.html'}")
        print(f"  a stylized picture  {_sample(name, version, weights, folder)}")
        print(f"  your own photo      fnst stylize {which} {version} photo.jpg")
    print("\n  runs and versions   fnst ui   (or: make ui)")
    if wanted.recipe == "laptop":
        print("  at full scale       recipe: coco   in params.yaml, then dvc repro, on a GPU")
    if sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix:
        activate = shlex.quote(str(Path(sys.prefix) / "bin" / "activate"))
        print(f"  fnst in your shell  . {activate}")


def _sample(style: str, version: int, weights: str, folder: Path) -> Path:
    """A sample photograph, stylized with this version unless these weights have done it before."""
    import torch

    from fnst import assets, batch, controls, memory, overlap, studio
    from fnst.params import project_root

    target = folder / f"stylized-{weights[:8]}.jpg"
    if not target.exists():
        raw = project_root() / "data" / "raw" / "sample"
        photo = assets.get(assets.find("sample-china"), raw)
        mixture = [controls.Ingredient(style, str(version))]
        cpu = torch.device("cpu")
        limit = memory.budget(cpu)
        painter = studio.painter([mixture], controls.Controls(), cpu, max_memory=limit)
        for done in overlap.run(painter.paint, [batch.Job(photo, target, ".jpg")]):
            if done.error:
                raise done.error
    return target


# --- what all commands share ----------------------------------------------------------------------


def _check_one_way(ways: dict[str, object]) -> None:
    said = [name for name, value in ways.items() if value is not None]
    if len(said) > 1:
        raise typer.BadParameter(f"say either {said[0]} or {said[1]}, not both")


def _check_project() -> None:
    """Without a project, a fresh empty store would be made wherever FNST_ROOT happens to point."""
    from fnst.params import project_root

    root = project_root()
    if os.environ.get("MLFLOW_TRACKING_URI") or (root / "params.yaml").is_file():
        return
    raise FnstError(
        f"{root} is no fnst project: it has no params.yaml; set FNST_ROOT to the folder that has "
        "it, or MLFLOW_TRACKING_URI to a store."
    )


def _say(error: Exception) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def main() -> None:
    """Run the command line: 0 for success, 1 when something went wrong, 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any filename
    # Pillow's opinions about files; whatever matters becomes an error of ours.
    warnings.filterwarnings("ignore", module="PIL")
    words = sys.argv[1:]
    ours = words[: words.index("--")] if "--" in words else words
    if "--debug" in ours:  # before the command or after it
        os.environ[DEBUG] = "1"
        words.remove("--debug")
    try:
        app(args=words, prog_name="fnst")
    except FnstError as error:
        _say(error)
        sys.exit(1)
    except Exception as error:
        if not os.environ.get(DEBUG):
            error = FnstError(
                f"something that fnst did not expect ({type(error).__name__}: {_reason(error)}); "
                "--debug shows where."
            )
        _say(error)
        sys.exit(1)
    finally:
        _flush()


def _flush() -> None:
    """Write out what is left; that a reader such as `head` has gone by then is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
