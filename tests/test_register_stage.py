"""What the register stage lets through, and what it says of a version."""

import math
import shutil
from pathlib import Path

import pytest
import registry_fixtures
import torch
import yaml

from fnst import checkpoint, evaluation, files, images, registry, report, store, tracking
from fnst.evaluation import Score
from fnst.gatys import Anchor
from fnst.images import Picture
from fnst.network import TransformerNetwork
from stages import register

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")


PARAMS = Path(register.__file__).parents[1] / "params.yaml"
METRICS = dict.fromkeys(evaluation.HEADLINES, 1.0) | {
    "flat": 0.0,
    "photographs": 2,
    "gatys_iterations": 3.0,
    "gatys_longest": 4.0,
    "gatys_total": 1.5,
}
TRAINING = {
    "lineage": {"git.commit": "abc"},
    "steps": 20,
    "photographs": 6,
    "params": {
        "recipe": "tiny",
        "style": {"image": "wave.png", "strength": 1.0, "content_weight": 1, "style_weight": 12},
        "loss": {"network": "vgg19-gatys"},
    },
}


def test_the_card_says_what_the_total_is_made_of(tmp_path):
    metrics = dict.fromkeys(evaluation.HEADLINES, 0.5) | {"photographs": 2}
    metrics |= {"total": 1.75, "variation": 0.125, "grid": 0.0625}
    metrics |= {"gatys_total": 3.0}
    files.write_rows(tmp_path / "gatys.csv", [{"iteration": 0, "total": 4.0}])
    style = {"image": "wave.png", "content_weight": 1.0, "style_weight": 12.0}
    trained = {"steps": 20, "photographs": 6, "params": {"style": style, "loss": {"network": "v"}}}
    card = {"training": trained, "weights_sha256": "abc"}
    told = register._card("wave", card, metrics, {"recipe": "laptop"}, tmp_path)
    made_of = "the sum of both, of variation (0.125) and of the grid term (0.0625), all weighted"
    assert f"- total: 1.75, {made_of}; 50% of" in told


