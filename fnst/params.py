"""params.yaml as typed, frozen values; whatever does not fit is refused where it is read.

Functions further down receive plain values out of these classes, never the classes themselves.
"""

import difflib
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from fnst.errors import ParamsError


def project_root() -> Path:
    """The folder of params.yaml, mlflow.db and data/: ``FNST_ROOT``, or where fnst lies."""
    return Path(os.environ.get("FNST_ROOT") or Path(__file__).parents[1]).resolve()


@dataclass(frozen=True)
class Range:
    """The smallest and largest value allowed, both included."""

    least: int | float
    most: int | float = float("inf")


Weight = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Pixels = Annotated[int, Range(32, 4096)]
Judged = Annotated[int, Range(48, 4096)]  # pixels; below, a picture is nearly all border
Strength = Annotated[float, Range(0.001, 1000)]


@dataclass(frozen=True)
class Style:
    """One row of ``styles:``."""

    image: str  # a path, a name of the catalogue, or a URL with #sha256=
    size: Pixels = 512  # short side, pixels
    strength: Strength = 1.0  # times style_weight: the one knob of a style
    content_weight: Weight = 1.0
    style_weight: Annotated[float, Range(0.001)] = 12.0
    variation_weight: Weight = 0.0


@dataclass(frozen=True)
class Loss:
    """How a stylized picture is judged."""

    network: str  # a name of the catalogue, or a path
    content_layer: str  # such as relu3_1
    style_layers: Mapping[str, Weight]  # layer -> how much it counts
    grid_weight: Weight = 0.1  # how much a checkerboard counts

    def __post_init__(self) -> None:
        if not any(self.style_layers.values()):
            raise ParamsError(
                "loss: style_layers: expected at least one layer that counts more than 0."
            )


@dataclass(frozen=True)
class Photos:
    """Which photographs to learn from, and which to keep for judging."""

    train: tuple[str, ...]  # names of the catalogue, folders, zips; in params.yaml one or a list
    held_out: tuple[str, ...]
    train_count: Count | Literal["all"]
    held_out_count: Count | Literal["all"]
    size: Pixels  # side of the squares that are kept to learn from, pixels
    held_out_size: Judged  # of those that are kept to judge by
    seed: Annotated[int, Range(0)]


@dataclass(frozen=True)
class Network:
    """The shape of the image transformation network."""

    width: Annotated[int, Range(1, 512)]  # channels of the first layer
    blocks: Annotated[int, Range(0, 64)]  # residual blocks
    downsampling: Literal["stride", "max_pool"]
    upsampling: Literal["bilinear", "folded", "transposed"]


@dataclass(frozen=True)
class Train:
    """How long, on what and how fast to learn."""

    init: str  # what training begins with: base, scratch, or a version such as great-wave@3
    steps: Count | None  # exactly one of steps and epochs is given
    epochs: Annotated[float, Range(0.001)] | None
    batch_size: Count
    crop: Pixels  # side of the squares the network sees, pixels
    crop_scale: Annotated[float, Range(0.05, 1)]  # smallest crop, as a share of the photograph
    learning_rate: Annotated[float, Range(1e-9, 10)]
    warmup_steps: Annotated[int, Range(0)]
    precision: Literal["auto", "bf16", "fp32"]
    seed: Annotated[int, Range(0)]
    log_every: Count
    sample_every: Count

    def __post_init__(self) -> None:
        if not re.fullmatch(r"base|scratch|[a-z0-9-]+@[1-9][0-9]*", self.init):
            raise ParamsError(
                "train: init: expected base, scratch, or a registered version such as "
                f"great-wave@3, got {self.init!r}."
            )
        if (self.steps is None) == (self.epochs is None):
            raise ParamsError(
                "train: expected either steps or epochs, the other one null; "
                f"got steps: {self.steps}, epochs: {self.epochs}."
            )
        if self.crop % 4:
            raise ParamsError(
                f"train: crop: expected a multiple of 4, which the network halves twice, "
                f"got {self.crop}."
            )


@dataclass(frozen=True)
class Evaluate:
    """At which sizes the held-out photographs are judged."""

    sizes: tuple[
        Judged, ...
    ]  # sides of the judged squares, pixels; the smallest makes the headlines

    def __post_init__(self) -> None:
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise ParamsError(
                f"evaluate: sizes: expected one size or several different ones, "
                f"got {list(self.sizes)}."
            )


@dataclass(frozen=True)
class Gatys:
    """How long, and on what, the pixels themselves are optimised for comparison."""

    photographs: Count  # the first so many of the held-out ones
    size: Pixels  # side of the optimised squares, pixels
    iterations: Count  # of L-BFGS


@dataclass(frozen=True)
class Gate:
    """The most that a version may measure and still become champion; null is no limit."""

    grid_ratio: Weight | None = None  # a checkerboard's peak, over the photograph's own
    border_ratio: Weight | None = None  # the error along the border over that inside
    clipped: Weight | None = None  # the share of pixels whose every channel is at its end
    flat: Weight | None = None  # the share of the area in which nothing happens


