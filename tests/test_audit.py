"""A trained style judged again: by the judge of its training, on whatever photographs there are."""

import hashlib
import json
import os
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import registry_fixtures
import torch

from fnst import audit, checkpoint, evaluation, files, gatys, images, registry, report
from fnst.errors import AssetError, CheckpointError, ImageError
from fnst.evaluation import Score
from fnst.gatys import Anchor
from fnst.images import Picture
from fnst.network import TransformerNetwork
from fnst.stylize import stylize

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")

CPU = torch.device("cpu")


@pytest.fixture
def painting(project):
    """A painting at its own path in the project."""
    path = project / "wave.png"
    images.save(Picture(torch.rand(1, 3, 64, 80)), path)
    return path


@pytest.fixture
def card(project, painting, small_vgg_file):
    """What a model of the style `wave` says of its training."""
    shutil.copy(small_vgg_file, project / "vgg.pth")
    return {
        "style": "wave",
        "training": {
            "params": {
                "style": {"image": "wave.png", "size": 48, "strength": 2, "style_weight": 5.0},
                "loss": {
                    "network": "vgg.pth",
                    "content_layer": "relu2_1",
                    "style_layers": {"relu1_1": 1.0},
                },
            },
            "style_sha256": files.sha256(painting),
            "loss_network_sha256": files.sha256(project / "vgg.pth"),
        },
    }


def photos(folder, *names, side=64):
    for name in names:
        images.save(Picture(torch.rand(1, 3, side, side + 8)), folder / name)


# --- the judge ------------------------------------------------------------------------------------


def test_the_judge_weighs_as_the_training_did(card):
    weights = audit.judge(card, CPU).loss.weights
    assert (weights.content, weights.style, weights.variation) == (1.0, 10.0, 0.0)


def test_a_card_that_is_older_than_strength_is_read(card):
    del card["training"]["params"]["style"]["strength"]
    assert audit.judge(card, CPU).loss.weights.style == 5.0


def test_the_grid_counts_as_the_card_says_and_not_where_it_says_nothing(card):
    assert audit.judge(card, CPU).loss.weights.grid == 0.0
    card["training"]["params"]["loss"]["grid_weight"] = 3.0
    assert audit.judge(card, CPU).loss.weights.grid == 3.0


def test_the_painting_is_seen_at_the_size_of_its_training(card, painting):
    expected = images.fit(images.load(painting).rgb, 48)
    assert torch.equal(audit.judge(card, CPU).painting, expected)


def test_what_fetch_brought_is_found_by_its_hash_whatever_stands_at_its_path_now(
    card, painting, project
):
    kept = project / "data/raw/styles/old-name/1234/painting.png"
    kept.parent.mkdir(parents=True)
    painting.rename(kept)
    photos(project, "wave.png")
    expected = images.fit(images.load(kept).rgb, 48)
    assert torch.equal(audit.judge(card, CPU).painting, expected)


def test_what_is_not_here_any_more_is_fetched_from_where_it_came(
    card, painting, tmp_path, monkeypatch
):
    digest = files.sha256(painting)
    source = f"https://127.0.0.1:9/wave.png#sha256={digest}"
    mirrored = tmp_path / "mirror" / hashlib.sha256(source.encode()).hexdigest()[:8] / "wave.png"
    mirrored.parent.mkdir(parents=True)
    expected = images.fit(images.load(painting).rgb, 48)
    painting.rename(mirrored)
    monkeypatch.setenv("FNST_MIRROR", str(tmp_path / "mirror"))
    card["training"]["params"]["style"]["image"] = source
    assert torch.equal(audit.judge(card, CPU).painting, expected)


def test_a_painting_that_changed_is_not_taken_for_the_one_of_the_training(card, painting):
    photos(painting.parent, "wave.png")
    sentence = rf"the painting of wave cannot be had .*wave.png with the SHA-256 {'.' * 12}\.\.\.: "
    with pytest.raises(AssetError, match=sentence) as error:
        audit.judge(card, CPU)
    assert str(error.value).endswith("put that file back, or train again.")


