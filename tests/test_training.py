"""The loop learns, does the same twice, and goes on after an interrupt as if nothing had been."""

import contextlib
import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from fnst import features, training
from fnst.errors import TrainingError
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.training import (
    DivergedError,
    Learner,
    Progress,
    adam,
    count_steps,
    load_state,
    save_state,
    train,
    warmup_cosine,
)


def network(seed=0):
    torch.manual_seed(seed)
    return TransformerNetwork(width=4, blocks=1)


def batches(count=None):
    """Batch ``i`` depends on ``i`` alone."""
    numbers = itertools.count() if count is None else range(count)
    for i in numbers:
        yield torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i))


def constant(rate):
    return lambda step: rate


@pytest.fixture
def loss(extract):
    return PerceptualLoss(
        extract,
        torch.rand(1, 3, 16, 16),
        content_layer="deep",
        style_layers={"shallow": 1.0},
        weights=Weights(),
    )


def learner(made, loss, **options):
    return Learner(made, loss, adam(made, 0.01), **options)


def run(made, loss, optimizer=None, photos=None, dtype=torch.float32, **options):
    """Train to the end; every report."""
    wanted = {"steps": 4, "schedule": constant(0.01)} | options
    learner = Learner(made, loss, optimizer or adam(made, 0.01), dtype)
    steps = train(learner, photos or batches(), **wanted)
    return [(step, losses) for step, losses in steps if losses]


def weights_of(made):
    return torch.cat([p.detach().flatten() for p in made.parameters()])


# --- the loop -------------------------------------------------------------------------------------


def test_training_on_one_batch_lowers_the_loss(loss):
    photos = itertools.repeat(next(batches()))
    totals = [losses.total for _, losses in run(network(), loss, photos=photos, steps=60)]
    assert len(totals) == 60
    assert totals[-1] < 0.5 * totals[0]


def test_the_same_seed_gives_the_same_weights(loss):
    one, other, third = network(), network(), network(seed=1)
    for made in (one, other, third):
        run(made, loss)
    assert torch.equal(weights_of(one), weights_of(other))
    assert not torch.equal(weights_of(one), weights_of(third))


def test_a_report_is_the_mean_of_the_steps_since_the_last_one(loss):
    each = run(network(), loss, steps=7)
    assert [step for step, _ in each] == [1, 2, 3, 4, 5, 6, 7]
    grouped = run(network(), loss, steps=7, report_every=3)
    assert [step for step, _ in grouped] == [3, 6, 7]
    totals = [losses.total for _, losses in each]
    assert grouped[0][1].total == pytest.approx(sum(totals[:3]) / 3, rel=1e-4)
    assert grouped[1][1].total == pytest.approx(sum(totals[3:6]) / 3, rel=1e-4)
    assert grouped[2][1].total == pytest.approx(totals[6], rel=1e-4)


def test_the_first_report_is_the_loss_before_any_step(loss):
    made, photo = network(), next(batches())
    with torch.no_grad():
        terms = loss(made(photo), photo)
    (_, first), *_ = run(made, loss, steps=1)
    assert first.content == pytest.approx(terms.content.mean().item(), rel=1e-3)
    assert first.style == pytest.approx(terms.style.mean().item(), rel=1e-3)
    assert first.total == pytest.approx(first.content + first.style + first.variation + first.grid)


def test_each_step_takes_the_rate_of_its_own_number(loss):
    made = network()
    optimizer = adam(made, 0.01)
    asked, used = [], []

    def schedule(step):
        asked.append(step)
        return step / 1000

    learner = Learner(made, loss, optimizer)
    stream = train(learner, batches(), steps=6, start=2, schedule=schedule)
    used.extend(optimizer.param_groups[0]["lr"] for _ in stream)
    assert asked == [3, 4, 5, 6]
    assert used == [0.003, 0.004, 0.005, 0.006]


def test_a_rate_of_zero_learns_nothing(loss):
    made = network()
    before = weights_of(made)
    run(made, loss, schedule=constant(0.0))
    assert torch.equal(weights_of(made), before)


