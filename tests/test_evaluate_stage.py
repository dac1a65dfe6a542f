"""The stage that judges: photographs are judged, and shown, no larger than they came."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fnst import checkpoint, files, images, packing
from fnst.collection import Entry
from fnst.images import Picture
from fnst.network import TransformerNetwork
from stages import evaluate, gatys

ROOT = Path(__file__).parents[1]
NAMES = ("small.png", "middle.png", "large.png")


def photograph(name, side):
    """Noise, so that every size of it is another picture."""
    pixels = np.random.default_rng(side).integers(0, 256, (side, side + 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return Entry(name, len(stream.getvalue()), name, stream.getvalue)


@pytest.fixture
def project(tmp_path, monkeypatch, small_vgg_file):
    """A trained style, and photographs of 64, 80 and 120 pixels, all kept as squares of 96."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["styles"] = {"wave": {"image": "wave.png", "size": 64}}
    values["recipes"]["laptop"]["evaluate"]["sizes"] = [72, 96]
    values["recipes"]["laptop"]["gatys"] |= {"photographs": 1, "size": 48}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    data = tmp_path / "data"
    for name in ("styles/wave", "network"):
        (data / "raw" / name).mkdir(parents=True)
    images.save(Picture(torch.rand(1, 3, 64, 80)), data / "raw/styles/wave/wave.png")
    shutil.copy(small_vgg_file, data / "raw/network")
    network = TransformerNetwork(width=2, blocks=1)
    checkpoint.save(data / "models/wave", network, style="wave", training={})
    found = [photograph(name, side) for name, side in zip(NAMES, (64, 80, 120), strict=True)]
    held_out = packing.pack(found, data / "photos/held_out", size=96).as_json()
    files.write_json(data / "photos/report.json", {"size": 96, "held_out": held_out})
    curve = [{"iteration": i, "total": 9.0 - i} for i in range(3)]
    files.write_rows(data / "results/wave/gatys.csv", curve)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FNST_ROOT", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["stages.evaluate", "wave"])
    return tmp_path


def judged(project):
    """The rows of the photographs, and who judged them."""
    evaluate.main()
    results = project / "data/results/wave"
    return files.read_rows(results / "photographs.csv"), files.read_json(results / "judged_by.json")


def without_sides(project):
    """The set as it was packed before it said how small photographs came."""
    told = files.read_json(project / "data/photos/held_out/set.json")
    del told["smaller"]
    files.write_json(project / "data/photos/held_out/set.json", told)


def test_photographs_are_judged_up_to_the_size_that_they_came_in(project, capsys):
    rows, _ = judged(project)
    asked = [(row["photo"], row["size"]) for row in rows]
    assert asked == [
        ("small.png", "72"),
        ("middle.png", "72"),
        ("large.png", "72"),
        ("large.png", "96"),
    ]
    said = "2 of 3 photographs came smaller than 96 pixels, and are judged up to the size"
    assert said in capsys.readouterr().out


def test_the_page_names_the_photographs_of_the_curve_and_their_size(project):
    judged(project)
    page = (project / "data/results/wave/evaluation.html").read_text()
    assert "On small.png at 48 pixels its total is" in page


def test_the_sheet_shows_them_no_larger_than_they_came(project, monkeypatch):
    shown = []

    def sheet(rows, headings):
        shown.extend((caption.split(":")[0], *map(np.shape, both)) for caption, both in rows)
        return torch.zeros(1, 3, 8, 8)

    monkeypatch.setattr(images, "sheet", sheet)
    evaluate.main()
    assert [(caption, before[2:], after[2:]) for caption, before, after in shown] == [
        ("small.png, at 64 pixels", (64, 64), (64, 64)),
        ("middle.png, shown at 80 pixels; at 72 pixels", (80, 80), (80, 80)),
        ("large.png, at 96 pixels", (96, 96), (96, 96)),
    ]


def test_who_is_judged_otherwise_than_before_is_not_compared_and_others_are(project):
    """Only the first photograph is smaller than the size that makes the headlines."""
    rows, judge = judged(project)
    without_sides(project)
    before, other = judged(project)
    totals = {(row["photo"], row["size"]): row["total"] for row in before}
    assert rows[0]["total"] != totals["small.png", "72"]
    assert [row["total"] for row in rows[1:]] == [totals[r["photo"], r["size"]] for r in rows[1:]]
    assert judge != other


def test_an_enlarged_photograph_above_all_sizes_is_judged_as_ever(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("- 72", "- 56").replace("- 96", "- 64"))
    now = judged(project)
    without_sides(project)
    assert judged(project) == now


# --- the curve that it is compared with -----------------------------------------------------------


@pytest.fixture
def optimised(project, monkeypatch):
    """Two photographs to optimise, and how many were."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["recipes"]["laptop"]["gatys"] |= {"photographs": 2, "iterations": 3}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    repaint, asked = gatys.gatys.repaint, []

    def counted(*given):
        asked.append(given)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return repaint(*given)

    monkeypatch.setattr(gatys.gatys, "repaint", counted)
    return asked


def curve(project):
    return (project / "data/results/wave/gatys.csv").read_bytes()


def test_an_interrupted_curve_goes_on_at_its_photograph(project, optimised, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        gatys.main()
    gatys.main()
    assert len(optimised) == 3
    resumed = curve(project)
    assert not list(project.glob("data/results/wave/*.partial*"))
    gatys.main()
    assert len(optimised) == 5
    assert curve(project) == resumed


def test_what_was_kept_of_another_loss_is_not_gone_on_with(project, optimised):
    with pytest.raises(KeyboardInterrupt):
        gatys.main()
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["styles"]["wave"]["strength"] = 2
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    gatys.main()
    assert len(optimised) == 4
