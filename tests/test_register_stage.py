"""What the register stage lets through, and what it says of a version."""

import pytest
import registry_fixtures

from fnst import evaluation, files
from fnst.errors import TrainingError
from stages import register


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        ({"total": 1.5, "flat": 0.99}, r"wave is not registered: in 99% .*sheet\.jpg"),
        ({"total": float("nan"), "flat": 0.3}, r"a held-out total that is a number, got nan \(.*"),
        ({"total": float("inf"), "flat": 0.3}, r"a held-out total that is a number, got inf \(.*"),
    ],
)
def test_what_paints_nothing_or_has_no_total_is_not_registered(
    tmp_path, monkeypatch, measured, sentence
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(register, "style_named", lambda: "wave")
    registry_fixtures.train(tmp_path / "data" / "models" / "wave")
    metrics = tmp_path / "data" / "results" / "wave" / "metrics.json"
    files.write_json(metrics, measured)
    with pytest.raises(TrainingError, match=sentence):
        register.main()
    register._check("wave", {"total": 1.5, "flat": 0.3})


def test_the_card_says_what_the_total_is_made_of():
    metrics = dict.fromkeys(evaluation.HEADLINES, 0.5) | {"photographs": 2}
    metrics |= {"total": 1.75, "variation": 0.125, "grid": 0.0625}
    metrics |= {"gatys_iterations": 3.0, "gatys_longest": 40.0}
    style = {"image": "wave.png", "content_weight": 1.0, "style_weight": 12.0}
    trained = {"steps": 20, "photographs": 6, "params": {"style": style, "loss": {"network": "v"}}}
    card = {"training": trained, "weights_sha256": "abc"}
    told = register._card("wave", card, metrics, {"recipe": "laptop"})
    made_of = "the sum of both, of variation (0.125) and of the grid term (0.0625), all weighted"
    assert f"- total: 1.75, {made_of}; 50% of" in told


@pytest.mark.parametrize(
    ("count", "said"), [(13.4, "as good as 13 iterations"), (40.0, "as good as more than 40")]
)
def test_the_card_says_what_optimising_pixels_takes(count, said):
    told = register._anchored({"gatys_iterations": count, "gatys_longest": 40.0})
    assert told.startswith(said)