def test_gradients_do_not_pile_up_from_step_to_step(loss):
    """Adam divides by the gradient's own size, so plain descent has to tell."""
    made, again = network(), network()
    photos = [next(batches())] * 2
    descent = torch.optim.SGD(made.parameters(), 0.01)
    run(made, loss, descent, photos, steps=2, schedule=constant(0.01))
    descent = torch.optim.SGD(again.parameters(), 0.01)
    for photo in photos:
        run(again, loss, descent, [photo], steps=1, schedule=constant(0.01))
        again.zero_grad(set_to_none=True)
    assert_close(weights_of(made), weights_of(again))


def test_a_batch_takes_the_step_of_its_average_photograph(loss):
    one, twice = network(), network()
    photo = next(batches())[:1]
    for made, batch in ((one, photo), (twice, photo.repeat(2, 1, 1, 1))):
        descent = torch.optim.SGD(made.parameters(), 0.1)
        run(made, loss, descent, [batch], steps=1, schedule=constant(0.1))
    assert_close(weights_of(one), weights_of(twice))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_a_photograph_of_one_colour_nothing_is_learnt(loss, dtype):
    """Through ten norms of what does not vary, gradients become no numbers."""
    torch.manual_seed(0)
    made = TransformerNetwork(width=4, blocks=5)
    before = weights_of(made)
    white = torch.ones(1, 3, 16, 16) + 1e-7 * torch.rand(1, 3, 16, 16)  # as resizing leaves it
    run(made, loss, photos=itertools.repeat(white), steps=1, dtype=dtype)
    assert torch.equal(weights_of(made), before)


