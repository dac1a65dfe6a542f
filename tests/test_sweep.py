"""The trade-off of content against style; the pipeline's test runs a sweep whole."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fnst import checkpoint, files, sweep
from fnst.errors import FnstError, ImageError, ParamsError
from fnst.network import TransformerNetwork
from fnst.sweep import Point

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that DVC knows nothing of."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setenv("FNST_ROOT", str(tmp_path))
    for words in ("init -q", "add .", "-c user.name=a -c user.email=b commit -qm start"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    return tmp_path


def points(count):
    colours = torch.linspace(0, 1, count)
    return [
        Point(
            2.0**i,
            0.1 * i,
            0.5 / (i + 1),
            i + 1,
            torch.ones(1, 3, 40, 60),
            colour.expand(1, 3, 40, 60),
        )
        for i, colour in enumerate(colours)
    ]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 2), (5, 2), (6, 3)])
def test_the_page_has_the_curve_and_rows_of_three_pictures(count, rows):
    with Image.open(io.BytesIO(sweep.draw("wave", points(count)))) as page:
        assert page.format == "JPEG"
        assert page.size == pytest.approx((3 * 80, 450 + rows * 110), abs=2)


def test_each_point_has_its_picture_on_the_page():
    shown = [torch.zeros(1, 3, 40, 60) for _ in range(3)]
    for channel, image in enumerate(shown):
        image[:, channel] = 1
    white = torch.ones(1, 3, 40, 60)
    page = sweep.draw("wave", [Point(1.0, 0.5, 0.5, i, white, shown[i]) for i in range(3)])
    with Image.open(io.BytesIO(page)) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for channel in range(3):
        colour = 255 * np.eye(3, dtype=int)[channel]
        assert (np.abs(pixels - colour).max(1) < 40).sum() > 500


def test_a_style_that_does_not_weigh_content_has_nothing_to_trade(project):
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["styles"]["indigo-wave"]["content_weight"] = 0
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match="expected a content_weight above 0"):
        sweep.sweep("indigo-wave", [1.0])


def test_numbers_never_stand_beside_another_picture(project, monkeypatch):
    results = project / "data/results/indigo-wave"
    for suffix in ("json", "jpg"):
        files.write(results / f"tradeoff.{suffix}", b"of before")
    monkeypatch.setattr(sweep, "train", lambda *given: points(2))

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("indigo-wave", [1.0])
    assert (results / "tradeoff.json").read_bytes() == b"of before"


def test_a_photograph_that_cannot_be_read_is_said_before_any_training(project, tmp_path):
    with pytest.raises(ImageError, match="there is no such file"):
        sweep.sweep("indigo-wave", [1.0], tmp_path / "cat.jpg")


def test_without_a_commit_nothing_is_trained(project, monkeypatch):
    shutil.rmtree(project / ".git")
    monkeypatch.setattr(sweep, "_dvc", lambda *words: pytest.fail(f"ran {words}"))
    with pytest.raises(FnstError, match="expected a git repository with a commit"):
        sweep.sweep("indigo-wave", [1.0])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FnstError, match="expected a git repository with a commit"):
        sweep.sweep("indigo-wave", [1.0])


def test_when_dvc_fails_it_is_said_what_was_run(project, capfd):
    with pytest.raises(FnstError, match=r"`dvc repro register@indigo-wave` ended with exit code"):
        sweep.sweep("indigo-wave", [1.0])
    assert "you are not inside of a DVC repository" in capfd.readouterr().err


def test_the_strength_of_a_point_is_that_of_its_training(project, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "_dvc", lambda *words: asked.append(words))
    monkeypatch.setattr(sweep, "_point", lambda style, strength, photo: points(1)[0])
    sweep.train("indigo-wave", [2.0, 0.12345678])
    trained = [words[3].partition("=")[2] for words in asked if words[0] == "exp"]
    assert trained == ["0.12345678", "2"]


def test_the_picture_of_a_point_is_painted_in_float32_on_a_gpu_as_well(project, rounding):
    network = TransformerNetwork(width=2, blocks=1)
    checkpoint.save(project / "data/models/indigo-wave", network, style="indigo-wave", training={})
    results = project / "data/results/indigo-wave"
    files.write_json(results / "metrics.json", {"content": 1.0, "relative_style": 0.5})
    files.write_json(results / "registered.json", {"version": 1})
    sweep._point("indigo-wave", 1.0, torch.rand(1, 3, 16, 16))
    assert not rounding()


FAKE = """
import subprocess, sys
child = "import pathlib, time\\ntry:\\n    pathlib.Path('begun').touch(); time.sleep(60)\\n"
child += "except KeyboardInterrupt:\\n    pathlib.Path('stopped').touch()"
subprocess.run([sys.executable, "-c", child])
"""


def test_what_dvc_runs_is_stopped_as_by_ctrl_c_when_a_sweep_is_to_end(project):
    (project / "dvc.py").write_text(FAKE)
    (project / "params.yaml").write_text("strength: 1\n")
    program = (
        "from fnst import sweep; from pathlib import Path\n"
        "with sweep._ended_by_sigterm(), sweep._kept(Path('params.yaml'), 'wave'):\n"
        "    Path('params.yaml').write_text('strength: 4')\n"
        "    sweep._dvc('exp', 'run')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{ROOT}"}
    sweeping = subprocess.Popen([sys.executable, "-c", program], cwd=project, env=environment)
    while not (project / "begun").exists():
        assert sweeping.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # until it sleeps
    sweeping.terminate()
    assert sweeping.wait(timeout=60) == 128 + signal.SIGTERM
    assert (project / "stopped").exists()
    assert (project / "params.yaml").read_text() == "strength: 1\n"


def test_params_are_as_they_were_after_an_interrupt(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("strength: 1  # mine\n")
    with contextlib.suppress(KeyboardInterrupt), sweep._kept(path, "wave"):
        path.write_text("strength: 4\n")
        raise KeyboardInterrupt
    assert path.read_text() == "strength: 1  # mine\n"


STYLES = "styles:\n  wave: {image: a.png, strength: %s}\n  day: {image: b.png, strength: %s}\n"


def test_what_was_edited_during_a_sweep_is_kept_beside_it(tmp_path, capsys):
    path = tmp_path / "params.yaml"
    path.write_text(STYLES % (1, 1))
    with sweep._kept(path, "wave"):
        path.write_text(STYLES % (4, 1))
    assert sorted(tmp_path.iterdir()) == [path]
    for number, text in enumerate((STYLES % (4, 2), "a: [", "nothing"), start=1):
        with sweep._kept(path, "wave"):
            path.write_text(text)
        edited = tmp_path / f"params-edited-{number}.yaml"
        assert edited.read_text() == text
        assert f"yours is {edited}" in capsys.readouterr().out
        assert path.read_text() == STYLES % (1, 1)


def test_params_come_back_even_where_they_were_removed(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("strength: 1\n")
    with pytest.raises(FileNotFoundError), sweep._kept(path, "wave"):
        path.unlink()
    assert path.read_text() == "strength: 1\n"
