"""The command line: stylize pictures with registered styles, and look after the registry.

Only what a command needs is imported, inside it: `fnst stylize` with a version that was used before
starts without mlflow.
"""

import contextlib
import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fnst.errors import CheckpointError, FnstError, ImageError, RegistryError

if TYPE_CHECKING:
    import torch

    from fnst.controls import Controls, Ingredient
    from fnst.images import Picture
    from fnst.network import TransformerNetwork
    from fnst.progress import Update
    from fnst.shelf import Model


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


@dataclass(frozen=True)
class Painter:
    """What paints each photograph, and what to call it."""

    paint: "Callable[[Picture], Picture]"
    label: str  # in the names of results
    said: str  # to the reader


@dataclass(frozen=True)
class Job:
    """One photograph, and the file that its result becomes."""

    photo: Path
    target: Path
    is_converted: bool  # to .png, unasked, because its own format cannot be written


@app.command(
    epilog=_examples(
        "`fnst stylize photo.jpg` uses the champion of the only style",
        "`fnst stylize --model-version 3 photo.jpg` uses version 3",
        "`fnst stylize --style great-wave -o painted/ *.jpg` fills a folder",
        "`fnst stylize -o wave.png --overwrite photo.jpg` names the result",
        "`fnst stylize --max-memory 2GB panorama.tif` paints 48 megapixels and more",
        "`fnst stylize --strength 0.5 --keep-colors photo.jpg` paints half, in the photo's colours",
        "`fnst stylize --stroke-size 2 --mask sky.png photo.jpg` paints large strokes, in the sky",
        "`fnst stylize --blend great-wave:0.7,starry-night:0.3 photo.jpg` mixes two styles",
        "`fnst stylize -m 1,2 --compare photo.jpg` shows photo and versions on one sheet",
    )
)
def stylize(
    photos: Annotated[
        list[Path],  # what cannot be read is named when its turn comes, and stops no other
        typer.Argument(metavar="PHOTO", readable=False, help="Pictures to repaint."),
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
            help="A file for one photo, or a folder; beside each photo if nothing is said.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are there already.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", "-d", help="cpu, cuda, cuda:1, mps; auto is the best here.")
    ] = "auto",
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How much memory painting may take, such as 2GB; three quarters of what is free "
            "if nothing is said. Large pictures pass in strips, with the same result.",
        ),
    ] = None,
) -> None:
    """Repaint photographs; each comes out in the size it went in."""
    _check_one_way({"--model-version": numbers, "--alias": alias, "--blend": blend})
    _check_one_way({"--style": style, "--blend": blend})
    _check_project()
    from fnst import controls, memory
    from fnst.stylize import device as find_device

    where = find_device(device)
    limit = memory.parse(max_memory) if max_memory else memory.budget(where)
    steering = controls.Controls(
        stroke_size=stroke_size,
        strength=strength,
        keep_colors=keep_colors,
        mask=controls.load_mask(mask) if mask else None,
    )
    versions = [controls.Ingredient(style, version) for version in _wanted(numbers, alias)]
    mixtures = [controls.ingredients(blend)] if blend else [[version] for version in versions]
    painter = _painter(mixtures, steering, where, limit, compare=compare)
    jobs = _jobs(photos, output, painter.label)
    _check_nothing_is_lost(jobs, overwrite)
    if output:
        _make_folder(jobs[0].target.parent)
    done = _repaint(painter.paint, jobs)
    _conclude(painter, jobs, done, beside=output is None)


def _wanted(numbers: str | None, alias: str | None) -> list[str | None]:
    """The versions of ``1,2``, each once; else the alias, which may be none."""
    if numbers is None:
        return [alias]
    parts = [part.strip() for part in numbers.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"expected a version such as 3, or several as 1,2, got {numbers}")
    return [*dict.fromkeys(parts)]