def test_a_photograph_of_one_colour_leaves_the_others_what_they_teach(loss):
    photo = next(batches())[:1]
    alone, beside = network(), network()
    run(alone, loss, torch.optim.SGD(alone.parameters(), 0.02), [photo], steps=1)
    both = torch.cat((photo, torch.ones_like(photo)))
    run(beside, loss, torch.optim.SGD(beside.parameters(), 0.02), [both], steps=1)
    start = weights_of(network())
    assert_close(weights_of(beside) - start, (weights_of(alone) - start) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_are_in_the_precision_that_was_chosen_and_weights_in_float32(loss, dtype):
    made, seen = network(), []
    made.layers[0].register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    run(made, loss, steps=2, dtype=dtype)
    assert seen == [dtype, dtype]
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_on_a_gpu_what_learns_rounds_no_float32(loss, rounding):
    learner(network(), loss)
    assert not rounding()


def test_the_caller_may_stop_whenever_it_likes(loss):
    reports = train(learner(network(), loss), batches(), steps=100, schedule=constant(0.01))
    assert next(reports)[0] == 1
    reports.close()


def test_a_loss_that_is_no_number_ends_the_training(loss):
    photos = [torch.full((2, 3, 16, 16), float("nan"))]
    with pytest.raises(DivergedError, match="loss was nan at step 1"):
        run(network(), loss, photos=photos)


def test_a_loss_that_explodes_ends_the_training(loss):
    """However high it was at first: what counts is the lowest."""
    reports = train(learner(network(), loss), batches(), steps=9, schedule=constant(0.0))
    for weight in (100.0, 1.0, 2.0):
        loss.weights = Weights(content=weight, style=weight)
        next(reports)
    loss.weights = Weights(content=8.0, style=8.0)
    with pytest.raises(DivergedError, match=r"at step 4, after .* before"):
        next(reports)


def test_a_loss_that_explodes_before_the_first_report_ends_the_training(loss):
    options = {"steps": 9, "report_every": 3, "schedule": constant(0.0)}
    reports = train(learner(network(), loss), batches(), **options)
    next(reports)
    loss.weights = Weights(content=1e3, style=1e3)
    next(reports)
    with pytest.raises(DivergedError, match="at step 3"):
        next(reports)


@pytest.mark.parametrize(("report_every", "kept"), [(1, 3), (3, 1)])
def test_an_explosion_after_an_interrupt_is_told_by_the_losses_before_it(
    loss, tmp_path, report_every, kept
):
    """By those that were reported, and where nothing was, by that of the first step."""
    options = {"report_every": report_every, "schedule": constant(0.0)}
    first = learner(network(), loss)
    list(itertools.islice(train(first, batches(), steps=9, **options), kept))
    save_state(tmp_path / "state", first, Progress(kept), fingerprint="a")
    for weight, explodes in ((2.0, False), (1e3, True)):
        second = learner(network(seed=9), loss)
        load_state(tmp_path / "state", second, fingerprint="a")
        loss.weights = Weights(content=weight, style=weight)
        ended = train(second, batches(), steps=kept + 2, start=kept, **options)
        with pytest.raises(DivergedError) if explodes else contextlib.nullcontext():
            list(ended)


def test_a_photograph_of_one_colour_is_not_in_the_curve(loss):
    """Its loss is hundreds of times that of others, and would look like an explosion."""
    photo = next(batches())[:1]
    ((_, losses),) = run(network(), loss, photos=[photo], steps=1)
    both = torch.cat((photo, torch.ones_like(photo)))
    ((_, beside),) = run(network(), loss, photos=[both], steps=1)
    assert beside.total == pytest.approx(losses.total, rel=1e-4)
    white = [photo, torch.ones_like(photo)]
    stream = train(learner(network(), loss), white, steps=2, schedule=constant(0.0))
    assert [step for step, losses in stream if losses] == [1]


def test_a_step_that_leaves_no_numbers_is_noticed_before_it_is_kept(loss):
    with pytest.raises(DivergedError, match=r"a weight, .* is no longer a number after step 1"):
        run(network(), loss, schedule=constant(float("nan")))


def test_moments_that_are_no_numbers_are_noticed_behind_weights_that_are(loss):
    """The square of a huge gradient is infinite, and the step that Adam makes of it is none."""
    made = network()
    for weights in made.parameters():
        weights.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    with pytest.raises(DivergedError, match="a moment of its gradients, is no longer a number"):
        run(made, loss, steps=1)
    assert weights_of(made).isfinite().all()


def test_one_bad_step_between_two_reports_is_not_overlooked(loss):
    good = list(batches(3))
    photos = [good[0], torch.full_like(good[0], float("nan")), *good[1:]]
    with pytest.raises(DivergedError, match="at step 4"):
        run(network(), loss, photos=photos, report_every=4)


# --- rates and steps ------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    rate = warmup_cosine(0.8, warmup=4, steps=12)
    assert [rate(step) for step in (1, 2, 4)] == pytest.approx([0.2, 0.4, 0.8])
    assert rate(6) == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert [rate(step) for step in (8, 12)] == pytest.approx([0.4, 0.0])


def test_without_warmup_the_rate_begins_near_its_height():
    rate = warmup_cosine(1.0, warmup=0, steps=100)
    assert 0.999 < rate(1) < 1
    assert rate(50) == pytest.approx(0.5)


def test_a_training_shorter_than_its_warmup_only_rises():
    rate = warmup_cosine(1.0, warmup=10, steps=5)
    assert [rate(step) for step in (1, 5)] == pytest.approx([0.1, 0.5])
    assert warmup_cosine(1.0, warmup=5, steps=5)(5) == 1.0


def test_steps_are_as_given_or_what_the_epochs_take():
    assert count_steps(100, batch_size=4, steps=7, epochs=None) == 7
    assert count_steps(100, batch_size=4, steps=None, epochs=1.0) == 25
    assert count_steps(100, batch_size=4, steps=None, epochs=2.5) == 62
    assert count_steps(40_670, batch_size=4, steps=None, epochs=1.0) == 10_168
    assert count_steps(3, batch_size=4, steps=None, epochs=0.1) == 1


def test_precision_is_as_asked_for():
    cpu = torch.device("cpu")
    assert training.choose_dtype("fp32", cpu) == torch.float32
    assert training.choose_dtype("bf16", cpu) == torch.bfloat16
    assert training.choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


# --- going on after an interrupt ------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    loss, tmp_path, layout
):
    path = tmp_path / "state.safetensors"
    rate = warmup_cosine(0.01, warmup=2, steps=6)
    whole = network().to(memory_format=layout)
    reports = run(whole, loss, steps=6, schedule=rate)

    first = learner(network().to(memory_format=layout), loss)
    for step, _ in itertools.islice(train(first, batches(), steps=6, schedule=rate), 3):
        save_state(path, first, Progress(step), fingerprint="a")

    second = learner(network(seed=9).to(memory_format=layout), loss)
    start = load_state(path, second, fingerprint="a").step
    assert start == 3
    photos = itertools.islice(batches(), start, None)
    rest = list(train(second, photos, steps=6, start=start, schedule=rate))
    assert rest == reports[3:]
    assert torch.equal(weights_of(second.network), weights_of(whole))