@dataclass(frozen=True)
class Recipe:
    """What differs in scale from one recipe to the next."""

    photos: Photos
    network: Network
    train: Train
    evaluate: Evaluate
    gatys: Gatys

    def __post_init__(self) -> None:
        smallest, kept = min(self.evaluate.sizes), self.photos.held_out_size
        if smallest > kept:
            raise ParamsError(
                f"evaluate: sizes: expected one of at most {kept}, at which held-out photographs "
                f"are kept (photos: held_out_size), got {smallest} as the smallest."
            )


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    recipe: str
    styles: Mapping[str, Style]
    loss: Loss
    gate: Gate
    recipes: Mapping[str, Recipe]

    def __post_init__(self) -> None:
        if self.recipe not in self.recipes:
            raise ParamsError(
                f"params.yaml: there is no recipe {self.recipe!r}"
                + nearest(self.recipe, self.recipes)
            )
        if not self.styles:
            raise ParamsError(
                "params.yaml: styles: expected at least one row, such as "
                "`great-wave: {image: great-wave}`; got none."
            )
        for name in self.styles:
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                raise ParamsError(
                    "params.yaml: a style is named in lower-case letters, digits and dashes, "
                    f"because folders and models carry its name; got {name!r}."
                )

    @property
    def chosen(self) -> Recipe:
        """The recipe that ``recipe:`` names."""
        return self.recipes[self.recipe]

    def style(self, name: str) -> Style:
        """The row of one style; ParamsError with the nearest name when there is none."""
        if name not in self.styles:
            raise ParamsError(
                f"params.yaml: there is no style {name!r}{nearest(name, self.styles)}"
            )
        return self.styles[name]


def load(path: Path | None = None) -> Params:
    """Read and check params.yaml (the project's own by default).

    Raises:
        ParamsError: when it is missing, is no YAML, or holds a key or value that does not fit.
    """
    path = path or project_root() / "params.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    params: Params = read(Params, values, "params.yaml")
    return params


def nearest(name: str, known: Iterable[str]) -> str:
    """End a sentence about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of: {', '.join(names)}." if names else "; there is none yet."


def read(kind: Any, value: Any, where: str) -> Any:
    """Check ``value`` against the type ``kind``; ``where`` names it in errors."""
    if is_dataclass(kind):
        return _read_fields(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _read_range(arguments[1], read(arguments[0], value, where), where)
    if origin in (Union, types.UnionType):
        return _read_either(arguments, value, where)
    if origin is Literal:
        return _read_choice(arguments, value, where)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]  # one need not be written as a list
        return tuple(read(arguments[0], item, where) for item in items)
    if origin is Mapping:
        pairs = _expect(dict, value, where, "a mapping of names").items()
        return {read(str, k, where): read(arguments[1], v, f"{where}: {k}") for k, v in pairs}
    return _read_scalar(kind, value, where)


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    given = _expect(dict, value, where, "a mapping")
    known = {field.name: field for field in fields(kind)}
    for key in given:
        if key not in known:
            raise ParamsError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    missing = [n for n, field in known.items() if n not in given and field.default is MISSING]
    if missing:
        raise ParamsError(f"{where}: {missing[0]!r} is missing; see params.yaml's own comments.")
    return kind(**{k: read(known[k].type, v, f"{where}: {k}") for k, v in given.items()})


def _read_range(allowed: Range, value: int | float, where: str) -> int | float:
    if not allowed.least <= value <= allowed.most or value == float("inf"):
        most = "or more" if allowed.most == float("inf") else f"to {allowed.most:g}"
        raise ParamsError(f"{where}: expected {allowed.least:g} {most}, got {value!r}.")
    return value


def _read_either(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    wanted = []
    for kind in kinds:
        try:
            return read(kind, value, where)
        except ParamsError as error:
            wanted.append(str(error).partition(": expected ")[2].rpartition(", got ")[0])
    raise ParamsError(f"{where}: expected {' or '.join(filter(None, wanted))}, got {value!r}.")


def _read_choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise ParamsError(f"{where}: expected {' or '.join(map(str, choices))}, got {value!r}.")
    return value


NAMES = {str: "a text", int: "a whole number", float: "a number", types.NoneType: "null"}


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # dvc writes 1e-05 after YAML 1.2, and PyYAML, after 1.1, takes that for a text.
    if (
        kind is float
        and isinstance(value, str)
        and re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", value)
    ):
        return float(value)
    # `True` is an int to Python, but nobody who writes it means 1.
    wrong = isinstance(value, bool) or not isinstance(value, kind)
    if wrong:
        raise ParamsError(f"{where}: expected {NAMES[kind]}, got {value!r}.")
    return value


def _expect(kind: type, value: Any, where: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise ParamsError(f"{where}: expected {name}, got {value!r}.")
    return value
