"""The losses are their formulas, scale-free, and their gradients go where they should."""

import pytest
import torch
from torch.testing import assert_close

from fnst.losses import (
    Moments,
    PerceptualLoss,
    Terms,
    Weights,
    content_loss,
    moments,
    style_loss,
    total_variation,
)


def plain_moments(maps):
    """Their definitions, left to autograd."""
    rows = maps.flatten(2)
    mean = rows.mean(2)
    centred = rows - mean.unsqueeze(2)
    return mean, torch.einsum("bip,bjp->bij", centred, centred) / rows.shape[2]


def made(extract, style, weights=None, content_layer="deep", style_layers=None):
    return PerceptualLoss(
        extract,
        style,
        content_layer=content_layer,
        style_layers=style_layers or {"shallow": 1.0, "deep": 0.5},
        weights=weights or Weights(1.0, 12.0, 0.1),
    )


def same(one: Terms, other: Terms):
    for name in ("content", "style", "variation", "total"):
        assert_close(getattr(one, name), getattr(other, name))
    return True


def pixels(image, layers):
    """An extractor that looks at the pixels themselves."""
    return dict.fromkeys(layers, image)


# --- moments --------------------------------------------------------------------------------------


def test_a_constant_map_is_its_mean_and_varies_with_nothing():
    mean, covariance = moments(torch.full((1, 2, 5, 7), 3.0))
    assert_close(mean, torch.full((1, 2), 3.0))
    assert_close(covariance, torch.zeros(1, 2, 2))


def test_moments_ignore_where_things_are():
    maps = torch.rand(1, 4, 6, 6)
    shuffled = maps.flatten(2)[:, :, torch.randperm(36)].view_as(maps)
    for ours, theirs in zip(moments(shuffled), moments(maps), strict=True):
        assert_close(ours, theirs)


def test_channels_that_never_meet_vary_against_each_other():
    maps = torch.zeros(1, 2, 1, 4)
    maps[0, 0, 0, :2] = 2.0
    maps[0, 1, 0, 2:] = 1.0
    mean, covariance = moments(maps)
    assert_close(mean, torch.tensor([[1.0, 0.5]]))
    assert_close(covariance, torch.tensor([[[1.0, -0.5], [-0.5, 0.25]]]))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_moments_and_their_gradients_are_those_of_the_formulas(memory):
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=memory)
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    pulls = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    for found, plain in zip(moments(ours), plain_moments(theirs), strict=True):
        assert_close(found, plain, atol=1e-13, rtol=0)
    torch.autograd.backward(list(moments(ours)), pulls)  # the second is not symmetric
    torch.autograd.backward(list(plain_moments(theirs)), pulls)
    assert_close(ours.grad, theirs.grad, atol=1e-13, rtol=0)


def test_moments_of_half_precision_features_are_float32():
    maps = torch.rand(1, 8, 16, 16)
    half = maps.bfloat16().requires_grad_()
    found, plain = moments(half), plain_moments(half.detach().float())
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, theirs, rtol=0.02, atol=1e-3)
    (found.mean.sum() + found.covariance.sum()).backward()
    assert half.grad.dtype == torch.bfloat16


def test_a_large_mean_takes_no_digits_from_the_covariance():
    maps = torch.randn(1, 3, 64, 64)
    assert_close(moments(maps + 1000).covariance, moments(maps).covariance, rtol=1e-3, atol=1e-3)


def test_wrong_rank_is_refused_at_the_door():
    with pytest.raises(Exception, match="b c h w"):
        moments(torch.rand(3, 8, 8))


# --- the single terms -----------------------------------------------------------------------------


def test_content_keeps_its_digits_on_large_maps():
    maps, target = torch.rand(2, 1, 64, 256, 256)
    exact = (maps.double() - target.double()).square().mean((1, 2, 3))
    assert_close(content_loss(maps, target, torch.tensor(1.0)).double(), exact, rtol=1e-6, atol=0)


