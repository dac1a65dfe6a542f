"""What each control does to what paints, measured on painters whose answer is known."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fnst import controls
from fnst.controls import Controls, Ingredient, blend, compose, keep_colors, masked, strength
from fnst.errors import HugeError, ImageError, ParamsError
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.oklab import to_oklab
from fnst.stylize import stylize


@pytest.fixture
def photo():
    return torch.rand(1, 3, 40, 52)


@pytest.fixture
def painting():
    """What a painter paints that has only one subject."""
    return torch.rand(1, 3, 40, 52)


@pytest.fixture
def paint(painting):
    return lambda photo: painting.to(photo.dtype)


def levels(image):
    return image.mul(255).round().to(torch.uint8)


def halfway(painting):
    """A painter who gets half of the way each time."""
    return lambda picture: picture.lerp(painting, 0.5)


def lightness(image):
    return to_oklab(image)[:, 0]


def colours(image):
    return to_oklab(image)[:, 1:]


# --- strength -------------------------------------------------------------------------------------


def test_strength_0_is_the_photograph_and_1_the_painting(photo, painting, paint):
    assert torch.equal(strength(paint, 0.0)(photo), photo)
    assert torch.equal(strength(paint, 1.0)(photo), painting)


@pytest.mark.parametrize("nearly", [0.9999, 1.0001])
def test_strength_does_not_jump_at_1(photo, painting, nearly):
    paint = halfway(painting)
    assert_close(strength(paint, nearly)(photo), paint(photo), atol=1e-3, rtol=0)


def test_more_strength_is_more_style_and_less_content(extract):
    photo, painting = torch.rand(1, 3, 40, 52) * 0.4, 1 - torch.rand(1, 3, 40, 52) * 0.6
    loss = PerceptualLoss(
        extract,
        painting,
        content_layer="deep",
        style_layers={"shallow": 1.0, "deep": 1.0},
        weights=Weights(),
    )
    amounts = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    terms = [loss(strength(halfway(painting), a)(photo), photo) for a in amounts]
    style = [t.style.item() for t in terms]
    content = [t.content.item() for t in terms]
    assert style == sorted(style, reverse=True)
    assert content == sorted(content)
    assert len(set(style)) == len(set(content)) == len(amounts)


def test_weak_strength_draws_strokes_before_it_changes_colours(photo, painting, paint):
    weak = strength(paint, 0.25)(photo)

    def way(part):
        return ((part(weak) - part(photo)).norm() / (part(painting) - part(photo)).norm()).item()

    assert 0.3 < way(lightness) < 0.45  # 0.25 ** 0.7 is 0.38
    assert 0.05 < way(colours) < 0.2  # 0.25 ** 1.5 is 0.13


def test_the_strongest_is_painted_twice(photo, painting):
    paint = halfway(painting)
    assert_close(strength(paint, 1.5)(photo), paint(paint(photo)), atol=1e-4, rtol=0)


# --- colours --------------------------------------------------------------------------------------


def test_kept_colours_are_the_photographs(photo):
    muted = 0.5 + 0.1 * (photo - 0.5)  # a screen shows these colours at every lightness
    painting = 0.5 + 0.2 * (torch.rand_like(photo).mean(1, keepdim=True) - 0.5).expand_as(photo)
    kept = keep_colors(lambda _: painting)(muted)
    assert_close(colours(kept), colours(muted), atol=1e-3, rtol=0)
    correlated = torch.stack([lightness(kept).flatten(), lightness(painting).flatten()]).corrcoef()
    assert correlated[0, 1] > 0.9999


def test_a_dark_style_does_not_darken_kept_colours(photo):
    kept = keep_colors(lambda photo: photo / 4)(photo)
    assert lightness(kept).mean() == pytest.approx(lightness(photo).mean().item(), abs=0.02)


def test_kept_colours_of_the_photograph_itself_are_the_photograph(photo):
    assert_close(keep_colors(lambda p: p)(photo), photo, atol=1e-3, rtol=0)


def test_a_flat_painting_stays_flat(photo):
    kept = keep_colors(lambda photo: torch.full_like(photo, 0.3))(photo)
    assert lightness(kept).std() < 1e-3


# --- strokes --------------------------------------------------------------------------------------


def stripes(photo):
    """A painter whose strokes are 8 pixels apart, whatever the picture."""
    wave = torch.arange(photo.shape[-1]) * (2 * torch.pi / 8)
    return (0.5 + 0.4 * wave.sin()).expand(photo.shape).contiguous()


def spacing(image):
    """How many pixels the strongest wave along rows is long."""
    waves = torch.fft.rfft(image[0, 0].mean(0) - image.mean()).abs()
    return image.shape[-1] / waves.argmax().item()


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("convert", [torch.Tensor.float, levels])
def test_strokes_have_the_size_that_was_asked_for(size, convert):
    photo = convert(torch.rand(1, 3, 48, 192))
    painted = controls.stroke_size(lambda p: convert(stripes(p)), size)(photo)
    assert painted.shape == photo.shape
    assert painted.dtype == photo.dtype
    assert spacing(painted.float()) == 8 * size


def test_large_strokes_are_crisp_and_without_halos():
    def edge(photo):
        steps = torch.tensor([0.2, 0.35, 0.65, 0.8]).repeat_interleave(photo.shape[-1] // 4)
        return steps.expand(photo.shape).contiguous()

    wide = torch.rand(1, 3, 40, 16)
    painted = controls.stroke_size(edge, 4.0)(wide)[0, 0, 20]
    only_enlarged = resized(edge(resized(wide, (10, 4))), (40, 16))[0, 0, 20]
    assert painted.diff().max() > 1.2 * only_enlarged.diff().max()
    assert painted.max() <= only_enlarged.max() + 1e-6
    assert painted.min() >= only_enlarged.min() - 1e-6


def resized(image, shape):
    return torch.nn.functional.interpolate(image, shape, mode="bicubic", antialias=True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
@pytest.mark.parametrize("size", [0.3, 16.0])
def test_the_smallest_pictures_keep_their_size(shape, size):
    photo = torch.rand(1, 3, *shape)
    assert controls.stroke_size(lambda p: p, size)(photo).shape == photo.shape


def test_strokes_so_small_that_the_picture_gets_too_large_are_refused():
    photo = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1, 3, 9000, 9000)
    with pytest.raises(ImageError, match=r"at most 250 megapixels.* got 0\.25, which takes 36000x"):
        controls.stroke_size(lambda p: p, 0.25)(photo)


def test_small_strokes_and_masks_may_be_as_huge_as_is_asked_for(tmp_path):
    photo = torch.rand(1, 3, 4, 5)
    for most_pixels, fits in ((79, False), (80, True)):
        paint = compose([(lambda p: p, 1.0)], Controls(stroke_size=0.5, most_pixels=most_pixels))
        with nullcontext() if fits else pytest.raises(ImageError, match="or say --allow-huge"):
            assert paint(photo).shape == photo.shape
    Image.new("L", (5, 4)).save(tmp_path / "mask.png")
    assert controls.load_mask(tmp_path / "mask.png", 20).shape == (1, 1, 4, 5)
    with pytest.raises(HugeError, match=r"mask\.png: expected at most"):
        controls.load_mask(tmp_path / "mask.png", 19)


# --- blends ---------------------------------------------------------------------------------------


def only(*values):
    """A painter of one colour."""
    return lambda photo: torch.tensor(values).view(1, 3, 1, 1).expand(photo.shape).contiguous()


RED, BLUE, GREEN = only(0.7, 0.3, 0.3), only(0.3, 0.3, 0.7), only(0.3, 0.6, 0.3)


def test_a_blend_is_the_weighted_mean_in_oklab(photo):
    mixed = blend([(RED, 2.0), (BLUE, 1.0), (GREEN, 1.0)])(photo)
    parts = [to_oklab(each(photo)) for each in (RED, BLUE, GREEN)]
    assert_close(to_oklab(mixed), (2 * parts[0] + parts[1] + parts[2]) / 4, atol=1e-3, rtol=0)


def test_only_the_proportion_of_weights_counts(photo):
    few, many = ([(RED, 0.7 * k), (BLUE, 0.3 * k)] for k in (1, 10))
    assert_close(blend(few)(photo), blend(many)(photo))


def test_a_blend_of_one_is_that_one(photo):
    assert torch.equal(blend([(RED, 0.2)])(photo), RED(photo))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a:0.7,b:0.3", [Ingredient("a", None, 0.7), Ingredient("b", None, 0.3)]),
        ("a, b", [Ingredient("a"), Ingredient("b")]),
        ("a@3:2,a@best", [Ingredient("a", "3", 2.0), Ingredient("a", "best")]),
    ],
)
def test_what_a_blend_names(text, parts):
    assert controls.ingredients(text) == parts


def test_what_stands_behind_the_at_is_a_number_or_an_alias():
    by_number, by_alias, champion = controls.ingredients("a@3,a@best,a")
    assert (by_number.number, by_number.alias) == (3, None)
    assert (by_alias.number, by_alias.alias) == (None, "best")
    assert (champion.number, champion.alias) == (None, None)


@pytest.mark.parametrize(
    "text", ["a:x,b", "a:0,b", "a:-1,b", "a:inf,b", "a:nan,b", "a,", ":1,b", "a@:1,b", "a:,b"]
)
def test_a_blend_that_cannot_be_read_is_refused(text):
    with pytest.raises(ParamsError, match="expected a style and its weight above 0"):
        controls.ingredients(text)


def test_a_blend_of_one_style_is_refused():
    with pytest.raises(ParamsError, match="expected at least two styles to blend"):
        controls.ingredients("a:1")


# --- masks ----------------------------------------------------------------------------------------


def test_a_mask_says_where_to_paint(photo, painting, paint):
    mask = torch.zeros(1, 1, 40, 52, dtype=torch.uint8)
    mask[..., :10, :] = 255
    mask[..., 10:20, :] = 51
    result = masked(paint, mask)(photo)
    assert torch.equal(result[..., :10, :], painting[..., :10, :])
    assert_close(result[..., 10:20, :], (0.8 * photo + 0.2 * painting)[..., 10:20, :])
    assert torch.equal(result[..., 20:, :], photo[..., 20:, :])


def test_a_mask_is_stretched_to_the_picture(photo, painting, paint):
    left = torch.tensor([255, 0], dtype=torch.uint8).view(1, 1, 1, 2)
    result = masked(paint, left)(photo)
    assert torch.equal(result[..., :12], painting[..., :12])
    assert torch.equal(result[..., 40:], photo[..., 40:])


def test_a_mask_file_is_turned_and_its_clear_parts_count_as_black(tmp_path):
    drawn = np.zeros((2, 3, 4), np.uint8)
    drawn[0, :, 3] = 255  # the upper row is solid
    drawn[:, 0, :3] = 255  # the left column is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(drawn).save(tmp_path / "mask.png", exif=exif)
    mask = controls.load_mask(tmp_path / "mask.png")
    assert mask[0, 0].tolist() == [[0, 255], [0, 0], [0, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_mask_may_have_any_mode(tmp_path, mode):
    white = np.full((2, 3), 65535 if mode == "I;16" else 255, np.uint16)
    drawn = Image.fromarray(white) if mode == "I;16" else Image.fromarray(white.astype(np.uint8))
    drawn.convert(mode).save(tmp_path / "mask.png")
    assert controls.load_mask(tmp_path / "mask.png").tolist() == [[[[255] * 3] * 2]]


def test_what_is_no_mask_is_one_sentence(tmp_path):
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"mask\.png: this is not a picture that can be read\.$"):
        controls.load_mask(tmp_path / "mask.png")


# --- together -------------------------------------------------------------------------------------


ALL = Controls(
    stroke_size=2.0,
    strength=0.5,
    keep_colors=True,
    mask=torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1),
)


def test_all_controls_compose_in_their_order(photo):
    paints = [(stripes, 0.6), (RED, 0.4)]
    by_hand = blend([(controls.stroke_size(paint, 2.0), weight) for paint, weight in paints])
    by_hand = masked(keep_colors(strength(by_hand, 0.5)), ALL.mask)
    assert torch.equal(compose(paints, ALL)(photo), by_hand(photo))


def test_without_controls_the_painting_is_untouched(photo, painting, paint):
    assert torch.equal(compose([(paint, 1.0)], Controls())(photo), painting)


def test_a_picture_of_256_levels_comes_out_the_same_within_a_few(photo):
    def soften(picture):
        small = torch.nn.functional.avg_pool2d(picture.float(), 3, 1, 1)
        return small if picture.is_floating_point() else small.round().to(torch.uint8)

    paint = compose([(soften, 0.6), (lambda p: p.flip(1), 0.4)], ALL)
    exact, fast = paint(levels(photo) / 255), paint(levels(photo))
    assert fast.dtype == torch.uint8
    assert (exact * 255 - fast).abs().max() < 6


def test_a_real_network_under_all_controls_keeps_the_picture_whole():
    network = TransformerNetwork(width=4, blocks=1).eval()
    photo = torch.rand(1, 3, 33, 21)
    before = photo.clone()
    result = compose([(partial(stylize, network), 1.0)], ALL)(photo)
    assert result.shape == photo.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(photo, before)
    assert_close(result[..., :6, :], photo[..., :6, :])  # where the mask is black


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_bands_change_nothing(photo, monkeypatch, rows):
    paint = compose([(lambda p: p.flip(1), 0.6), (lambda p: 1 - p, 0.4)], ALL)
    whole = paint(photo)
    monkeypatch.setattr(controls, "BAND", rows * photo.shape[-1])
    assert_close(paint(photo), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 1.6}, r"expected a strength from 0 to 1\.5, got 1\.6\."),
        ({"strength": float("nan")}, r"expected a strength from 0 to 1\.5, got nan\."),
        ({"stroke_size": 0.1}, r"expected a stroke size from 0\.25 to 16, got 0\.1\."),
    ],
)
def test_numbers_out_of_bounds_are_refused(wrong, message):
    with pytest.raises(ParamsError, match=message):
        Controls(**wrong)


def test_other_controls_give_a_result_another_name():
    assert Controls().label == ""
    assert ALL.label == "-stroke2-strength0.5-colors-masked"
