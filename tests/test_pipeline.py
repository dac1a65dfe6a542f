"""The pipeline as a whole: real DVC, VGG19, photographs and registry, with tiny settings."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grimp
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from fnst import assets, files

ROOT = Path(__file__).parents[1]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DVC["stages"]


# --- dvc.yaml tells the truth ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_modules_that_it_runs(stage):
    graph = grimp.build_graph("fnst", "stages")
    modules = graph.find_upstream_modules(f"stages.{stage}") | {f"stages.{stage}"}
    files = {_file(module) for module in modules}
    spec = STAGES[stage].get("do", STAGES[stage])
    assert {dep for dep in spec["deps"] if dep.endswith(".py")} == files


def _file(module):
    path = Path(module.replace(".", "/"))
    return str(path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py"))


def test_what_a_stage_reads_is_a_source_or_what_another_stage_writes():
    specs = [spec.get("do", spec) for spec in STAGES.values()]
    kinds = ("outs", "metrics", "plots")
    outs = {
        next(iter(out)) if isinstance(out, dict) else out
        for s in specs
        for k in kinds
        for out in s.get(k, [])
    }
    for spec in specs:
        for dep in spec["deps"]:
            is_source = (ROOT / dep).exists() and not dep.startswith(("data/raw", "data/photos"))
            assert is_source or any(dep == out or dep.startswith(out + "/") for out in outs), dep


@pytest.mark.parametrize(
    ("stage", "read"),
    [("gatys", {"held_out"}), ("evaluate", {"held_out", "report.json"})],
)
def test_photographs_to_train_on_are_nothing_to_a_stage_that_never_opens_them(stage, read):
    """On MS COCO, optimising pixels again would take hours."""
    deps = map(Path, STAGES[stage]["do"]["deps"])
    assert {dep.name for dep in deps if "photos" in dep.parts} == read


# --- one project, from nothing to a stylized picture ----------------------------------------------


class Project:
    """A copy of this project in a folder of its own, with tiny settings."""

    def __init__(self, folder, home):
        self.folder = folder
        self.home = home
        self.env = {
            **{
                k: v
                for k, v in os.environ.items()
                if not k.startswith(("MLFLOW", "DVC", "FNST", "PYTHON"))
            },
            # As in a shell where another Python comes first: the environment's own must win.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FNST_CACHE": str(home / "cache"),
            "FNST_MIRROR": str(home / "mirror"),
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }

    def run(self, *command, code=0):
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stderr + done.stdout  # progress first, so that the last line is the result

    def dvc(self, *arguments, code=0):
        return self.run(sys.executable, "-m", "dvc", *arguments, code=code)

    def fnst(self, *arguments, code=0):
        return self.run(sys.executable, "-m", "fnst.cli", *arguments, code=code)

    def git(self, *arguments):
        return self.run("git", *arguments)

    def params(self, change):
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        change(values)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def weights(self, style):
        return (self.folder / "data/models" / style / "model.safetensors").read_bytes()

    def versions(self):
        return json.loads(self.fnst("models", "--json"))


def tiny(values):
    recipe = values["recipes"]["laptop"]
    recipe["photos"] |= {
        "train": ["sample-coffee", "sample-rocket"],
        "held_out": ["sample-chelsea"],
        "size": 80,
        "held_out_size": 96,
    }
    recipe["network"] |= {"width": 4, "blocks": 1}
    recipe["train"] |= {"init": "scratch", "steps": 8, "crop": 64}
    recipe["train"] |= {"log_every": 2, "sample_every": 4}
    recipe["evaluate"] |= {"sizes": [64, 96]}
    recipe["gatys"] |= {"photographs": 1, "size": 64, "iterations": 3}
    values["styles"] = {
        "one": {"image": "data/styles/indigo-wave.png", "size": 96},
        "two": {"image": "data/styles/indigo-wave.png", "size": 96, "style_weight": 6},
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder = home / "a project"  # with a space, as on many desktops
    folder.mkdir()
    for name in ("fnst", "stages", "data/styles", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", "params.yaml", "data/.gitignore", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    assets.get(assets.find("vgg19-gatys"), home / "mirror/networks")
    made = Project(folder, home)
    made.git("init", "-q")
    made.params(tiny)
    made.git("add", "-A")
    made.git("commit", "-qm", "tiny settings")
    made.output = made.dvc("repro")
    return made


def test_repro_trains_and_registers_every_style(project):
    versions = {(v["style"], v["version"]): v for v in project.versions()}
    assert set(versions) == {("one", 1), ("two", 1)}
    assert versions["one", 1]["aliases"] == ["champion"]
    judge = json.loads((project.folder / "data/results/one/judged_by.json").read_text())["parts"]
    assert judge["style.strength"] == "1"
    assert judge["photographs"].startswith("1 of 96 pixels (")
    metrics = json.loads((project.folder / "data/results/one/metrics.json").read_text())
    assert versions["one", 1]["metrics"]["total"] == pytest.approx(metrics["total"], rel=1e-4)
    assert "register one: version 1 passed: the first version of its style" in project.output


def test_training_and_held_out_photographs_are_what_params_say(project):
    report = json.loads((project.folder / "data/photos/report.json").read_text())
    assert [p["name"] for p in report["train"]["kept"]] == ["coffee.png", "rocket.jpg"]
    assert [p["name"] for p in report["held_out"]["kept"]] == ["chelsea.png"]
    assert np.load(project.folder / "data/photos/train/00000.npy").shape == (2, 80, 80, 3)
    assert np.load(project.folder / "data/photos/held_out/00000.npy").shape == (1, 96, 96, 3)


def test_what_a_stage_makes_can_be_looked_at(project):
    with Image.open(project.folder / "data/results/one/sheet.jpg") as sheet:
        assert min(sheet.size) > 96
    page = (project.folder / "data/results/one/index.html").read_text()
    assert "On 1 photograph that the network never saw" in page
    names = sorted(p.name for p in (project.folder / "data/models/one/samples").iterdir())
    assert names == ["step-000000.jpg", "step-000004.jpg", "step-000008.jpg"]


def test_a_network_is_compared_with_optimising_the_pixels(project):
    results = project.folder / "data/results/one"
    iterations = [row.split(",")[0] for row in (results / "gatys.csv").read_text().split()]
    assert iterations == ["iteration", "0", "1", "2", "3"]
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["gatys_longest"] == 3
    assert 0 <= metrics["gatys_iterations"] <= 3
    (one,) = [v for v in project.versions() if v["style"] == "one"]
    assert {"gatys_iterations", "grid_ratio", "border_ratio", "total_low"} <= one["metrics"].keys()


def test_a_photo_is_stylized_with_a_version_by_its_number(project, tmp_path):
    Image.fromarray(np.full((37, 51, 3), 90, np.uint8)).save(tmp_path / "my photo.png")
    said = project.fnst(
        "stylize", "--style", "two", "--model-version", "1", str(tmp_path / "my photo.png")
    )
    assert "two version 1" in said
    with Image.open(tmp_path / "my photo-two-v1.png") as result:
        assert result.size == (51, 37)


def test_summary_says_what_was_made_and_where_it_is(project):
    said = project.fnst("summary")
    for wanted in (
        "one, version 1",
        "two, version 1",
        "sheet.jpg",
        "stylized-",
        "fnst ui",
        "coco",
    ):
        assert wanted in said
    (picture,) = (project.folder / "data/results/two").glob("stylized-*.jpg")
    with Image.open(picture) as stylized:
        assert stylized.size == (640, 427)


def test_a_second_repro_trains_nothing(project):
    before = project.weights("one")
    said = project.dvc("repro")
    assert "Running stage 'train" not in said
    assert "Running stage 'gatys" not in said
    assert "Running stage 'evaluate" not in said
    assert project.weights("one") == before
    assert len(project.versions()) == 2


def test_photographs_that_are_fetched_and_packed_again_train_nothing_again(project):
    """On another machine, the same photographs have other times."""
    lock = (project.folder / "dvc.lock").read_text()
    for folder in ("data/raw/photos", "data/photos"):
        shutil.rmtree(project.folder / folder)
    said = project.dvc("repro")
    assert "Running stage 'fetch'" in said
    assert "Running stage 'prepare'" in said
    assert "Running stage 'train" not in said
    assert (project.folder / "dvc.lock").read_text() == lock


def test_a_style_whose_row_changed_is_trained_alone_and_becomes_a_new_version(project):
    other = project.weights("two")
    project.params(lambda values: values["styles"]["one"].update(style_weight=24))
    assert "style_weight" in project.dvc("params", "diff")
    said = project.dvc("repro")
    assert "Running stage 'train@one'" in said
    assert "Running stage 'train@two'" not in said
    assert project.weights("two") == other
    assert [(v["style"], v["version"]) for v in project.versions()] == [
        ("one", 2),
        ("one", 1),
        ("two", 1),
    ]


def test_going_back_to_earlier_params_restores_the_weights_without_training(project):
    project.params(lambda values: values["styles"]["one"].pop("style_weight"))
    said = project.dvc("repro")
    assert "steps in" not in said  # what a training says when it is done
    assert len(project.versions()) == 3


def test_a_lost_registry_is_healed_from_data(project):
    weights = project.weights("one")
    (project.folder / "mlflow.db").unlink()
    shutil.rmtree(project.folder / "mlartifacts")
    project.dvc("repro")
    assert [(v["style"], v["version"]) for v in project.versions()] == [("one", 1), ("two", 1)]
    assert project.weights("one") == weights
    run = project.versions()[0]["run_id"]
    curve = project.run(
        sys.executable,
        "-c",
        "from fnst import store; c = store.connect();"
        f"print(len(c.get_metric_history('{run}', 'content')))",
    )
    assert curve.split()[-1] == "4"


def test_an_unknown_key_in_params_stops_the_pipeline_with_the_nearest_name(project):
    text = (project.folder / "params.yaml").read_text()
    project.params(lambda values: values["styles"]["one"].update(style_wieght=3))
    said = project.run(sys.executable, "-m", "stages.fetch", code=1)
    (project.folder / "params.yaml").write_text(text)
    assert "did you mean 'style_weight'?" in said
    assert "Traceback" not in said


def test_dvc_shows_metrics_plots_and_the_graph(project):
    assert "data/results/one/metrics.json" in project.dvc("metrics", "show")
    project.dvc("plots", "show", "-o", "plots")
    page = (project.folder / "plots/index.html").read_text()
    assert "sheet.jpg" in page
    assert "one: loss while training" in page
    assert "train@one" in project.dvc("dag")


def test_an_experiment_with_another_weight_can_be_run_and_compared(project):
    project.git("add", "-A")
    project.git("commit", "-qm", "results")
    said = project.dvc("exp", "run", "-n", "gentle", "-S", "styles.two.style_weight=3")
    assert "Running stage 'train@one'" not in said
    shown = project.dvc("exp", "show", "--csv", "--no-pager")
    assert "gentle" in shown
    assert "data/results/two/metrics.json:total" in shown
    newest = next(v for v in project.versions() if v["style"] == "two")
    tags = project.run(
        sys.executable,
        "-c",
        f"from fnst import registry; print(dict(registry.get('two', {newest['version']}).tags))",
    )
    assert "gentle" in tags
    assert "train@two" in tags


def test_a_sweep_draws_a_style_at_several_strengths_and_leaves_everything_as_it_was(project):
    params, weights = (project.folder / "params.yaml").read_bytes(), project.weights("two")
    said = project.fnst("sweep", "--style", "two", "--strengths", "1,2")
    points = json.loads((project.folder / "data/results/two/tradeoff.json").read_text())
    assert [point["strength"] for point in points] == [1, 2]
    made = {v["version"]: v for v in project.versions() if v["style"] == "two"}
    for point in points:  # `two` has content weight 1
        scored = made[point["version"]]["metrics"]
        assert point["content"] == pytest.approx(scored["content"], rel=1e-4)
        assert point["style"] == pytest.approx(scored["relative_style"], rel=1e-4)
    with Image.open(project.folder / "data/results/two/tradeoff.jpg") as page:
        assert min(page.size) > 400
    assert f"is in {project.folder}/data/results/two/tradeoff.jpg\n" in said
    results = project.folder / "data/results/two"
    drawn = base64.b64encode((results / "tradeoff.jpg").read_bytes()).decode()
    assert drawn in (results / "index.html").read_text()
    assert "index.html" not in project.dvc("status", "evaluate@two", "train@two")
    assert (project.folder / "params.yaml").read_bytes() == params
    assert project.weights("two") == weights


def test_a_clone_with_pulled_models_stylizes_without_training(project, tmp_path):
    project.git("add", "-A")
    project.git("commit", "-qm", "everything", "--allow-empty")
    project.dvc("remote", "add", "-f", "-d", "--local", "store", str(tmp_path / "remote"))
    project.dvc("push")
    project.git("clone", "-q", str(project.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.home)
    clone.dvc("remote", "add", "-d", "--local", "store", str(tmp_path / "remote"))
    clone.dvc("pull", "--allow-missing")
    said = clone.dvc("repro", "--allow-missing")
    assert "Running stage 'train" not in said
    photo = clone.folder / "photo.png"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(photo)
    clone.fnst("stylize", "--style", "one", str(photo))
    assert clone.weights("one") == project.weights("one")


def test_a_training_begins_with_a_registered_version(project):
    """So slow a step that what comes out is what it began with."""
    before = (project.folder / "params.yaml").read_bytes()
    slow = {"init": "one@1", "steps": 1, "learning_rate": 1e-9}
    project.params(lambda values: values["recipes"]["laptop"]["train"].update(slow))
    project.dvc("repro", "train@one")
    begun = load_file(project.folder / "data/raw/init/model.safetensors")
    ended = load_file(project.folder / "data/models/one/model.safetensors")
    assert begun.keys() == ended.keys()
    for name, weights in begun.items():
        assert_close(ended[name], weights, atol=1e-6, rtol=0)
    card = json.loads((project.folder / "data/models/one/model.json").read_text())
    assert card["training"]["init_sha256"] == files.sha256(
        project.folder / "data/raw/init/model.safetensors"
    )
    (project.folder / "params.yaml").write_bytes(before)


def test_an_interrupted_training_goes_on_where_it_stopped(project):
    project.params(lambda values: values["recipes"]["laptop"]["train"].update(steps=4000, seed=5))
    said, stopped = train_until(project, 12)
    assert "`dvc repro` goes on from there" in said
    run = json.loads((project.folder / "data/models/one.partial/run.json").read_text())

    # Another length would be another training, so the rest is cut short by stopping it again.
    said, further = train_until(project, (stopped + 6) // 4 * 4 + 4)
    assert f"going on after step {stopped} of 4000" in said
    assert further > stopped
    assert json.loads((project.folder / "data/models/one.partial/run.json").read_text()) == run


def train_until(project, step):
    """Train, press Ctrl-C when the sample of that step is there; what was said, the last step."""
    training = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "train@one"],
        start_new_session=True,  # a terminal tells all processes of the command
        cwd=project.folder,
        env=project.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sample = project.folder / f"data/models/one.partial/samples/step-{step:06d}.jpg"
    deadline = time.monotonic() + 120
    while not sample.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(training.pid, signal.SIGINT)
    said, _ = training.communicate(timeout=60)
    assert training.returncode, said
    assert "Traceback" not in said
    assert "stopping after this step" in said
    return said, int(said.split("stopped after step ")[1].split(";")[0])
