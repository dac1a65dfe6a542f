"""What an evaluation found, for people to look at: the curve as a picture, and a page for a style.

The page is one file that holds its pictures, so that it can be sent, or opened out of MLflow.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from fnst import files
from fnst.bootstrap import Mean
from fnst.evaluation import NUMBERS, Score, counts, means, spans
from fnst.gatys import Anchor

# A bright paper, the ink of text and the blue of what is ours; the paper is that of the sheets.
PAPER, INK, QUIET, OURS = "#faf8f3", "#46423c", "#a8a196", "#2a5078"

NAMED = 3  # photographs of a curve that are named; a recipe may have 50

IN_SHORT = ("total", "relative_total", "content", "style", "grid_ratio", "border_ratio", "ssim")


def draw(anchor: Anchor) -> bytes:
    """The curve and the network's place on it, as a PNG."""
    # here, as it takes half a second to import, and most who ask for numbers draw nothing
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure((8, 4.4), dpi=160, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=PAPER)
    axes.set_yscale("log")
    axes.plot(anchor.curve, color=INK, linewidth=1.6)
    axes.axhline(anchor.total, color=OURS, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(anchor.iterations, anchor.total, "o", color=OURS, markersize=7, clip_on=False)
    axes.annotate(
        f"the network, in one pass:\n{anchor}",
        (anchor.iterations, anchor.total),
        (14, 14),
        textcoords="offset points",
        color=OURS,
        fontsize=11,
    )
    axes.annotate(
        "the untouched photographs",
        (0, anchor.curve[0]),
        (10, -4),
        textcoords="offset points",
        color=INK,
        fontsize=10,
    )
    axes.set_xlabel("iterations of L-BFGS on the pixels")
    axes.set_ylabel("total loss, mean")
    axes.set_xlim(0, anchor.longest)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(colors=INK, length=0)
    axes.grid(axis="y", color=QUIET, alpha=0.3, linewidth=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def caption(score: Score, side: int) -> str:
    """What a sheet says below a photograph, before and after, that it shows with that short side.

    The numbers are those of the size at which it was judged, which may be another one.
    """
    shown = f"shown at {side} pixels; " if side != score.side else ""
    name = PurePath(score.photo).name
    content, style, total = (score.values[term] for term in ("content", "style", "total"))
    return (
        f"{name}, {shown}at {score.side} pixels: content {content:.3f}, style {style:.3f}, "
        f"total {total:.3f}, {score.values['relative_total']:.0%} of the photograph's own"
    )


def against(anchor: Anchor) -> str:
    """What optimising the pixels takes to be as good as the network, in a sentence."""
    untouched, end = _number(anchor.curve[0]), _number(anchor.curve[-1])
    told = f"On {_subjects(anchor)} its total is {_number(anchor.total)}"
    if not anchor.is_better:
        return f"{told}: it is no better than the untouched photographs ({untouched})."
    reach = "reaches" if anchor.longest == 1 else "reach"
    return f"{told}; L-BFGS on the pixels needs {anchor} for that ({anchor.longest} {reach} {end})."


def _subjects(anchor: Anchor) -> str:
    """The photographs of a curve and their size, in words."""
    if not anchor.photographs:
        return "the photographs, and at the size, of this curve"
    names = [name for name, _ in anchor.photographs]
    sides = [side for _, side in anchor.photographs]
    rest = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    *others, last = [*names[:NAMED], *rest]
    each = f"{', '.join(others)} and {last}" if others else last
    return f"{each} at {' to '.join(map(str, sorted({min(sides), max(sides)})))} pixels"


def drop_stale_trade_off(folder: Path, strength: float, metrics: Mapping[str, float]) -> None:
    """Remove a sweep's picture that is of another network: at this strength it scored otherwise.

    Args:
        folder: the style's results.
        strength: of the style.
        metrics: what its network scores now.
    """
    table = folder / "tradeoff.json"
    if not table.exists():
        return
    points = files.read_json(table)
    own = [point["style"] for point in points if point["strength"] == strength]
    if own and own != [metrics["relative_style"]]:
        for path in (table, table.with_suffix(".jpg")):
            path.unlink(missing_ok=True)


def page(
    title: str,
    scores: Sequence[Score],
    anchor: Anchor | None,
    *,
    sheet: bytes,
    unseen: bool = False,
) -> bytes:
    """What a network scores on photographs, as one HTML file.

    Args:
        title: what the network is called.
        scores: of every photograph at every size.
        anchor: the curve of the pixels, where it was computed.
        sheet: photographs before and after, a JPEG.
        unseen: whether the network never saw these photographs.
    """
    by_size = means(scores)
    reached = counts(scores)
    count = max(reached.values())
    titles = [
        f"{span} px" if reached[size] == count else f"{span} px, {reached[size]} of them"
        for size, span in spans(scores).items()
    ]
    first = next(iter(by_size.values()))
    photographs = f"{count} photograph{'s' if count > 1 else ''}"
    which = " that the network never saw" if unseen else ""
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>On {photographs}{which}, its total is {_interval(first['total'])}, "
        f"{first['relative_total'].mean:.0%} of what the untouched photographs score.</p>",
        _figure("image/jpeg", sheet, "Photographs, and what the network makes of them."),
        *(_against(anchor) if anchor else []),
        TRADE_OFF_HERE,
        "<h2>Numbers</h2>",
        f"<p>{INTERVALS}</p>",
        _numbers(titles, by_size),
        "<h2>Layers</h2>",
        f"<p>{LAYERS}</p>",
        _layers(titles, by_size),
        "<h2>Photographs</h2>",
        _photographs(scores),
    ]
    head = f"{HEAD}<title>{html.escape(title)}</title>"
    return (head + "\n".join(body) + "\n").encode(errors="replace")


def _against(anchor: Anchor) -> list[str]:
    return [
        "<h2>Against optimisation</h2>",
        f"<p>{html.escape(against(anchor))}</p>",
        _figure("image/png", draw(anchor), ANCHOR),
    ]


def with_trade_off(page: bytes, picture: bytes) -> bytes:
    """A page that holds a sweep's picture, a JPEG, as well."""
    figure = _figure("image/jpeg", picture, TRADE_OFF)
    return page.replace(TRADE_OFF_HERE.encode(), figure.encode())


TRADE_OFF_HERE = "<!-- what a sweep draws comes here -->"
HEAD = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<style>
body {{ background: {PAPER}; color: {INK}; font: 16px/1.5 system-ui, sans-serif;
       max-width: 68rem; margin: 3rem auto; padding: 0 1.5rem }}
h1, h2 {{ font-weight: 500; margin: 2.5rem 0 .5rem }}
p {{ max-width: 44rem }}
figure {{ margin: 1.5rem 0 }}
img {{ max-width: 100% }}
figcaption, small, td.told {{ color: #7d766b; font-size: .85rem }}
td.name {{ max-width: 24rem; overflow-wrap: anywhere; unicode-bidi: isolate }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ text-align: right; padding: .25rem 1.5rem .25rem 0; border-bottom: 1px solid #e7e2d8;
         vertical-align: baseline }}
th:first-child, td:first-child, td.told {{ text-align: left }}
th {{ font-weight: 500 }}
</style>
"""
ANCHOR = (
    "The same loss, lowered on the pixels themselves from the photograph on; after Johnson et al., "
    "figure 5."
)
TRADE_OFF = (
    "Content against style: the same painting, learnt at several strengths; each point is a "
    "training of its own."
)
INTERVALS = (
    "Means over the photographs; behind each, where the bootstrap puts it in 19 of 20 cases. Of "
    "two photographs that is no more than their span."
)
LAYERS = (
    "Distances before any weight, in the painting's own units. Behind those of style, the share of "
    "what the untouched photographs score."
)


def _numbers(titles: Sequence[str], by_size: Mapping[int, Mapping[str, Mean]]) -> str:
    rows = [
        (name, *(_interval(found[key]) for found in by_size.values()), _told(told))
        for key, (name, told) in NUMBERS.items()
    ]
    return _table(("", *titles, ""), rows)


def _layers(titles: Sequence[str], by_size: Mapping[int, Mapping[str, Mean]]) -> str:
    names = [n for n in next(iter(by_size.values())) if n.startswith(("content_", "style_"))]
    rows = [
        (name.replace("_", " ", 1), *(_layer(found, name) for found in by_size.values()))
        for name in names
    ]
    return _table(("", *titles), rows)


def _layer(found: Mapping[str, Mean], name: str) -> str:
    share = found.get(f"relative_{name}")
    return _interval(found[name]) + (f" <small>{share.mean:.0%}</small>" if share else "")


def _photographs(scores: Sequence[Score]) -> str:
    titles = ("photograph", "size", *(NUMBERS[name][0] for name in IN_SHORT))
    rows = [
        (_name(s.photo), f"{s.side} px", *(_number(s.values[name]) for name in IN_SHORT))
        for s in scores
    ]
    return _table(titles, rows)


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    lines = [
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>"
        for row in rows
    ]
    return "\n".join(["<table>", f"<tr>{head}</tr>", *lines, "</table>"])


def _name(text: str) -> str:
    return f'<td class="name">{html.escape(text)}</td>'


def _told(text: str) -> str:
    return f'<td class="told">{text}</td>'


def _interval(found: Mean) -> str:
    mean, low, high = map(_number, (found.mean, found.low, found.high))
    return f"{mean} <small>{low} to {high}</small>"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _figure(kind: str, picture: bytes, caption: str) -> str:
    data = base64.b64encode(picture).decode()
    return (
        f'<figure><img src="data:{kind};base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