@pytest.mark.parametrize("missing", ["params", "style_sha256", "loss_network_sha256"])
def test_a_model_that_does_not_say_what_it_was_trained_with_is_refused(card, missing):
    del card["training"][missing]
    with pytest.raises(CheckpointError, match=f"'{missing}' is missing"):
        audit.judge(card, CPU)


# --- the photographs ------------------------------------------------------------------------------


def found(*given):
    return [Path(name).name for name, _ in audit.photographs(audit.sources_in(given))]


def test_folders_zips_and_files_are_searched_for_photographs(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    photos(tmp_path, "in/b.png", "in/deep/a.jpg", "c.png")
    (tmp_path / "in/notes.txt").write_text("no photograph")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "c.png", "d.png")
    (tmp_path / "c.png").rename(tmp_path / "c")  # named, so taken without an ending
    assert found(tmp_path / "in", tmp_path / "more.zip", tmp_path / "c") == [
        "b.png",
        "a.jpg",
        "d.png",
        "c",
    ]


def test_a_zip_that_is_named_twice_counts_once(tmp_path):
    photos(tmp_path, "a.png")
    (tmp_path / "zips").mkdir()
    archive = tmp_path / "zips/more.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.write(tmp_path / "a.png", "one/a.png")
        members.write(tmp_path / "a.png", "other/a.png")
    (tmp_path / "link.zip").symlink_to(archive)
    assert found(archive, archive, tmp_path / "zips", tmp_path / "link.zip") == ["a.png"] * 2


def test_where_there_is_no_photograph_it_is_said(tmp_path):
    with pytest.raises(ImageError, match=rf"expected photographs in {tmp_path}, found none"):
        audit.sources_in([tmp_path])