def test_the_gradient_of_content_is_that_of_its_formula():
    maps = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    target, scale = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.tensor(0.5)
    assert torch.autograd.gradcheck(lambda given: content_loss(given, target, scale), maps)


def test_content_is_the_mean_squared_difference_in_units_of_its_scale():
    maps = torch.stack([torch.full((2, 3, 3), 2.0), torch.full((2, 3, 3), 3.0)])
    loss = content_loss(maps, torch.ones(2, 2, 3, 3), torch.tensor(4.0))
    assert_close(loss, torch.tensor([1.0 / 4, 4.0 / 4]))


def test_style_is_the_squared_distances_relative_to_the_target():
    mean = torch.tensor([[2.0, 2.0], [1.0, 3.0]])
    covariance = torch.tensor([[[3.0, 1.0], [1.0, 1.0]], [[3.0, 0.0], [0.0, 1.0]]])
    target = Moments(torch.tensor([[2.0, 2.0]]), torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]))
    expected = torch.tensor([4.0 / 4, (4.0 + 1.0 + 1.0) / 4 + 2.0 / 8])
    assert_close(style_loss(Moments(mean, covariance), target), expected, rtol=1e-4, atol=0)


def test_a_painting_without_texture_asks_for_none_and_the_loss_stays_a_number():
    target = moments(torch.full((1, 2, 4, 4), 0.5))
    flat, rough = moments(torch.full((1, 2, 4, 4), 0.5)), moments(torch.rand(1, 2, 4, 4))
    assert_close(style_loss(flat, target), torch.zeros(1))
    assert 0 < style_loss(rough, target) < float("inf")


def test_a_flat_image_has_no_variation():
    assert_close(total_variation(torch.full((2, 3, 8, 8), 0.5)), torch.zeros(2))


def test_variation_of_one_edge_is_its_square_times_its_share_of_the_crossings():
    image = torch.zeros(1, 1, 4, 6)
    image[..., 3:] = 2.0  # of the 5 crossings along each row, one meets the edge
    assert_close(total_variation(image), torch.tensor([2.0**2 / 5]))
    assert_close(total_variation(image.transpose(2, 3)), torch.tensor([2.0**2 / 5]))


# --- together -------------------------------------------------------------------------------------


def test_flat_pictures_score_what_can_be_worked_out_by_hand():
    style = torch.full((1, 3, 16, 16), 0.5)
    photos = torch.full((1, 3, 16, 16), 1.0)
    stylized = torch.full((1, 3, 16, 16), 0.25)
    loss = made(pixels, style, Weights(2.0, 12.0, 5.0), "any", {"a": 0.5, "b": 0.25})
    terms = loss(stylized, photos)
    relative = ((0.25 - 0.5) / 0.5) ** 2  # of the means; nothing varies
    assert_close(terms.content, torch.tensor([2.0 * 0.75**2 / 0.5**2]))
    assert_close(terms.style, torch.tensor([12.0 * 0.75 * relative]))
    assert_close(terms.variation, torch.zeros(1))
    assert_close(terms.total, terms.content + terms.style)


def test_each_weight_scales_its_own_term(extract):
    style, stylized, photos = (torch.rand(1, 3, 16, 16) for _ in range(3))
    one = made(extract, style, Weights(1.0, 1.0, 1.0))(stylized, photos)
    weighted = made(extract, style, Weights(2.0, 3.0, 5.0))(stylized, photos)
    assert_close(weighted.content, 2 * one.content)
    assert_close(weighted.style, 3 * one.style)
    assert_close(weighted.variation, 5 * one.variation)
    assert_close(one.variation, total_variation(stylized))
    assert_close(weighted.total, weighted.content + weighted.style + weighted.variation)


def test_variation_is_off_unless_it_is_asked_for(extract):
    loss = made(extract, torch.rand(1, 3, 16, 16), Weights())
    terms = loss(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16))
    assert torch.equal(terms.variation, torch.zeros(2))


