"""Whether a new version may become its style's champion: no worse, and free of artefacts.

Arithmetic on what was measured, and nothing else: the registry brings the numbers, moves the alias
and writes the verdict on the version.

References:
    [E93] Efron, Tibshirani. An Introduction to the Bootstrap. 1993. Section 13.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

# The first word of a verdict, as it is written on a version.
PASSED, REFUSED, NOT_COMPARED = "passed", "refused", "not compared"
REFUSALS = (REFUSED, "not champion")  # the second in stores that are older than the limits

# Chosen by us: what is usual, and as many draws as keep the interval's ends still to two digits.
CONFIDENCE, DRAWS = 0.95, 10_000


@dataclass(frozen=True)
class Measured:
    """A version, and what was measured on held-out photographs."""

    number: int
    judged_by: str
    """The same for versions that were judged on the same photographs by the same loss."""
    metrics: Mapping[str, float]
    totals: Sequence[float] = ()
    """The total of each photograph, in their order; empty where it is not known any more."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says about a version, and why."""

    word: str
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the version becomes champion."""
        return self.word == PASSED

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def read(text: str) -> Verdict:
    """The verdict that was written as a text."""
    word, _, reason = text.partition(": ")
    return Verdict(REFUSED if word in REFUSALS else word, reason)


def judge(
    candidate: Measured, champion: Measured | None, limits: Mapping[str, float | None]
) -> Verdict:
    """Let a version pass that breaks no limit and is no worse than the champion.

    The first version of a style passes in any case, and its verdict names its shortcomings.

    Args:
        candidate: the new version.
        champion: the present champion, if there is one.
        limits: the most that a metric may be; None, or a metric that was not measured, is no limit.
    """
    broken = _broken(candidate.metrics, limits)
    if champion is None:
        although = f", although {' and '.join(broken)}" if broken else ""
        return Verdict(PASSED, f"the first version of its style{although}")
    compared = _compare(candidate, champion)
    if not broken:
        return compared
    also = [compared.reason] if compared.word == REFUSED else []
    return Verdict(REFUSED, " and ".join([*broken, *also]))


def _broken(metrics: Mapping[str, float], limits: Mapping[str, float | None]) -> list[str]:
    # `not <=`, because a measurement that is no number is none to be content with
    return [
        f"{name} {metrics[name]:.3g} is above its limit {limit:g}"
        for name, limit in limits.items()
        if limit is not None and name in metrics and not metrics[name] <= limit
    ]


def _compare(candidate: Measured, champion: Measured) -> Verdict:
    other = f"version {champion.number}"
    if candidate.judged_by != champion.judged_by:
        return Verdict(NOT_COMPARED, f"{other} was judged on other photographs or by another loss")
    for version in (candidate, champion):
        if "total" not in version.metrics:
            return Verdict(NOT_COMPARED, f"version {version.number} has no held-out total")
    ours, theirs = candidate.metrics["total"], champion.metrics["total"]
    totals = f"held-out total {ours:.4g} against {theirs:.4g}"
    if len(candidate.totals) == len(champion.totals) > 0:
        low, high, told = _paired(candidate.totals, champion.totals)
    else:
        low, high, told = _apart(candidate.metrics, champion.metrics)
    worse = not low <= 0
    relation = "worse than" if worse else "better than" if high < 0 else "no worse than"
    return Verdict(REFUSED if worse else PASSED, f"{relation} {other}: {totals}{told}")


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, str]:
    """The interval of the mean difference on the same photographs, and a word about it.

    Photographs differ far more from one another than versions do on one of them, so that this
    tells versions apart whose own intervals overlap.
    """
    differences = [our - their for our, their in zip(ours, theirs, strict=True)]
    low, high = interval(differences)
    return (
        low,
        high,
        (
            f", {fmean(differences):+.3g} on the same {len(differences)} photographs "
            f"({CONFIDENCE:.0%} between {low:+.3g} and {high:+.3g})"
        ),
    )


def _apart(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, float, str]:
    """How far our total is from the ends of their interval, or from their total without one."""
    low, high = (theirs.get(end, theirs["total"]) for end in ("total_low", "total_high"))
    told = f" ({CONFIDENCE:.0%} between {low:.4g} and {high:.4g})" if low < high else ""
    return ours["total"] - high, ours["total"] - low, told


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The bootstrap percentile interval of the mean ([E93]), the same every time."""
    given = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0)
    means = [given[draws.integers(0, len(given), len(given))].mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