def test_what_cannot_be_judged_is_told_and_stops_no_other(tmp_path):
    photos(tmp_path, "good.png")
    photos(tmp_path, "small.png", side=40)
    (tmp_path / "broken.png").write_text("no picture")
    told = []
    missing = tmp_path / "missing.png"
    taken = audit.photographs(audit.sources_in([tmp_path, missing]), told.append)
    assert [Path(name).name for name, _ in taken] == ["good.png"]
    assert [Path(str(error).split(":")[0]).stem for error in told] == ["broken", "small", "missing"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def fnst(project, card, tmp_path, capsys, monkeypatch):
    """Run a command in a project with one version of `wave`, and with a folder of photographs."""
    from fnst import cli

    shutil.copy(Path(registry.__file__).parents[1] / "params.yaml", project)
    network = TransformerNetwork(width=2, blocks=1)
    checkpoint.save(tmp_path / "model", network, style="wave", training=card["training"])
    registry_fixtures.register(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    photos(tmp_path / "photos", "a.png", "b.png")

    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["fnst", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said
        return said

    return run


def test_programs_get_every_number_of_the_version(fnst, card, tmp_path):
    said = fnst("evaluate", "-m", 1, "--json", "--size", 64, "--size", 48, tmp_path / "photos")
    told = json.loads(said.out)
    assert (told["style"], told["version"], told["photographs"]) == ("wave", 1, 2)
    assert list(told["means"]) == ["48", "64"]
    judge = audit.judge(card, CPU)
    network = checkpoint.load(tmp_path / "model").network
    expected = list(
        evaluation.evaluate(
            partial(stylize, network),
            judge.loss,
            judge.painting,
            audit.photographs(audit.sources_in([tmp_path / "photos"])),
            [48, 64],
        )
    )
    assert told["scores"] == [evaluation.as_row(score) for score in expected]
    total = told["means"]["48"]["total"]
    assert total["low"] < total["mean"] < total["high"]
    assert total["mean"] == pytest.approx(
        sum(score.values["total"] for score in expected if score.size == 48) / 2
    )


def test_people_get_a_table_and_a_folder(fnst, tmp_path):
    said = fnst("evaluate", "-m", 1, "--size", 48, "-o", tmp_path / "judged", tmp_path / "photos")
    lines = said.out.splitlines()
    assert lines[0].split() == ["number", "48", "pixels"]
    assert lines[1].startswith("total ")
    assert lines[1].rstrip().endswith("variation and grid term: what training lowers")
    assert lines[-2].startswith("wave version 1 on 2 photographs: means")
    assert lines[-1] == f"The page with pictures: {tmp_path}/judged/index.html"
    written = sorted(path.name for path in (tmp_path / "judged").iterdir())
    assert written == ["index.html", "metrics.json", "photographs.csv", "sheet.jpg"]
    page = (tmp_path / "judged/index.html").read_text()
    assert "<h1>wave, version 1</h1>" in page
    assert "On 2 photographs, its total is" in page
    assert "Against optimisation" not in page
    assert len(files.read_rows(tmp_path / "judged/photographs.csv")) == 2
    assert files.read_json(tmp_path / "judged/metrics.json")["photographs"] == 2


def test_it_is_told_where_the_version_falls_on_the_curve_of_the_pixels(fnst, card, tmp_path):
    photos(tmp_path / "photos", "c.png")
    judged = tmp_path / "judged"
    words = ("evaluate", "-m", 1, "--size", 48, "--gatys", 3, "-o", judged, tmp_path / "photos")
    said = fnst(*words)
    told = json.loads(fnst(*words, "--json").out)
    curve = told["gatys_curve"]
    written = [float(row["total"]) for row in files.read_rows(judged / "gatys.csv")]
    assert written == pytest.approx(curve, rel=1e-5)
    assert len(curve) == 4
    assert curve[3] < curve[0]
    # the first two photographs at that size, untouched
    squares = [images.fit(images.load(tmp_path / f"photos/{name}.png").rgb, 48) for name in "ab"]
    judge = audit.judge(card, CPU)
    untouched = [evaluation.total(lambda photo: photo, judge.loss, square) for square in squares]
    assert curve[0] == pytest.approx(sum(untouched) / 2)
    paint = partial(stylize, checkpoint.load(tmp_path / "model").network)
    ours = sum(evaluation.total(paint, judge.loss, square) for square in squares) / 2
    expected = Anchor(curve, ours, [(f"{tmp_path}/photos/{name}.png", 48) for name in "ab"])
    assert expected.metrics.items() <= told.items()
    assert told["gatys_total"] == pytest.approx(ours, rel=1e-5)
    assert expected.metrics.items() <= files.read_json(judged / "metrics.json").items()
    *_, page, sentence = said.out.splitlines()
    assert page == f"The page with pictures: {judged}/index.html"
    assert sentence == report.against(expected)
    assert f"<p>{sentence}</p>" in (judged / "index.html").read_text()
    fnst("evaluate", "-m", 1, "--size", 48, "-o", judged, tmp_path / "photos")
    assert not (judged / "gatys.csv").exists()
    assert "gatys_total" not in files.read_json(judged / "metrics.json")
    assert "Against optimisation" not in (judged / "index.html").read_text()


@pytest.mark.parametrize(
    ("given", "compared", "side", "code"),
    [
        (["bad.png", "photos"], ["photos/a.png", "photos/b.png"], 48, 1),
        (["photos/b.png"], ["photos/b.png"], 48, 0),
        (["tiny.png", "photos/a.png"], ["tiny.png", "photos/a.png"], "48 to 56", 0),
        (["more.zip"], ["more.zip/d/a.png"], 48, 0),
    ],
    ids=["unreadable", "alone", "small", "zipped"],
)
def test_the_curve_is_of_the_first_photographs_that_can_be_judged(
    fnst, tmp_path, given, compared, side, code
):
    (tmp_path / "bad.png").write_text("no picture")
    photos(tmp_path, "tiny.png", side=48)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "photos/a.png", "d/a.png")
    size = 56 if "tiny.png" in given else 48
    words = ("evaluate", "-m", 1, "--size", size, "--size", 64, "--gatys", 2)
    paths = [tmp_path / name for name in given]
    names = [name if "zip" in name else f"{tmp_path}/{name}" for name in compared]
    said = fnst(*words, *paths, code=code)
    assert f"On {' and '.join(names)} at {side} pixels its total is" in said.out
    told = json.loads(fnst(*words, "--json", *paths, code=code).out)
    assert (told["gatys_size"], told["gatys_photographs"]) == (size, names)


def test_programs_get_nothing_but_json_beside_a_folder(fnst, tmp_path):
    words = ("--size", 48, "--gatys", 1, "--json", "-o", tmp_path / "judged", tmp_path / "photos")
    said = fnst("evaluate", "-m", 1, *words)
    assert len(json.loads(said.out)["gatys_curve"]) == 2
    assert f"The page with pictures: {tmp_path}/judged/index.html\n" in said.err


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped: the scores stand; what was to come after them is"),
        (
            MemoryError(),
            1,
            "error: there is not enough memory to optimise pixels of photographs of",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "48 pixels; say a smaller"),
        (RuntimeError("no memory of that"), 1, "error: something that fnst did not expect"),
    ],
    ids=["interrupt", "memory", "memory of PyTorch", "bug"],
)
def test_scores_outlive_what_ends_optimising(
    fnst, tmp_path, monkeypatch, error, code, sentence, as_json
):
    def ended(*arguments):
        raise error

    monkeypatch.setattr(gatys, "curve", ended)
    judged = tmp_path / "judged"
    words = ("--size", 48, "--gatys", 2, "-o", judged, *(["--json"] if as_json else []))
    said = fnst("evaluate", "-m", 1, *words, tmp_path / "photos", code=code)
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert len(files.read_rows(judged / "photographs.csv")) == 2
    assert "its total is" in (judged / "index.html").read_text()
    if as_json:
        told = json.loads(said.out)
        assert told["photographs"] == 2
        assert "gatys_curve" not in told
    else:
        assert said.out.splitlines()[1].startswith("total ")


