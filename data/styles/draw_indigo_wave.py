"""Draw ``indigo-wave.png``, a style picture in the manner of a woodblock print.

A great wave curls in from the right and breaks into claws of foam over a boat; a smaller
wave rises to meet it from the left, a swell rolls along the front, birds fly through
the spray, and a rust sun and a far mountain stand in a graded sky. The composition is this
project's own, drawn from nothing but the numbers below, and is under the project's MIT
licence.

The picture is built as a print is: flat colour plates cut from smooth curves, a separate
ink plate laid over them, then a breath of the block's grain. A network learns a style from
it, so its shapes are few and large and its open areas calm: whatever is busy here comes
back as hatching in every picture made with it. The same seed always gives the same picture.

    python data/styles/draw_indigo_wave.py
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

Array = np.ndarray
Colour = tuple[int, int, int]
Talons = tuple[tuple[float, int, float], ...]

WIDTH, HEIGHT = 1200, 960
SUPERSAMPLE = 3
SEED = 1831
TONE_STEP = 2  # tones are rounded to this, which keeps the file small
# Where a claw's talons leave it, on which side (-1 is the outer side of the bend), and how
# long they are, as shares of the claw's length.
TALONS = ((0.17, -1, 0.46), (0.38, -1, 0.52), (0.45, 1, 0.32), (0.62, -1, 0.38))
RHYTHM = (1.0, 0.8, 1.15, 0.9)  # sizes of neighbouring claws
OUTPUT = Path(__file__).with_name("indigo-wave.png")

INK = (24, 32, 56)
INDIGO = (28, 46, 84)
PRUSSIAN = (42, 80, 120)
MID = (78, 126, 156)
SOFT = (136, 174, 182)
PALE = (188, 209, 204)
CREAM = (241, 231, 206)
MIST = (236, 226, 196)
SAND = (226, 206, 164)
OCHRE = (204, 170, 112)
RUST = (190, 84, 54)
MOSS = (108, 124, 92)

SKY_STOPS = (
    (0.00, PRUSSIAN),
    (0.05, (62, 94, 126)),
    (0.15, (158, 172, 168)),
    (0.27, (205, 196, 168)),
    (0.48, (214, 192, 148)),
    (0.62, (196, 170, 132)),
    (0.72, (126, 128, 138)),
    (1.00, (72, 92, 122)),
)


# --- curves ---------------------------------------------------------------------------------


def smooth(points: ArrayLike, count: int = 400) -> Array:
    """A Catmull-Rom curve through the points, at even steps of arc length."""
    p = np.asarray(points, float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    u = np.linspace(0, 1, 40, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        parts.append(
            0.5
            * (
                2 * b
                + (c - a) * u
                + (2 * a - 5 * b + 4 * c - d) * u**2
                + (3 * b - a - 3 * c + d) * u**3
            )
        )
    path = np.vstack([*parts, p[-2:-1]])
    return resample(path, count)


def resample(path: Array, count: int) -> Array:
    """The same path at ``count`` points evenly spaced along its length."""
    s = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.linspace(0, s[-1], count)
    return np.stack([np.interp(at, s, path[:, 0]), np.interp(at, s, path[:, 1])], axis=1)


def normals(path: Array) -> Array:
    """Unit normals of a path: its tangents turned a quarter (to the right on the page)."""
    t = np.gradient(path, axis=0)
    t /= np.maximum(np.hypot(t[:, 0], t[:, 1]), 1e-9)[:, None]
    return np.stack([-t[:, 1], t[:, 0]], axis=1)


def hook(
    origin: ArrayLike, angle: float, length: float, turn: float, power: float = 1.7, count: int = 26
) -> Array:
    """A path that leaves at ``angle`` and bends ever faster, by ``turn`` radians in all."""
    u = np.linspace(0, 1, count)
    theta = angle + turn * u**power
    step = length / (count - 1)
    xy = np.cumsum(np.stack([np.cos(theta), np.sin(theta)], axis=1) * step, axis=0)
    return np.asarray(np.asarray(origin, float) + xy - xy[0])


def ribbon(path: Array, half: ArrayLike) -> Array:
    """The polygon of a stroke along a path whose half-width at each point is given."""
    n = normals(path) * np.asarray(half, float)[:, None]
    return np.vstack([path + n, (path - n)[::-1]])


def swell(count: int, start: float = 0.0, power: float = 0.7) -> Array:
    """Widths that grow from ``start`` and fade to nothing, as a brush pressed and lifted."""
    u = np.linspace(0, 1, count)
    return np.asarray(np.maximum(np.sin(np.pi * (start + (1 - start) * u)), 0) ** power)


def ring(x: float, y: float, r: float, count: int = 16) -> Array:
    """A circle as a polygon."""
    a = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + r * np.cos(a), y + r * np.sin(a)], axis=1)


# --- the two plates -------------------------------------------------------------------------


class Print:
    """The colour plates and the ink plate of one picture, drawn large and brought down."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        size = (WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE)
        self.colour = Image.new("RGB", size, CREAM)
        self.ink = Image.new("L", size, 0)
        self._c = ImageDraw.Draw(self.colour)
        self._i = ImageDraw.Draw(self.ink)

    def fill(self, polygon: ArrayLike, colour: Colour) -> None:
        """Lay flat colour over a polygon, hiding any ink under it."""
        xy = [tuple(q) for q in np.asarray(polygon) * SUPERSAMPLE]
        self._c.polygon(xy, fill=colour)
        self._i.polygon(xy, fill=0)

    def cut(self, polygon: ArrayLike) -> None:
        """Ink a polygon solid."""
        self._i.polygon([tuple(q) for q in np.asarray(polygon) * SUPERSAMPLE], fill=255)

    def line(self, path: Array, width: float, taper: Array | None = None) -> None:
        """An ink line along a path, pressed and lifted unless ``taper`` gives its widths."""
        path = np.asarray(path, float)
        taper = swell(len(path), 0.06, 0.5) if taper is None else taper
        wobble = 1 + 0.18 * np.interp(
            np.linspace(0, 1, len(path)), np.linspace(0, 1, 9), self.rng.normal(size=9)
        )
        self.cut(ribbon(path, np.maximum(width / 2 * taper * wobble, 0.15)))

    def dot(self, x: float, y: float, r: float) -> None:
        """A drop of foam, slightly out of round, with an ink rim heavier below."""
        e, phase = 1 + 0.16 * self.rng.random(), self.rng.random() * np.pi
        c, s = math.cos(phase), math.sin(phase)
        shape = ring(0, 0, 1, 40) * (e, 1 / e) @ np.array([[c, s], [-s, c]])
        self.cut(shape * (r + 2.6) + (x + 0.5, y + 0.9))
        self.fill(shape * r + (x, y), CREAM)

    def grade(
        self,
        polygon: ArrayLike,
        colour: Colour,
        start: ArrayLike,
        end: ArrayLike,
        strength: float = 1.0,
    ) -> None:
        """Bokashi: tint a polygon, from nothing at ``start`` to full strength at ``end``."""
        k = SUPERSAMPLE
        poly = np.asarray(polygon) * k
        x0, y0 = np.maximum(np.floor(poly.min(axis=0)), 0).astype(int)
        x1, y1 = np.ceil(poly.max(axis=0)).astype(int)
        x1, y1 = min(int(x1), self.colour.width), min(int(y1), self.colour.height)
        if x1 <= x0 or y1 <= y0:
            return
        w, h = x1 - x0, y1 - y0
        mask = Image.new("L", (w, h), 0)
        ImageDraw.Draw(mask).polygon([tuple(q) for q in poly - (x0, y0)], fill=255)
        a, b = np.asarray(start, float), np.asarray(end, float)
        d = (b - a) / max(float((b - a) @ (b - a)), 1e-9)
        small = (max(w // k, 1), max(h // k, 1))
        xx = np.linspace(x0, x1, small[0]) / k - a[0]
        yy = np.linspace(y0, y1, small[1]) / k - a[1]
        f = np.clip(xx[None, :] * d[0] + yy[:, None] * d[1], 0, 1)
        f = f * f * (3 - 2 * f) * strength
        ramp = Image.fromarray((f * 255).astype(np.uint8)).resize((w, h), Image.Resampling.BILINEAR)
        alpha = Image.fromarray(
            (np.asarray(mask, np.uint16) * np.asarray(ramp, np.uint16) // 255).astype(np.uint8)
        )
        self.colour.paste(colour, (int(x0), int(y0), int(x1), int(y1)), alpha)


# --- foam -----------------------------------------------------------------------------------


def claw_parts(
    rng: np.random.Generator,
    origin: ArrayLike,
    angle: float,
    length: float,
    width: float,
    turn: float,
    talons: Talons = (),
) -> list[tuple[Array, Array]]:
    """The strokes of one claw: a hooked finger, and the talons that leave it.

    All hook the way the finger does. A stroke is a path and its half-width at each point.
    """
    path = hook(origin, angle, length, turn, 1.5, 40)
    u = np.linspace(0, 1, len(path))
    half = width * (0.05 + 0.95 * (1 - u) ** 0.75) * np.sqrt(np.minimum(1, u / 0.12))
    parts = [(path, half)]
    sign = math.copysign(1.0, turn)
    for at, side, share in talons:
        at = at + rng.uniform(-0.04, 0.04)
        i = int(at * (len(path) - 1))
        spread, bend = (0.95, 1.75) if side < 0 else (0.8, 1.1)
        here = angle + turn * at**1.5 + side * sign * (spread + rng.uniform(-0.12, 0.12))
        reach = length * share * rng.uniform(0.85, 1.15)
        parts += claw_parts(rng, path[i], here, reach, half[i] * 0.62, sign * bend)
    return parts


def draw_claw(
    plate: Print,
    origin: ArrayLike,
    angle: float,
    length: float,
    width: float,
    turn: float,
    colour: Colour = CREAM,
    talons: Talons = TALONS,
) -> None:
    """One claw: one outlined shape, a soft shadow along its inner side, a vein if it is long."""
    parts = claw_parts(plate.rng, origin, angle, length, width, turn, talons)
    ink = min(1.8 + 0.012 * length, 3.4)
    for k, (path, half) in enumerate(parts):
        first = 0 if k else 4
        rise = np.clip((np.arange(len(path)) - first) / 8, 1 if k else 0, 1)
        edge = ribbon(path + 0.2 * ink * rise[:, None], half + ink * rise)
        plate.cut(edge[first : len(edge) - first])
        x, y = path[-1]
        plate.cut(ring(x + 0.2 * ink, y + 0.2 * ink, half[-1] + ink))
    for path, half in parts:
        plate.fill(ribbon(path, half), colour)
        plate.fill(ring(path[-1, 0], path[-1, 1], half[-1]), colour)
    path, half = parts[0]
    n = normals(path) * (half * 0.5 * math.copysign(1.0, turn))[:, None]
    shade = PALE if colour == CREAM else MID
    plate.fill(ribbon((path + n)[8:34], half[8:34] * 0.5 * swell(26)), shade)
    if length > 100:
        plate.line((path - 0.2 * n)[6:30], 2.8)


def draw_fringe(
    plate: Print,
    path: Array,
    count: int,
    length: tuple[float, float],
    lean: float,
    curl: float,
    colour: Colour = CREAM,
    talons: Talons = TALONS,
) -> None:
    """A row of claws along a path, turned from its flow by ``lean``, bending by ``curl``.

    ``length`` is a pair: the claws' size at the start of the path and at its end. They are
    laid from the end back, so that each one's root is covered by the one before it.
    """
    rng = plate.rng
    t = normals(path)
    low, high = length
    for k, u in reversed(list(enumerate(spots(count)))):
        i = int(u * (len(path) - 1))
        size = (low + (high - low) * u) * RHYTHM[k % len(RHYTHM)]
        angle = math.atan2(-t[i, 0], t[i, 1]) + lean + rng.uniform(-0.12, 0.12)
        width = size * 0.14
        back = path[i] - np.array([math.cos(angle), math.sin(angle)]) * width * 1.5
        turn = curl * rng.uniform(0.9, 1.15)
        draw_claw(plate, back, angle, size, width, turn, colour, talons)


def spots(count: int) -> Array:
    """Where along a rim, from 0 to 1, its claws stand: in loose pairs."""
    k = np.arange(count)
    return np.asarray((k + np.where(k % 2, 0.41, 0.59)) / count)


def scallop(path: Array, count: int, depth: float) -> Array:
    """The path with a lobe that mounts to the spot of each claw and drops beyond it.

    The lobes stand off to the path's right if ``depth`` is positive, else to its left.
    """
    u = np.linspace(0, 1, len(path))
    x = np.interp(u, np.array([-1, *spots(count), 2]), np.arange(-1, count + 1)) % 1
    bump = depth * x**1.3 * np.sqrt(1 - x**6) * (1 - u**6)
    return np.asarray(path + normals(path) * bump[:, None])


def draw_foam(
    plate: Print, body: Body, rim: Array, crescents: Iterable[tuple[float, float, float, float]]
) -> None:
    """A calm mass of foam from a wave's back to a rim, with crescents along its flow.

    Each crescent is its share of the way from back to face, where along the flow it starts
    and ends, and its greatest half-width in pixels.
    """
    rim = np.vstack([rim, body.face[-1:]])
    plate.fill(np.vstack([body.back, rim[::-1]]), CREAM)
    rim = resample(rim, 400)
    plate.line(rim, 3.2, np.ones(len(rim)))
    for share, t0, t1, half in crescents:
        path = body.at(share, t0, t1)
        width = half * swell(len(path), 0.02, 0.9)
        plate.fill(ribbon(path, width), PALE)
        plate.line(path - normals(path) * width[:, None], 3.0)
    plate.line(body.back, 3.8, np.linspace(0.8, 1.1, body.count))


# --- waves ----------------------------------------------------------------------------------


class Body:
    """A wave's body: all the curves that lie between its back and its face."""

    def __init__(self, back: ArrayLike, face: ArrayLike, count: int = 420) -> None:
        self.back = smooth(back, count)
        self.face = smooth(face, count)
        self.count = count

    def at(self, share: ArrayLike, t0: float = 0.0, t1: float = 1.0) -> Array:
        """The curve that lies ``share`` of the way from back to face, between t0 and t1."""
        i0, i1 = int(t0 * (self.count - 1)), int(t1 * (self.count - 1)) + 1
        mix = np.asarray(share, float)
        if mix.ndim:
            along = np.linspace(0, 1, i1 - i0)
            mix = np.interp(along, np.linspace(0, 1, len(mix)), mix)[:, None]
        return np.asarray(self.back[i0:i1] * (1 - mix) + self.face[i0:i1] * mix)

    def outline(self) -> Array:
        """The closed polygon of the whole body."""
        return np.vstack([self.back, self.face[::-1]])


def draw_stripes(
    plate: Print, body: Body, stripes: Iterable[tuple[float, float, float, float, Colour]]
) -> None:
    """Bands along the body, thick and thin, each with one ink line that swells at its edge.

    Each is its share from back to face, its half-width as a share, where along the flow it
    starts and ends, and its colour.
    """
    for share, half, t0, t1, colour in stripes:
        width = half * swell(80, 0.35 if t0 <= 0 else 0.02)
        edge = body.at(share - width, t0, t1)
        plate.fill(np.vstack([edge, body.at(share + width, t0, t1)[::-1]]), colour)
        plate.line(edge, 3.2)


def draw_great_wave(plate: Print) -> None:
    """The wave that curls in from the right: body, stripes, crest, lip and claws."""
    body = Body(
        [
            (1330, 1010), (1300, 700), (1225, 440), (1090, 240), (900, 112),
            (700, 78), (530, 124), (410, 210), (352, 318),
        ],
        [
            (380, 900), (520, 800), (632, 690), (690, 560), (684, 440),
            (630, 352), (566, 322), (508, 340), (474, 392),
        ],
    )  # fmt: skip
    shape = body.outline()
    plate.fill(shape, PRUSSIAN)
    plate.grade(shape, INDIGO, (960, 620), (560, 300), 0.9)
    draw_stripes(
        plate,
        body,
        (
            (0.30, 0.046, 0.0, 0.84, INDIGO),
            (0.42, 0.040, 0.0, 0.80, MID),
            (0.53, 0.040, 0.0, 0.92, INDIGO),
            (0.64, 0.034, 0.0, 0.88, SOFT),
            (0.75, 0.038, 0.0, 0.95, INDIGO),
            (0.86, 0.034, 0.0, 0.94, MID),
            (0.585, 0.011, 0.3, 0.84, CREAM),
            (0.80, 0.010, 0.12, 0.7, PALE),
            (0.695, 0.010, 0.2, 0.86, PALE),
        ),
    )
    # a thin foam rim under the lip
    rim = body.at(1 - 0.07 * swell(60), 0.68, 1.0)
    plate.fill(np.vstack([rim, body.at(1.0, 0.68, 1.0)[::-1]]), CREAM)
    plate.line(body.face, 4.2, np.linspace(0.7, 1, len(body.face)))

    # crest: a cream back whose lower edge breaks into claws over the face
    wave = np.linspace(0, 1, 80)
    edge = 0.15 + 0.02 * np.sin(wave * 11) + 0.3 * wave**3
    edge += 0.07 * np.exp(-(((wave - 0.58) / 0.2) ** 2))
    draw_fringe(plate, body.at(edge + 0.02, 0.12, 0.9), 6, (190, 150), -0.5, -1.9, SOFT, ())
    rim = body.at(edge, 0.05, 0.95)
    draw_foam(
        plate,
        body,
        scallop(rim, 10, -34),
        (
            (0.05, 0.0, 0.26, 9), (0.085, 0.16, 0.44, 8), (0.09, 0.38, 0.58, 8),
            (0.07, 0.56, 0.74, 7), (0.12, 0.68, 0.84, 8), (0.16, 0.8, 0.93, 8),
        ),
    )  # fmt: skip
    draw_fringe(plate, rim, 10, (180, 150), -0.35, -2.1)
    draw_fringe(plate, body.at(0.03, 0.55, 0.97), 4, (80, 112), 0.5, -2.0)
    draw_lip(plate, body, -1, 176, 4)


def draw_lip(plate: Print, body: Body, side: int, reach: float, fingers: int) -> None:
    """The lip: great fingers fanned along a wave's blunt end, pale ones behind cream."""
    head, heel = body.at(0.0)[-1], body.at(0.9)[-1]
    toward = 0.0 if side > 0 else math.pi
    for colour, count, ahead in ((SOFT, fingers - 1, 0.1), (CREAM, fingers, -0.2)):
        for k in range(count - 1, -1, -1):
            u = (k + 0.35) / count
            a = toward + side * (0.1 + 1.5 * u)
            forward = np.array([math.cos(a), math.sin(a)]) * ahead * reach
            start = head + (heel - head) * u + forward
            size = reach * RHYTHM[k % len(RHYTHM)]
            draw_claw(plate, start, a, size, size * 0.13, side * 1.6, colour)


def draw_sky(plate: Print) -> None:
    """The graded sky, its mist bands and the sun."""
    ys = np.linspace(0, 1, 320)
    stops = [s for s, _ in SKY_STOPS]
    cols = np.array([c for _, c in SKY_STOPS], float)
    column = np.stack([np.interp(ys, stops, cols[:, k]) for k in range(3)], axis=1)
    strip = Image.fromarray(np.repeat(column[:, None], 2, axis=1).astype(np.uint8))
    plate.colour.paste(strip.resize(plate.colour.size, Image.Resampling.BICUBIC))
    sun = ring(200, 262, 98, 160)
    plate.cut(ring(200, 262, 101, 160))
    plate.fill(sun, RUST)
    plate.grade(sun, (222, 140, 88), (214, 250), (214, 372), 0.8)
    for x, y, w, h in ((-60, 330, 330, 17), (70, 470, 250, 13), (980, 66, 300, 15)):
        draw_mist(plate, x, y, w, h)


def draw_mist(plate: Print, x: float, y: float, width: float, half: float) -> None:
    """One band of mist: a long bar with rounded ends and a shorter one riding on it."""
    for dx, dy, w, h in ((0.3, -1.5, 0.5, 0.8), (0.0, 0.0, 1.0, 1.0)):
        u = np.linspace(0, 1, 160)
        path = np.stack([x + width * (dx + w * u), y + dy * half + 3 * np.sin(u * 4 + x)], axis=1)
        edge = half * h * (1 - np.abs(2 * u - 1) ** 14) ** 0.5
        bar = resample(ribbon(path, edge), 600)
        plate.fill(bar, MIST)
        plate.line(bar, 3.0, np.ones(len(bar)))


def draw_birds(plate: Print) -> None:
    """A flight of plovers under the curl, each two wings and a body."""
    for x, y, size, tilt in (
        (588, 466, 21, -0.3), (628, 530, 17, -0.1), (532, 538, 18, -0.3), (566, 604, 15, 0.0),
    ):  # fmt: skip
        for angle, turn in ((-0.95 + tilt, 1.3), (-2.2 + tilt, -1.3)):
            wing = hook((x, y), angle, size * 1.7, turn, 1.1)
            plate.cut(ribbon(wing, size * 0.17 * swell(len(wing), 0.3) + 0.4))
        body = hook((x + size * 0.45, y + 1), math.pi + tilt * 0.5, size, 0.4)
        plate.cut(ribbon(body, size * 0.17 * swell(len(body), 0.1)))


def draw_mountain(plate: Print) -> None:
    """A far snow-capped mountain on the horizon, its snow running down in tongues."""
    left = smooth([(140, 706), (236, 670), (290, 616), (322, 574)], 60)
    right = smooth([(346, 578), (374, 616), (430, 668), (540, 706)], 60)
    top = [(330, 578), (338, 573)]
    shape = np.vstack([left, top, right])
    plate.fill(shape, (74, 104, 132))
    plate.grade(shape, SOFT, (330, 644), (330, 706), 0.9)
    hem = smooth(
        [right[28], (384, 638), (372, 668), (360, 642), (345, 690), (331, 644), (311, 672),
         (303, 636), left[34]], 200
    )  # fmt: skip
    plate.fill(np.vstack([left[34:], top, right[:28], hem]), CREAM)
    for x, y in ((296, 642), (322, 654), (352, 664), (378, 648)):
        gully = smooth([(333 + 0.12 * (x - 333), 584), (333 + 0.5 * (x - 333), 612), (x, y)], 24)
        plate.line(gully, 3.2)
    plate.line(shape, 3.0)


def draw_sea(plate: Print) -> None:
    """The far sea under the horizon, in a few long tapered strokes."""
    plate.fill([(0, 700), (WIDTH, 700), (WIDTH, HEIGHT), (0, HEIGHT)], PRUSSIAN)
    for x, y, w, half, tone in (
        (250, 716, 260, 5, MID), (420, 736, 240, 6, INDIGO), (180, 752, 170, 6, MID),
        (180, 790, 240, 8, INDIGO), (430, 812, 260, 8, MID),
    ):  # fmt: skip
        u = np.linspace(0, 1, 40)
        path = np.stack([x + w * u, y + 6 * np.sin(2 * np.pi * u)], axis=1)
        plate.fill(ribbon(path, half * swell(40)), tone)


def draw_boat(plate: Print) -> None:
    """A slim ochre boat in the trough, its crew in straw hats bent to the oars."""
    keel = smooth([(292, 712), (338, 762), (420, 800), (510, 804), (604, 760)], 80)
    rail = smooth([(292, 712), (348, 748), (424, 770), (510, 772), (604, 760)], 80)
    for k in range(4):
        x, y = 398 + 42 * k, 756 + 6 * math.sin(1.0 * k)
        cloak = smooth([(x - 19, y + 20), (x - 13, y - 8), (x + 3, y - 15), (x + 20, y + 22)], 30)
        plate.fill(cloak, (MOSS, INDIGO)[k % 2])
        plate.line(cloak, 2.6, np.ones(30))
        hat = np.array([(x - 20, y - 9), (x - 6, y - 27), (x + 10, y - 13)])
        plate.cut(hat * 1.16 - np.array((x, y - 16)) * 0.16)
        plate.fill(hat, SAND)
    shape = np.vstack([keel, rail[::-1]])
    plate.fill(shape, OCHRE)
    plate.grade(shape, RUST, (440, 778), (440, 806), 0.8)
    plate.line(keel, 4.0, np.ones(80))
    plate.line(rail, 3.0, np.ones(80))
    plate.line(keel * 0.5 + rail * 0.5, 2.4)
    for k in range(4):
        x = 396 + 42 * k
        plate.line(smooth([(x + 4, 764), (x - 14, 800), (x - 30, 838)], 30), 3.2, np.ones(30))


def draw_left_wave(plate: Print) -> None:
    """The smaller wave that rises from the left to meet the great one."""
    body = Body(
        [
            (-90, 1000), (-70, 760), (-10, 612), (92, 548), (196, 560),
            (262, 622), (296, 684),
        ],
        [
            (390, 1000), (250, 900), (172, 810), (152, 746), (168, 704),
            (200, 694), (238, 730),
        ],
    )  # fmt: skip
    shape = body.outline()
    plate.fill(shape, PRUSSIAN)
    plate.grade(shape, INDIGO, (0, 700), (240, 700), 0.9)
    draw_stripes(
        plate,
        body,
        (
            (0.46, 0.055, 0.0, 0.86, MID),
            (0.64, 0.05, 0.0, 0.92, INDIGO),
            (0.78, 0.04, 0.0, 0.94, SOFT),
        ),
    )
    plate.line(body.face, 4.0, np.linspace(0.7, 1, len(body.face)))
    wave = np.linspace(0, 1, 60)
    edge = 0.22 + 0.03 * np.sin(wave * 9) + 0.2 * wave**3
    draw_fringe(plate, body.at(edge + 0.03, 0.2, 0.8), 2, (120, 100), 0.5, 1.9, SOFT, ())
    rim = body.at(edge, 0.15, 0.95)
    draw_foam(plate, body, scallop(rim, 5, 24), ((0.07, 0.34, 0.62, 7), (0.12, 0.55, 0.85, 7)))
    draw_fringe(plate, rim, 5, (128, 92), 0.35, 2.1)
    draw_fringe(plate, body.at(0.03, 0.6, 0.95), 2, (70, 80), -0.5, 2.0)
    draw_lip(plate, body, 1, 116, 3)


def draw_front_swell(plate: Print) -> None:
    """The swell that rolls leftward along the foot of the picture, calm below its foam."""
    body = Body(
        [
            (1280, 640), (1130, 690), (980, 762), (820, 812), (660, 826),
            (480, 822), (300, 836), (120, 862), (-180, 880),
        ],
        [
            (1300, 1110), (1120, 1080), (960, 1070), (800, 1060), (620, 1050),
            (440, 1040), (280, 1050), (120, 1050), (-180, 1060),
        ],
    )  # fmt: skip
    plate.fill(body.outline(), PRUSSIAN)
    draw_stripes(
        plate,
        body,
        ((0.44, 0.05, 0.0, 1.0, MID), (0.6, 0.05, 0.0, 1.0, INDIGO), (0.78, 0.04, 0.0, 1.0, SOFT)),
    )
    edge = 0.17 + 0.05 * np.sin(np.linspace(0, 13, 80))
    rim = scallop(body.at(edge), 7, -30)
    draw_foam(plate, body, rim, ((0.035, 0.05, 0.4, 5), (0.04, 0.5, 0.9, 5)))
    draw_fringe(plate, body.at(0.6 * edge), 7, (160, 144), 0.35, -2.3)


def draw_spray(plate: Print) -> None:
    """A few great drops flung off the lip, in clusters."""
    for x, y, r in (
        (248, 520, 8), (270, 545, 5), (232, 552, 5.5), (500, 596, 7), (520, 622, 4.5),
        (484, 628, 5), (372, 186, 7), (350, 170, 4.5), (388, 156, 5), (324, 216, 5),
        (446, 112, 6), (428, 90, 4.5), (474, 84, 4.5),
    ):  # fmt: skip
        plate.dot(x, y, r)


def draw_seal(plate: Print) -> None:
    """A rust seal in the corner: this project's mark, three small waves."""
    x, y, w, h = 1116, 160, 46, 80
    box = np.array([(x, y), (x + w, y + 1), (x + w - 1, y + h), (x + 1, y + h - 1)], float)
    plate.fill(box, RUST)
    for k in range(3):
        base = (x + w - 14, y + 25 + 23 * k)
        path = hook(base, math.pi + 0.2, 36, 4.2, 1.0)
        plate.fill(ribbon(path, 4.0 * swell(len(path), 0.15)), CREAM)


# --- the press ------------------------------------------------------------------------------


def noise(rng: np.random.Generator, cells_x: int, cells_y: int) -> Array:
    """Smooth noise over the page, about -1 to 1, with the given number of cells each way."""
    grid = rng.normal(size=(cells_y, cells_x)).astype(np.float32)
    field = Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(field) * 0.6


def wood_grain(rng: np.random.Generator) -> Array:
    """The block's grain: long wavering lines, about -1 to 1."""
    y = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None]
    return np.sin(2 * np.pi * (y * 30 + 4.0 * noise(rng, 3, 4) + 0.4 * noise(rng, 6, 12)))


def pull_print(plate: Print) -> Image.Image:
    """Bring both plates down to size and print one over the other, with a little grain."""
    rng = plate.rng
    size = (WIDTH, HEIGHT)
    c = np.asarray(plate.colour.resize(size, Image.Resampling.LANCZOS), np.float32)
    ink = np.asarray(plate.ink.resize(size, Image.Resampling.LANCZOS), np.float32)[..., None] / 255
    dark = 1 - c.mean(axis=2, keepdims=True) / 255
    grain = wood_grain(rng)[..., None]
    mottle = noise(rng, 14, 11)[..., None]
    c = c * (1 + (0.004 + 0.01 * dark) * grain + (0.004 + 0.03 * dark) * mottle)
    c = c * (1 - ink) + np.array(INK, np.float32) * ink
    c = np.clip(np.rint(c / TONE_STEP) * TONE_STEP, 0, 255)
    return Image.fromarray(c.astype(np.uint8))


def draw() -> Image.Image:
    """The whole picture, back to front."""
    plate = Print(np.random.default_rng(SEED))
    draw_sky(plate)
    draw_seal(plate)
    draw_mountain(plate)
    draw_sea(plate)
    draw_great_wave(plate)
    draw_birds(plate)
    draw_boat(plate)
    draw_left_wave(plate)
    draw_front_swell(plate)
    draw_spray(plate)
    return pull_print(plate)


def main() -> None:
    """Draw the picture and put it beside this script, whole or not at all."""
    picture = draw()
    part = OUTPUT.with_name(f".{OUTPUT.name}.{os.getpid()}")
    try:
        picture.save(part, format="PNG", optimize=True)
        part.replace(OUTPUT)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
