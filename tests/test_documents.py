"""What the documents promise is there: commands, options, files, recipes."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from fnst import assets, params
from fnst.cli import app

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text()
    for name in (
        *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"),
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    )
}
TARGETS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(word):
    """Every command of the documents that begins with a word, in a block or between backticks."""
    for page in PAGES.values():
        for line in re.findall(r"^    (.+)$", page, re.MULTILINE) + re.findall(
            r"`([^`\n]+)`", page
        ):
            command = line.split("  #")[0].strip()
            if command.split(" ")[0] == word:
                yield command


@pytest.mark.parametrize("command", sorted(set(commands("make"))))
def test_a_make_target_of_the_documents_exists(command):
    assert command.split()[1] in TARGETS


def test_make_help_has_all_targets_that_were_promised():
    assert {"setup", "run", "repro", "test", "check", "fmt", "ui", "bench", "clean"} <= TARGETS


@pytest.mark.parametrize("command", sorted(set(commands("fnst"))))
def test_a_command_of_the_documents_can_be_parsed(command):
    _, name, *words = shlex.split(command)
    found = get_command(app).commands[name]
    if words:  # a name alone is talked about, not called
        found.make_context(name, words)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_tree_of_the_readme_is_the_tree():
    tree = PAGES["README.md"].split("## The tree")[1]
    listed = set(re.findall(r"^    (fnst/\w+\.py)", tree, re.MULTILINE))
    there = {f"fnst/{path.name}" for path in (ROOT / "fnst").glob("*.py")}
    assert listed == there - {"fnst/__init__.py"}


def test_the_floors_of_the_architecture_are_those_that_are_checked():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ][0]
    floors = [layer.replace("fnst.", "") for layer in contract["layers"]]
    drawn = PAGES["ARCHITECTURE.md"].split("## Floors")[1].split("## Decisions")[0]
    names = [
        re.split(r"\s{2,}", line.strip())[0]
        for line in re.findall(r"^    (.+)$", drawn, re.MULTILINE)
    ]
    assert [set(name.replace("stages.*", "stages").split(" | ")) for name in names] == [
        set(floor.split(" | ")) for floor in floors
    ]


def test_recipes_and_styles_that_the_readme_names_exist():
    known = params.load().recipes
    assert {"laptop", "coco", "seed"} <= set(known)
    for name in ("great-wave", "starry-night", "the-scream", "composition-vii"):
        assert assets.find(name).licence.startswith("public domain")


def test_the_great_wave_is_one_comment_sign_away(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("  # great-wave:", "  great-wave:"))
    assert list(params.load(tmp_path / "params.yaml").styles) == ["indigo-wave", "great-wave"]