def test_a_photograph_whose_name_is_no_unicode_is_judged_and_written(fnst, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "photos/a.png").rename(tmp_path / name)
    fnst("evaluate", "-m", 1, "--size", 48, "-o", tmp_path / "judged", tmp_path / name)
    (row,) = files.read_rows(tmp_path / "judged/photographs.csv")
    assert row["photo"] == f"{tmp_path}/{name}"


def test_small_photographs_are_neither_enlarged_nor_said_to_be_larger(fnst, tmp_path):
    judged = tmp_path / "judged"
    said = fnst("evaluate", "-m", 1, "--size", 256, "-o", judged, tmp_path / "photos")
    assert said.out.splitlines()[0].split() == ["number", "64", "pixels"]
    pictures = [row["picture"] for row in files.read_rows(judged / "photographs.csv")]
    assert pictures == [f"{tmp_path}/photos/{name}.png, 64 px" for name in "ab"]
    _, height = images.size_of(judged / "sheet.jpg")
    assert height == 34 + 2 * (64 + 34 + 16)


def test_the_sheet_shows_what_was_judged_at_the_largest_size(tmp_path, monkeypatch):
    taken = []

    def sheet(rows, headings):
        taken.extend((told.split(":")[0], tuple(after.shape[2:])) for told, (_, after) in rows)
        return torch.zeros(1, 3, 8, 8)

    monkeypatch.setattr(images, "sheet", sheet)
    values = dict.fromkeys([*evaluation.HEADLINES, *evaluation.NUMBERS], 0.5)
    sizes = {"a.png": [48, 64], "small.png": [48], "long.png": [48, 64]}
    scores = [Score(name, size, size, values) for name in sizes for size in sizes[name]]
    shapes = zip(sizes, [(120, 90), (60, 50), (64, 3200)], strict=True)
    named = [(name, torch.rand(1, 3, *shape)) for name, shape in shapes]
    painted = []
    audit.write(
        tmp_path, lambda photo: painted.append(photo.shape) or photo, scores, named, title="wave"
    )
    assert painted == [(1, 3, 85, 64), (1, 3, 58, 48), (1, 3, 64, 3200)]
    assert taken == [
        ("a.png, at 64 pixels", (85, 64)),
        ("small.png, at 48 pixels", (58, 48)),
        ("long.png, shown at 32 pixels; at 64 pixels", (32, 1600)),
    ]


