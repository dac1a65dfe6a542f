"""Before and after, and versions side by side."""

import torch
from torch.testing import assert_close

from fnst import images, sheets
from fnst.images import Picture


def dim(photo):
    return photo / 2


def invert(photo):
    return 1 - photo


def shown(sheet, index, width, height):
    """A picture of the sheet; they stand 16 pixels apart under a line of headings."""
    left = 16 + index * (width + 16)
    return sheet.rgb[..., 34 : 34 + height, left : left + width]


def test_one_that_paints_alone_needs_no_sheet():
    photo = Picture(torch.rand(1, 3, 9, 7), torch.rand(1, 1, 9, 7))
    result = sheets.painter({"a": dim}, before=False)(photo)
    assert torch.equal(result.rgb, photo.rgb / 2)
    assert result.alpha is photo.alpha


def test_before_stands_in_front_of_after():
    photo = Picture(torch.rand(1, 3, 50, 120))
    sheet = sheets.painter({"dim": dim}, before=True)(photo)
    assert_close(shown(sheet, 0, 120, 50), photo.rgb, atol=1 / 255, rtol=0)
    assert_close(shown(sheet, 1, 120, 50), photo.rgb / 2, atol=1 / 255, rtol=0)


def test_versions_stand_side_by_side_in_their_order():
    photo = Picture(torch.rand(1, 3, 50, 120))
    sheet = sheets.painter({"one": dim, "two": invert}, before=False)(photo)
    assert_close(shown(sheet, 0, 120, 50), photo.rgb / 2, atol=1 / 255, rtol=0)
    assert_close(shown(sheet, 1, 120, 50), 1 - photo.rgb, atol=1 / 255, rtol=0)


def test_what_is_transparent_shows_the_paper():
    clear = Picture(torch.rand(1, 3, 50, 120), torch.zeros(1, 1, 50, 120))
    sheet = sheets.painter({"dim": dim}, before=True)(clear)
    paper = torch.tensor(images.PAPER).view(1, 3, 1, 1) / 255
    assert sheet.alpha is None
    assert_close(shown(sheet, 1, 120, 50), paper.expand(1, 3, 50, 120))


def test_large_pictures_are_painted_whole_and_shown_smaller():
    seen = []
    photo = Picture(torch.zeros(1, 3, 20, 4000))
    sheet = sheets.painter({"a": lambda p: seen.append(p.shape) or p}, before=True)(photo)
    assert seen == [(1, 3, 20, 4000)]
    assert sheet.rgb.shape[-1] == 2 * sheets.SIDE + 3 * 16