class Stage:
    """The style `wave` in a project's data/, and the stage that registers it."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        self.models, self.results = root / "data/models/wave", root / "data/results/wave"
        for name in register.RESULTS:
            files.write(self.results / name, name.encode())
        curve = [{"iteration": 0, "total": 2.0}, {"iteration": 1, "total": 1.0}]
        files.write_rows(self.results / "gatys.csv", curve)
        self.evaluated = report.page(
            "wave",
            [Score("a.jpg", 64, 64, dict.fromkeys(evaluation.NUMBERS, 0.5))],
            Anchor([2.0, 1.0], 1.5),
            sheet=b"a sheet",
        )
        files.write(self.results / "evaluation.html", self.evaluated)

    def train(self, seed=0, judged_by="x", **metrics):
        torch.manual_seed(seed)
        network = TransformerNetwork(width=2, blocks=1)
        checkpoint.save(self.models, network, style="wave", training=TRAINING)
        files.write_json(self.models / "run.json", {"run_id": "lost"})
        files.write_rows(self.models / "loss.csv", [{"step": 10, "total": 1.0}])
        files.write_json(self.results / "metrics.json", METRICS | metrics)
        files.write_json(
            self.results / "judged_by.json", {"sha256": judged_by, "parts": {"size": judged_by}}
        )

    def limit(self, **limits):
        values = yaml.safe_load((self.root / "params.yaml").read_text())
        values["gate"] |= limits
        (self.root / "params.yaml").write_text(yaml.safe_dump(values))

    def sweep(self, relative_style):
        """As a sweep leaves it, with what the network scored at its own strength."""
        points = [{"strength": 1.0, "style": relative_style}]
        files.write_json(self.results / "tradeoff.json", points)
        files.write(self.results / "tradeoff.jpg", b"a trade-off")

    def page(self):
        return (self.results / "index.html").read_bytes()

    def attached(self, folder):
        """The results that MLflow has of the first version."""
        run = registry.get("wave", 1).run_id
        found = Path(store.connect().download_artifacts(run, "results", str(folder)))
        return {path.name: path.read_bytes() for path in found.iterdir()}

    def run(self):
        register.main()
        return self.capsys.readouterr().out


@pytest.fixture
def stage(project, monkeypatch, capsys):
    shutil.copy(PARAMS, project)
    monkeypatch.chdir(project)
    monkeypatch.setattr(register, "style_named", lambda: "wave")
    return Stage(project, capsys)


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"flat": 0.99}, "flat 0.99 is above its limit 0.95"),
        ({"total": float("nan")}, "worse than version 1: held-out total nan against 1"),
    ],
)
def test_what_paints_nothing_or_has_no_total_is_registered_and_refused(stage, measured, said):
    stage.train()
    stage.run()
    stage.train(seed=1, **measured)
    assert f"version 2 refused: {said}" in stage.run()
    assert registry.get("wave", 1).aliases == ("champion",)
    client = store.connect()
    source = client.get_model_version("fnst-wave", "2").source
    model = client.get_logged_model(source.removeprefix("models:/"))
    shown = {metric.key: metric.value for metric in model.metrics}
    for name, value in measured.items():
        assert shown.get(f"held_out/{name}") == (None if math.isnan(value) else value)
    assert "forced" in registry.promote("wave", 2, force=True).tags
    assert registry.get("wave", 2).aliases == ("champion",)


def test_a_version_is_judged_again_under_the_limits_that_params_yaml_has_now(stage):
    stage.train()
    stage.run()
    stage.train(seed=1, border_ratio=1.25)
    refused = "version 2 refused: border_ratio 1.25 is above its limit 1.2\n"
    assert refused in stage.run()
    assert refused in stage.run()
    stage.limit(border_ratio=1.3)
    assert "version 2 passed: no worse than version 1" in stage.run()
    assert registry.get("wave", 2).aliases == ("champion",)


def test_a_run_gets_the_samples_that_it_lacks_and_none_twice(stage):
    """As when the server was away for a while during the training."""
    stage.train()
    sample = torch.rand(1, 3, 16, 16)
    (stage.models / "samples").mkdir()
    for step in (0, 10, 20):
        images.save(Picture(sample), stage.models / "samples" / f"step-{step:06d}.jpg")
    run = registry_fixtures.begin()
    with tracking.amend("wave", run_id=run, params={}, tags={}) as tracked:
        tracked.picture(sample, key="sample", step=10)
    files.write_json(stage.models / "run.json", {"run_id": run})
    stage.run()
    shown = [file.path for file in store.connect().list_artifacts(run, "images")]
    for step in (0, 10, 20):
        assert sum(f"+step+{step}+" in name and name.endswith(".png") for name in shown) == 1


@pytest.mark.parametrize(("before", "now"), [(1.25, 1.0), (1.0, 1.25)], ids=["mended", "worse"])
def test_a_champion_that_is_measured_anew_has_its_shortcomings_told_anew(stage, before, now):
    broken = ", although border_ratio 1.25 is above its limit 1.2"
    told = {1.0: "passed: the first version of its style"}
    told[1.25] = told[1.0] + broken
    stage.train(border_ratio=before)
    assert f"version 1 {told[before]}\n" in stage.run()
    stage.train(border_ratio=now)
    said = stage.run()
    assert "version 1 has these weights, measured anew\n" in said
    assert f"version 1 {told[now]}\n" in said
    champion = registry.get("wave", 1)
    assert champion.aliases == ("champion",)
    assert champion.card.endswith(f"## Gate\n\n{told[now]}\n")
    assert f"version 1 {told[now]}\n" in stage.run()


def test_what_cannot_be_compared_says_why_and_what_makes_it_champion(stage):
    stage.train()
    stage.run()
    stage.train(seed=1, judged_by="y")
    for _ in range(2):
        assert stage.run().endswith(
            "register wave: version 2 not compared: version 1 was judged with size x instead of y\n"
            "register wave: `fnst promote 2 --style wave` makes it champion\n"
        )
    registry.promote("wave", 2)
    assert "fnst promote" not in stage.run()


def test_what_a_sweep_drew_is_on_the_page_and_in_mlflow_and_evaluates_page_stays_as_it_was(
    stage, tmp_path
):
    stage.train(relative_style=0.2)
    stage.run()
    assert stage.page() == stage.evaluated
    stage.sweep(relative_style=0.2)
    stage.run()
    assert stage.page() == report.with_trade_off(stage.evaluated, b"a trade-off")
    assert (stage.results / "evaluation.html").read_bytes() == stage.evaluated
    attached = stage.attached(tmp_path)
    assert attached["tradeoff.jpg"] == b"a trade-off"
    assert attached["index.html"] == stage.page()


def test_what_a_sweep_drew_of_another_network_is_dropped(stage):
    stage.train(relative_style=0.2)
    stage.sweep(relative_style=0.3)
    stage.run()
    assert stage.page() == stage.evaluated
    assert not list(stage.results.glob("tradeoff.*"))


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (4.2, "takes 3 iterations to be as good"),
        (7.9, "takes 1 iteration to be as good"),
        (9.5, "takes less than 1 iteration to be as good"),
        (10.0, "with which optimising their pixels begins"),
        (2.0, "takes 4 iterations to be as good"),
        (1.9, "takes more than 4 iterations to be as good"),
    ],
)
def test_the_card_says_what_optimising_pixels_takes(tmp_path, total, said):
    curve = [{"iteration": i, "total": 10.0 - 2 * i} for i in range(5)]
    files.write_rows(tmp_path / "gatys.csv", curve)
    assert register._anchored(tmp_path, total).endswith(said)