def test_what_fnst_made_itself_is_left_out_and_counted(fnst, tmp_path):
    folder = tmp_path / "photos"
    fnst("evaluate", "-m", 1, "--size", 48, "-o", folder, folder)
    photos(folder, "a-wave-v1.png", "c-wave-v1.png", "b-side.png")
    said = fnst("evaluate", "-m", 1, "--size", 48, folder)
    assert "on 4 photographs" in said.out  # of c there is no photograph
    told = f"left alone: 2 ({folder}/a-wave-v1.png, {folder}/sheet.jpg); to judge one, name it"
    assert told in said.err.replace("\n", " ")
    said = fnst("evaluate", "-m", 1, "--size", 48, folder / "sheet.jpg")
    assert "on 1 photographs" in said.out
    assert "left alone" not in said.err


def test_results_in_a_zip_are_left_out_and_sheets_of_others_are_photographs(tmp_path):
    photos(tmp_path, "a.png", "a-wave-v1.png", "sheet.jpg")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "d/a.png")
        archive.write(tmp_path / "a-wave-v1.png", "d/a-wave-v1.png")
    (tmp_path / "a.png").unlink()
    fresh, earlier = audit.without_results(audit.sources_in([tmp_path]))
    names = [Path(name).name for name, _ in fresh]
    assert names == ["a-wave-v1.png", "a.png", "sheet.jpg"]
    assert earlier == [Path("more.zip/d/a-wave-v1.png")]


def test_a_photograph_that_is_named_twice_counts_once(fnst, tmp_path):
    folder = tmp_path / "photos"
    said = fnst("evaluate", "-m", 1, "--size", 48, folder, next(folder.iterdir()))
    assert "on 2 photographs" in said.out


def test_photographs_that_were_left_out_are_said_and_counted(fnst, tmp_path):
    (tmp_path / "photos/c.png").write_text("no picture")
    said = fnst("evaluate", "-m", 1, "--size", 48, tmp_path / "photos", code=1)
    assert "c.png: this is not a picture that can be read." in said.err
    assert said.err.endswith("error: 1 of 3 photographs were left out.\n")
    assert "on 2 photographs" in said.out


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_a_photograph_for_which_memory_does_not_suffice_is_left_out(
    fnst, tmp_path, monkeypatch, error
):
    evaluated = evaluation.evaluate

    def lacking(paint, loss, painting, photos, sizes):
        yield from evaluated(paint, loss, painting, photos, sizes[:1])
        if Path(photos[0][0]).name == "a.png":
            raise error

    monkeypatch.setattr(evaluation, "evaluate", lacking)
    words = ("--size", 48, "-o", tmp_path / "judged", tmp_path / "photos")
    said = fnst("evaluate", "-m", 1, *words, code=1)
    assert "a.png: there is not enough memory to judge it at 48 pixels; say a smaller" in said.err
    rows = files.read_rows(tmp_path / "judged" / "photographs.csv")
    assert [Path(row["photo"]).name for row in rows] == ["b.png"]