def test_a_report_covers_what_was_done_before_an_interrupt_too(loss, tmp_path):
    path = tmp_path / "state.safetensors"
    rate = constant(0.01)
    ((_, whole),) = run(network(), loss, steps=4, schedule=rate, report_every=4)

    first = learner(network(), loss)
    done = itertools.islice(train(first, batches(), steps=4, schedule=rate, report_every=4), 3)
    assert [losses for _, losses in done] == [None] * 3
    save_state(path, first, Progress(3), fingerprint="a")

    second = learner(network(seed=9), loss)
    assert load_state(path, second, fingerprint="a") == Progress(3)
    photos = itertools.islice(batches(), 3, None)
    options = {"steps": 4, "start": 3, "schedule": rate, "report_every": 4}
    assert list(train(second, photos, **options)) == [(4, whole)]


def test_no_state_is_a_fresh_start(loss, tmp_path):
    made = network()
    before = weights_of(made)
    assert load_state(tmp_path / "none", learner(made, loss), fingerprint="a") is None
    assert torch.equal(weights_of(made), before)


def kept(loss, path, steps):
    """The state of a training of so many steps, in a file."""
    first = learner(network(), loss)
    for step, _ in train(first, batches(), steps=steps, schedule=constant(0.01)):
        save_state(path, first, Progress(step), fingerprint="a")
    return path


def test_the_state_of_another_training_is_not_taken_up(loss, tmp_path):
    path = kept(loss, tmp_path / "state.safetensors", 4)
    other = learner(network(seed=9), loss)
    before = weights_of(other.network)
    assert load_state(path, other, fingerprint="b") is None
    assert torch.equal(weights_of(other.network), before)
    assert other.optimizer.state_dict()["state"] == {}


def test_a_state_of_an_older_fnst_is_that_of_another_training(loss, tmp_path):
    """It has another fingerprint; what else it lacks is no damage."""
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_file({}, path, {"fnst": '{"step": 4, "fingerprint": "b"}'})
    assert load_state(path, learner(network(), loss), fingerprint="a") is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_damaged_state_is_an_error_that_says_what_to_do(loss, tmp_path, share):
    path = kept(loss, tmp_path / "state.safetensors", 1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    made = network(seed=9)
    before = weights_of(made)
    with pytest.raises(TrainingError, match=r"is damaged.*delete it to begin anew"):
        load_state(path, learner(made, loss), fingerprint="a")
    assert torch.equal(weights_of(made), before)


def test_a_state_of_somebody_elses_is_damaged(loss, tmp_path):
    from safetensors.torch import save_file

    made = network()
    save_file(made.state_dict(), tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match="is damaged"):
        load_state(tmp_path / "state.safetensors", learner(made, loss), fingerprint="a")


# --- with the real VGG ----------------------------------------------------------------------------


def test_bfloat16_and_float32_begin_with_the_same_loss(asset, astronaut):
    photo = astronaut[..., 64:160, 64:160]
    style = astronaut[..., 160:, 160:].flip(1)
    layers = {"relu1_1": 0.2, "relu2_1": 0.1, "relu3_1": 0.05, "relu4_1": 0.025, "relu5_1": 0.0125}
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        judge = PerceptualLoss(
            features.load(asset("vgg19-gatys")).in_precision(dtype),
            style,
            content_layer="relu3_1",
            style_layers=layers,
            weights=Weights(),
        )
        torch.manual_seed(0)
        made = TransformerNetwork().to(memory_format=torch.channels_last)
        ((_, found[dtype]),) = run(made, judge, photos=[photo], steps=1, dtype=dtype)
        assert weights_of(made).isfinite().all()
    exact, fast = found[torch.float32], found[torch.bfloat16]
    for name in ("content", "style", "total"):
        assert getattr(fast, name) == pytest.approx(getattr(exact, name), rel=0.02)