def test_features_times_seven_give_the_same_losses(extract):
    def louder(image, layers):
        return {name: 7 * maps for name, maps in extract(image, layers).items()}

    style, stylized, photos = (torch.rand(1, 3, 16, 16) for _ in range(3))
    assert same(made(louder, style)(stylized, photos), made(extract, style)(stylized, photos))


def test_a_photograph_matches_its_own_content(extract):
    photos = torch.rand(2, 3, 16, 16)
    loss = made(extract, torch.rand(1, 3, 16, 16))
    assert torch.equal(loss(photos, photos).content, torch.zeros(2))
    assert (loss(photos.flip(3), photos).content > 0).all()


def test_the_style_picture_itself_has_its_style(extract):
    style = torch.rand(1, 3, 16, 16)
    loss = made(extract, style)
    assert_close(loss(style, style).style, torch.zeros(1))
    assert (loss(style.flip(1), style).style > 0).all()


def test_a_picture_scores_the_same_whoever_is_in_its_batch(extract):
    stylized, photos = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    loss = made(extract, torch.rand(1, 3, 16, 16))
    together = loss(stylized, photos)
    for i in range(3):
        alone = loss(stylized[i : i + 1], photos[i : i + 1])
        assert_close(together.total[i], alone.total[0])
        assert_close(together.content[i], alone.content[0])


def test_layers_count_as_much_as_they_are_given(extract):
    style, stylized = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    single = [made(extract, style, None, "deep", {n: 1.0}) for n in ("shallow", "deep")]
    both = made(extract, style, None, "deep", {"shallow": 3.0, "deep": 0.25})
    shallow, deep = (loss(stylized, stylized).style for loss in single)
    assert_close(both(stylized, stylized).style, 3 * shallow + 0.25 * deep)


def test_gradients_reach_the_stylized_picture_only(extract):
    stylized = torch.rand(2, 3, 16, 16, requires_grad=True)
    photos = torch.rand(2, 3, 16, 16, requires_grad=True)
    loss = made(extract, torch.rand(1, 3, 16, 16, requires_grad=True))
    loss(stylized, photos).total.mean().backward()
    assert stylized.grad.abs().sum() > 0
    assert photos.grad is None
    assert not list(loss.parameters())


def test_photographs_are_looked_at_without_a_graph_and_no_deeper_than_content(extract):
    calls = []

    def watched(image, layers):
        found = extract(image, layers)
        calls.append((torch.is_grad_enabled(), set(layers)))
        return found

    loss = made(watched, torch.rand(1, 3, 16, 16), content_layer="shallow")
    loss(torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16))
    assert calls == [
        (False, {"shallow", "deep"}),  # the style, once
        (True, {"shallow", "deep"}),  # the stylized picture
        (False, {"shallow"}),  # the photograph
    ]


def test_pictures_of_another_size_than_the_style_can_be_judged(extract):
    style = torch.rand(1, 3, 12, 12).repeat(1, 1, 2, 2)
    loss = made(extract, style, style_layers={"shallow": 1.0})
    terms = loss(torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20))
    assert terms.total.shape == (2,)


def test_the_original_projects_weights_are_the_defaults():
    assert Weights() == Weights(content=1.0, style=12.0, variation=0.0)


def test_each_layer_tells_its_own_distance_before_any_weight(extract):
    style, stylized, photos = (torch.rand(1, 3, 16, 16) for _ in range(3))
    loss = made(extract, style, Weights(2.0, 3.0), "deep", {"shallow": 4.0, "deep": 0.5})
    terms, found = loss(stylized, photos), loss.by_layer(stylized, photos)
    assert_close(2 * found["content_deep"], terms.content)
    assert_close(3 * (4 * found["style_shallow"] + 0.5 * found["style_deep"]), terms.style)