def test_the_sheet_shows_the_photographs_that_have_scores(tmp_path):
    """Whatever was left out since they were looked at first."""
    bright, dark = (torch.full((1, 3, 48, 48), level) for level in (1.0, 0.0))
    values = dict.fromkeys([*evaluation.NUMBERS, "content_relu3_1", "style_relu1_1"], 0.5)
    found = [Score("dark.png", 48, 48, values)]
    photographs = [("bright.png", bright), ("dark.png", dark)]
    audit.write(tmp_path / "judged", lambda photo: photo, found, photographs, title="wave")
    sheet = images.load(tmp_path / "judged" / "sheet.jpg").rgb
    assert sheet[:, :, 40:80, 20:60].mean() < 0.1


def test_nothing_to_judge_is_an_error(fnst, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    said = fnst("evaluate", "-m", 1, "--size", 48, tmp_path / "bad.png", code=1)
    assert said.err.endswith("error: none of the photographs could be judged.\n")
    assert said.out == ""


# --- the folder -----------------------------------------------------------------------------------


@pytest.fixture
def refused(fnst, tmp_path):
    """The error that a folder is, before any photograph is judged."""

    def run(folder, *words, given=tmp_path / "photos"):
        said = fnst("evaluate", "-m", 1, "--size", 48, "-o", folder, *words, given, code=1)
        assert said.out == ""
        assert "judging" not in said.err
        assert said.err.count("\n") == 1
        return said.err

    return run


def test_a_folder_that_cannot_be_is_known_before_the_work(refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        assert f"{folder}: expected a folder, but {tmp_path}/file is a file" in refused(folder)
    with monkeypatch.context() as locked:
        access = os.access
        locked.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
        assert f"{tmp_path}/new/deep cannot be written" in refused(tmp_path / "new/deep")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_is_said_in_a_sentence(fnst, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    words = ("--size", 48, "--json", "-o", tmp_path / "judged", tmp_path / "photos")
    said = fnst("evaluate", "-m", 1, *words, code=1)
    assert said.err.endswith(
        f"error: {tmp_path}/judged cannot be written: No space left on device.\n"
    )
    assert json.loads(said.out)["photographs"] == 2


@pytest.mark.parametrize("name", [audit.METRICS, audit.TABLE, audit.SHEET, audit.CURVE, audit.PAGE])
def test_a_file_of_somebody_else_is_replaced_only_when_that_is_said(fnst, refused, tmp_path, name):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / name).write_text("mine")
    told = f"{folder}/{name} is there already, and not from an earlier judgement; choose another "
    assert f"{told}folder, or say --overwrite to replace it." in refused(folder)
    assert (folder / name).read_text() == "mine"
    words = ("--size", 48, "--gatys", 1, "-o", folder, "--overwrite", tmp_path / "photos")
    fnst("evaluate", "-m", 1, *words)
    assert b"mine" not in (folder / name).read_bytes()


def test_a_judgement_that_was_interrupted_while_it_wrote_is_replaced(fnst, tmp_path):
    words = ("-m", 1, "--size", 48, "-o", tmp_path / "judged", tmp_path / "photos")
    fnst("evaluate", *words)
    for name in (audit.PAGE, audit.METRICS, audit.SHEET):  # the table comes first
        (tmp_path / "judged" / name).unlink()
    fnst("evaluate", *words)
    assert (tmp_path / "judged" / audit.PAGE).exists()


def test_an_earlier_judgement_is_replaced_and_a_photograph_never_is(fnst, refused, tmp_path):
    folder = tmp_path / "judged"
    for size in (48, 56):
        fnst("evaluate", "-m", 1, "--size", size, "-o", folder, tmp_path / "photos")
        assert files.read_json(folder / "metrics.json")["size"] == size
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        told = refused(place, "--overwrite", given=folder / "sheet.jpg")
        assert f"{place}/sheet.jpg is a photograph to judge" in told


def test_what_the_pipeline_wrote_is_never_replaced(refused, project):
    results = project / "data/results/wave"
    for name in (audit.METRICS, audit.TABLE, audit.PAGE):
        files.write(results / name, b"the pipeline's")
    for folder in (results, results.parent, results / "below"):
        assert "is where the pipeline has its results" in refused(folder, "--overwrite")
