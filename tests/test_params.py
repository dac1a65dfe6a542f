"""params.yaml: what fits comes back typed; what does not is refused where it stands."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from fnst import params
from fnst.errors import ParamsError

PROJECT = Path(__file__).parents[1]
REAL = (PROJECT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def load(tmp_path):
    """Load the real params.yaml after some of its values were changed, ``a.b.c`` by ``a.b.c``."""

    def with_changes(changes):
        values = yaml.safe_load(REAL)
        for name, value in changes.items():
            *above, last = name.split("/")
            row = values
            for key in above:
                row = row[key]
            row[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return params.load(path)

    return with_changes


# --- what fits ------------------------------------------------------------------------------------


def test_the_projects_own_params_load(monkeypatch):
    monkeypatch.delenv("FNST_ROOT", raising=False)
    loaded = params.load()
    assert loaded.recipe in loaded.recipes
    assert set(loaded.recipes) >= {"laptop", "coco", "seed"}


def test_fnst_root_says_where_params_are(monkeypatch, tmp_path):
    monkeypatch.setenv("FNST_ROOT", str(tmp_path))
    (tmp_path / "params.yaml").write_text(REAL.replace("recipe: laptop", "recipe: seed"))
    assert params.load().recipe == "seed"


def test_the_chosen_recipe_is_the_one_that_is_named(load):
    assert load({"recipe": "seed"}).chosen.network.upsampling == "transposed"
    assert load({"recipe": "coco"}).chosen.network.upsampling == "bilinear"


def test_a_style_needs_only_its_image(load):
    style = load({"styles/great-wave": {"image": "great-wave"}}).style("great-wave")
    assert style == params.Style(
        "great-wave",
        size=512,
        strength=1.0,
        content_weight=1.0,
        style_weight=12.0,
        variation_weight=0.0,
    )


def test_a_limit_of_the_gate_may_be_left_out_or_null(load):
    gate = load({"gate": {"grid_ratio": 2, "flat": None}}).gate
    assert gate == params.Gate(grid_ratio=2.0)


def test_whole_numbers_are_numbers_too(load):
    rate = load({"recipes/laptop/train/learning_rate": 1}).chosen.train.learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


@pytest.mark.parametrize(("text", "number"), [("1e-05", 1e-5), ("1e-3", 1e-3), ("0.25E1", 2.5)])
def test_scientific_notation_is_a_number_as_dvc_writes_it(tmp_path, text, number):
    path = tmp_path / "params.yaml"
    path.write_text(REAL.replace("learning_rate: 0.001", f"learning_rate: {text}"))
    assert params.load(path).chosen.train.learning_rate == number


def test_photographs_come_from_one_source_or_several(load):
    assert load({"recipes/laptop/photos/train": "my-photos"}).chosen.photos.train == ("my-photos",)
    assert load({"recipes/laptop/photos/train": ["a", "b"]}).chosen.photos.train == ("a", "b")


def test_sizes_to_judge_at_are_one_or_several(load):
    assert load({"recipes/laptop/evaluate/sizes": 256}).chosen.evaluate.sizes == (256,)
    assert load({"recipes/laptop/evaluate/sizes": [64, 96]}).chosen.evaluate.sizes == (64, 96)


def test_counts_are_numbers_or_all(load):
    assert load({"recipes/laptop/photos/train_count": 3}).chosen.photos.train_count == 3
    assert load({"recipes/laptop/photos/train_count": "all"}).chosen.photos.train_count == "all"


def test_loaded_params_cannot_be_changed(load):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load({}).recipe = "coco"


# --- what does not --------------------------------------------------------------------------------

REFUSED = {
    "a typo in a section": (
        {"recipes/laptop/train/batchsize": 4},
        r"recipes: laptop: train: unknown key 'batchsize'; did you mean 'batch_size'\?",
    ),
    "a typo at the top": ({"recipies": {}}, r"params.yaml: unknown key 'recipies'; did you mean"),
    "a key unlike any other": ({"loss/zzz": 1}, r"unknown key 'zzz'; expected one of: content_l"),
    "an unknown recipe": ({"recipe": "labtop"}, r"no recipe 'labtop'; did you mean 'laptop'\?"),
    "a text for a number": (
        {"recipes/laptop/train/crop": "big"},
        r"train: crop: expected a whole number, got 'big'",
    ),
    "a fraction for a whole number": (
        {"recipes/laptop/train/batch_size": 1.5},
        r"batch_size: expected a whole number, got 1.5",
    ),
    "yes for a whole number": (
        {"recipes/laptop/train/batch_size": True},
        r"batch_size: expected a whole number, got True",
    ),
    "yes for a number": (
        {"recipes/laptop/train/learning_rate": True},
        r"learning_rate: expected a number, got True",
    ),
    "yes for a number or null": (
        {"recipes/laptop/train/steps": True},
        r"steps: expected a whole number or null, got True",
    ),
    "a number below its range": (
        {"styles/indigo-wave/style_weight": -1},
        r"indigo-wave: style_weight: expected 0.001 or more, got -1",
    ),
    "a number above its range": (
        {"recipes/laptop/train/crop": 5000},
        r"crop: expected 32 to 4096, got 5000",
    ),
    "no number": ({"styles/indigo-wave/size": None}, r"size: expected a whole number, got None"),
    "a limit below zero": (
        {"gate/grid_ratio": -1},
        r"gate: grid_ratio: expected 0 or more or null, got -1",
    ),
    "a limit of something else": ({"gate/grids": 1}, r"gate: unknown key 'grids'; expected one"),
    "a crop that cannot be halved twice": (
        {"recipes/laptop/train/crop": 130},
        "crop: expected a multiple of 4, .* got 130",
    ),
    "no layer that counts": (
        {"loss/style_layers": {"relu1_1": 0}},
        "at least one layer that counts",
    ),
    "no strength at all": (
        {"styles/indigo-wave/strength": 0},
        r"indigo-wave: strength: expected 0.001 to 1000, got 0",
    ),
    "infinity": ({"styles/indigo-wave/style_weight": float("inf")}, r"0.001 or more, got inf"),
    "not a number": ({"styles/indigo-wave/style_weight": float("nan")}, r"0.001 or more, got nan"),
    "no photographs": (
        {"recipes/laptop/photos/train_count": 0},
        r"train_count: expected 1 or more or all, got 0",
    ),
    "a count in words": (
        {"recipes/laptop/photos/train_count": "some"},
        r"train_count: expected a whole number or all, got 'some'",
    ),
    "a number for photographs": (
        {"recipes/laptop/photos/train": 3},
        r"train: expected a text, got 3",
    ),
    "no size to judge at": (
        {"recipes/laptop/evaluate/sizes": []},
        r"sizes: expected one size or several different ones, got \[\]",
    ),
    "a size to judge at twice": (
        {"recipes/laptop/evaluate/sizes": [256, 256]},
        r"sizes: expected one size or several different ones, got \[256, 256\]",
    ),
    "a size to judge at that is too small": (
        {"recipes/laptop/evaluate/sizes": [256, 16]},
        r"sizes: expected 48 to 4096, got 16",
    ),
    "no size at which photographs are kept": (
        {"recipes/laptop/evaluate/sizes": [600, 700]},
        r"sizes: expected one of at most 512, at which held-out photographs are kept.*got 600",
    ),
    "another choice": (
        {"recipes/laptop/network/upsampling": "fold"},
        r"upsampling: expected bilinear or folded or transposed, got 'fold'",
    ),
    "nothing to begin with": (
        {"recipes/laptop/train/init": "great-wave"},
        r"init: expected base, scratch, or a registered version such as great-wave@3, got 'great-w",
    ),
    "both steps and epochs": (
        {"recipes/laptop/train/epochs": 2},
        r"either steps or epochs, the other one null; got steps: 200, epochs: 2",
    ),
    "neither steps nor epochs": (
        {"recipes/laptop/train/steps": None},
        r"either steps or epochs.*got steps: None, epochs: None",
    ),
    "a style with a space": ({"styles/great wave": {"image": "x"}}, r"got 'great wave'"),
    "a style in capitals": ({"styles/Wave": {"image": "x"}}, r"lower-case.*got 'Wave'"),
    "a style that climbs": ({"styles": {"../wave": {"image": "x"}}}, r"got '\.\./wave'"),
    "a style that is a number": ({"styles": {1: {"image": "x"}}}, r"styles: expected a text"),
    "a style without image": ({"styles/wave": {"size": 64}}, r"wave: 'image' is missing"),
    "a section that is a list": ({"loss": []}, r"loss: expected a mapping, got \[\]"),
    "layers that are a list": ({"loss/style_layers": ["relu1_1"]}, r"expected a mapping of names"),
    "a layer's weight below zero": (
        {"loss/style_layers": {"relu1_1": -1}},
        r"style_layers: relu1_1: expected 0 or more, got -1",
    ),
    "an unused recipe's typo": ({"recipes/seed/train/crop": "big"}, r"recipes: seed: train: crop"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_is_refused(load, changes, sentence):
    with pytest.raises(ParamsError, match=sentence):
        load(changes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1", "is not YAML"),
        (b"recipe: caf\xe9", "is not YAML"),
        (b"", "expected a mapping, got None"),
        (b"just a line", "expected a mapping"),
    ],
    ids=["broken", "another encoding", "empty", "text"],
)
def test_a_file_that_holds_no_params_is_refused(tmp_path, content, sentence):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=sentence):
        params.load(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"params.yaml cannot be read: No such file"):
        params.load(tmp_path / "params.yaml")


def test_without_a_style_there_is_nothing_to_do(load):
    with pytest.raises(ParamsError, match="styles: expected at least one row"):
        load({"styles": {}})


def test_an_unknown_style_gets_the_nearest_name(load):
    with pytest.raises(ParamsError, match=r"no style 'indigo-wav'; did you mean 'indigo-wave'\?"):
        load({}).style("indigo-wav")


def test_the_sentence_about_unknown_names_fits_what_is_known():
    assert params.nearest("abd", ["abc", "xyz"]) == "; did you mean 'abc'?"
    assert params.nearest("q", ["b", "a"]) == "; expected one of: a, b."
    assert params.nearest("q", []) == "; there is none yet."


# --- the file explains itself ---------------------------------------------------------------------


def leaves(kind):
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from leaves(field.type)
        else:
            yield field.name


SECTIONS = (params.Style, params.Loss, params.Gate, params.Recipe)


@pytest.mark.parametrize("name", sorted({"recipe", *(n for s in SECTIONS for n in leaves(s))}))
def test_params_yaml_says_what_it_means(name):
    """Beside the value, in the line above it, or in the table above its section."""
    beside = rf"^ *{name}: .*#"
    above = rf"^ *#.*\n *{name}:"
    table = rf"^ *#   {name} "
    assert re.search(f"{beside}|{above}|{table}", REAL, re.MULTILINE)
