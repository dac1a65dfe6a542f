"""Colours and directions of a clip's frames survive the way to pixels and back."""

import clip_fixtures
import numpy as np
import pytest
import torch

from fnst import clips, frames
from fnst.frames import Colours, Turn


def there_and_back(colours, layout="yuv444p"):
    ramp = torch.arange(0, 256, 5, dtype=torch.uint8)
    pixels = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij")).repeat(2, 1, 1)[None, :3]
    frame = frames.from_pixels(pixels.contiguous(), colours, layout)
    size = (pixels.shape[3], pixels.shape[2])
    return pixels.int(), frames.to_pixels(frame, colours, Turn(), size).int(), frame


@pytest.mark.parametrize("matrix", [frames.BT709, frames.BT601])
@pytest.mark.parametrize("scale", [frames.LIMITED, frames.FULL])
def test_colours_come_back_as_they_were(matrix, scale):
    before, after, frame = there_and_back(Colours(matrix, scale, matrix, matrix, matrix))
    assert (before - after).abs().max() <= 2
    # nothing grows darker, but for what libswscale takes in full range, less than half a level
    assert (before - after).float().mean().abs() < (0.1 if scale == frames.LIMITED else 0.5)
    assert (frame.colorspace, frame.color_range) == (matrix, scale)


def test_what_a_file_does_not_say_is_guessed_as_players_do(tmp_path):
    for size, guess in (((64, 48), frames.BT601), ((1280, 16), frames.BT709)):
        clip = clips.read(clip_fixtures.write(tmp_path / f"{guess}.mp4", size=size, times=[0]))
        assert clip.colours.assumed == guess
        assert clip.colours.matrix == frames.UNTOLD  # and stays unsaid


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_as_players_turn_them(degrees):
    matrix = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    rows = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    # the matrix is that of coordinates with y down: 90 is clockwise
    assert np.array_equal(Turn(*matrix[degrees])(rows), np.rot90(rows, -degrees // 90))