def _painter(
    mixtures: "Sequence[Sequence[Ingredient]]",
    steering: "Controls",
    where: "torch.device",
    limit: int,
    *,
    compare: bool,
) -> Painter:
    """What paints with one mixture, or with several side by side on a sheet."""
    from fnst import controls, sheets, strips

    paints, labels = {}, []
    for mixture in mixtures:
        found = [_load(each.style, each.number, each.alias) for each in mixture]
        weights = [each.weight for each in mixture]
        name, label = _called([model for model, _ in found], weights)
        brushes = [
            partial(strips.stylize, network.to(where), max_memory=limit) for _, network in found
        ]
        paints[name] = controls.compose(list(zip(brushes, weights, strict=True)), steering)
        labels.append(label)
    label = "-".join(labels) + steering.label + ("-compare" if compare else "")
    return Painter(sheets.painter(paints, before=compare), label, ", ".join(paints))


def _called(models: "Sequence[Model]", weights: Sequence[float]) -> tuple[str, str]:
    """What a mixture of versions is called, and what that is in the name of a file."""
    names = [f"{model.style} version {model.number}" for model in models]
    labels = [f"{model.style}-v{model.number}" for model in models]
    if len(models) == 1:
        return names[0], labels[0]
    shares = [weight / sum(weights) for weight in weights]
    return (
        " and ".join(f"{share:.0%} {name}" for share, name in zip(shares, names, strict=True)),
        "-".join(f"{label}-{share:.2g}" for share, label in zip(shares, labels, strict=True)),
    )


def _load(
    style: str | None, number: int | None, alias: str | None
) -> "tuple[Model, TransformerNetwork]":
    """The network of a version; when the copy in the cache is damaged, it is fetched anew."""
    from fnst import checkpoint, registry

    def fetch() -> "Model":
        return registry.fetch(style, number=number, alias=alias or registry.CHAMPION)

    model = fetch()
    try:
        return model, checkpoint.load(model.folder).network
    except CheckpointError:
        shutil.rmtree(model.folder, ignore_errors=True)
        model = fetch()
        return model, checkpoint.load(model.folder).network


def _jobs(photos: Sequence[Path], output: str | None, label: str) -> list[Job]:
    from fnst import images

    jobs = []
    for photo in photos:
        keeps = photo.suffix.lower() in images.FORMATS
        name = f"{photo.stem}-{label}{photo.suffix if keeps else '.png'}"
        target = _target(photo, name, output, len(photos))
        jobs.append(Job(photo, target, is_converted=not keeps and target.name == name))
    return jobs


def _target(photo: Path, name: str, output: str | None, count: int) -> Path:
    """Where a result goes that would be called ``name`` if the reader does not name it."""
    from fnst import images

    if output is None:
        return photo.with_name(name)
    place = Path(output)
    if place.is_dir() or output.endswith(os.sep) or not place.suffix:
        return place / name
    if count == 1:
        return place
    if place.suffix.lower() in images.FORMATS:
        raise typer.BadParameter(f"--output {output} is one file, but there are {count} photos")
    return place / name


def _check_nothing_is_lost(jobs: Sequence[Job], overwrite: bool) -> None:
    """Refuse, before any work, what would destroy a photograph or a result."""
    photos = {job.photo.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        place = job.target.resolve()
        if place in photos:
            raise ImageError(f"{job.target} is a photo to repaint itself; choose another --output.")
        if place in taken:
            raise ImageError(
                f"{taken[place]} and {job.photo} would both become {job.target}; "
                "stylize them into different folders."
            )
        taken[place] = job.photo
    there = [job.target for job in jobs if job.target.exists()]
    if there and not overwrite:
        others = f" (and {len(there) - 1} others)" if len(there) > 1 else ""
        raise ImageError(f"{there[0]}{others} is there already; say --overwrite to replace it.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{folder}: this folder cannot be made: {error.strerror}.") from error


def _repaint(paint: "Callable[[Picture], Picture]", jobs: Sequence[Job]) -> int:
    """Repaint one photograph after another; one that fails is named and does not stop the rest."""
    out, done = sys.stdout, 0  # rich may put itself in stdout's place while its bar is shown
    is_watched = len(jobs) > 1 and sys.stderr.isatty()
    with _bar(len(jobs)) if is_watched else contextlib.nullcontext() as update:
        for index, job in enumerate(jobs):
            if update:
                update(index, job.photo.name)
            try:
                _repaint_one(paint, job)
            except FnstError as error:
                _say(error)
                continue
            done += 1
            if len(jobs) > 1 and not (is_watched and out.isatty()):
                print(job.target, file=out, flush=True)
        if update:
            update(len(jobs))
    return done


@contextlib.contextmanager
def _bar(count: int) -> "Iterator[Update]":
    from fnst import progress

    with progress.watch("stylizing", count) as update:
        yield update


def _repaint_one(paint: "Callable[[Picture], Picture]", job: Job) -> None:
    from fnst import images

    picture = images.load(job.photo)
    images.check_writable(job.target)
    try:
        painted = paint(picture)
    except ImageError as error:
        raise ImageError(f"{job.photo}: {error}") from error
    except (RuntimeError, MemoryError) as error:  # torch's words for a lack of memory
        raise ImageError(f"{job.photo} could not be stylized: {_reason(error)}.") from error
    images.save(painted, job.target)
    if job.is_converted:
        kind = job.photo.suffix or "such"
        print(f"note: {job.photo} became a .png; fnst writes no {kind} files", file=sys.stderr)


def _conclude(painter: Painter, jobs: Sequence[Job], done: int, *, beside: bool) -> None:
    """Say which version painted and where to look; an error when photographs failed."""
    if done and len(jobs) == 1:
        print(f"Stylized with {painter.said}: {jobs[0].target}")
    elif done:
        names = f"*-{painter.label}.*"
        where = f"beside the photos: {names}" if beside else f"in {jobs[0].target.parent}{os.sep}"
        print(f"{done} of {len(jobs)} photos stylized with {painter.said}, {where}")
    if done < len(jobs):
        if len(jobs) > 1:
            _say(ImageError(f"{len(jobs) - done} of {len(jobs)} photos could not be stylized."))
        raise typer.Exit(1)


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
    from fnst import registry

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
        print(json.dumps(rows, indent=2))
    elif not found:
        print("No model is registered yet; `make run` (or `dvc repro`) makes one.")
    else:
        _table(found)


def _table(found: Sequence[Any]) -> None:
    table = _plain_table(
        ("style", "version", "alias", "gate", "registered"), ("content", "style loss", "total")
    )
    for v in found:
        numbers = [f"{v.metrics[k]:.3f}" if k in v.metrics else "" for k in ("content", "style")]
        total = f"{v.metrics['total']:.3f}" if "total" in v.metrics else ""
        share = f" ({v.metrics['relative_total']:.0%})" if "relative_total" in v.metrics else ""
        moment = v.created.astimezone().strftime("%Y-%m-%d %H:%M")
        aliases = ", ".join(v.aliases)
        gate = "forced" if v.forced else v.verdict.word if v.verdict else ""
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
            "--force", help="Even a version that the gate refused; it is written on it by whom."
        ),
    ] = False,
) -> None:
    """Make a version the champion, which is what `fnst stylize` uses when none is named."""
    _check_project()
    from fnst import registry

    version = registry.promote(style or registry.only_style(), number, force=force)
    print(f"{version.style}: version {version.number} is the champion now")


@app.command(epilog=_examples("`fnst ui`", "`fnst ui --port 8080`"))
def ui(
    port: Annotated[
        int, typer.Option("--port", "-p", min=1, max=65535, help="Where to listen.")
    ] = 5000,
    host: Annotated[str, typer.Option("--host", help="Who may connect.")] = "127.0.0.1",
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

    from fnst import assets, controls, memory
    from fnst.params import project_root

    target = folder / f"stylized-{weights[:8]}.jpg"
    if not target.exists():
        raw = project_root() / "data" / "raw" / "sample"
        photo = assets.get(assets.find("sample-china"), raw)
        mixture = [controls.Ingredient(style, str(version))]
        cpu = torch.device("cpu")
        limit = memory.budget(cpu)
        painter = _painter([mixture], controls.Controls(), cpu, limit, compare=False)
        _repaint_one(painter.paint, Job(photo, target, is_converted=False))
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
