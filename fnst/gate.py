"""Whether a new version may become its style's champion: no worse, and free of artefacts.

Arithmetic on what was measured, and nothing else: the registry brings the numbers, moves the alias
and writes the verdict on the version.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fnst import bootstrap

# The first word of a verdict, as it is written on a version.
PASSED, REFUSED, NOT_COMPARED = "passed", "refused", "not compared"
REFUSALS = (REFUSED, "not champion")  # the second in stores that are older than the limits
# What the parts of a reason are told by.
AND, ALTHOUGH, BROKEN = " and ", ", although ", " is above its limit "
NO_NUMBER = " is no number"
FIRST = "the first version of its style"


# A network whose pictures are empty to this share has learnt nothing; chosen by us: calm skies and
# walls leave a tenth.
BLANK = 0.95

# Of fewer photographs the bootstrap's interval is hardly narrower than their span; chosen by us.
FEW = 6


@dataclass(frozen=True)
class Measured:
    """A version, and what was measured on held-out photographs."""

    number: int
    judged_by: str
    """The same for versions that were judged on the same photographs by the same loss."""
    metrics: Mapping[str, float]
    totals: Sequence[float] = ()
    """The total of each photograph, in their order; empty where it is not known any more."""
    judge: Mapping[str, str] = field(default_factory=dict)
    """What ``judged_by`` is made of, part by part, for people; empty in older stores."""


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
    candidate: Measured,
    champion: Measured | None,
    limits: Mapping[str, float | None],
    *,
    is_first: bool = True,
) -> Verdict:
    """Let a version pass that breaks no limit and is no worse than the champion.

    The first version of a style passes in any case, and its verdict names its shortcomings. Worse
    is what lies above the champion's interval, or is worse beyond chance on the same photographs.

    Args:
        candidate: the new version.
        champion: the present champion, if there is one.
        limits: the most that a metric may be, at every size; None, or a metric that was not
            measured, is no limit, but for ``flat``, whose limit is then ``BLANK``.
        is_first: where there is no champion, whether no other version was judged before.
    """
    if champion is None:
        wrong = _shortcomings(candidate.metrics, limits)
        if is_first:
            return Verdict(PASSED, _although(FIRST, wrong))
        reason = AND.join(wrong) or "there is no champion to be compared with"
        return Verdict(REFUSED if wrong else PASSED, reason)
    compared = _compare(candidate, champion)
    if compared.word == REFUSED:
        return Verdict(REFUSED, AND.join([*_broken(candidate.metrics, limits), compared.reason]))
    wrong = _shortcomings(candidate.metrics, limits)
    return Verdict(REFUSED, AND.join(wrong)) if wrong else compared


def judge_champion(
    metrics: Mapping[str, float],
    limits: Mapping[str, float | None],
    written: Verdict | None,
    *,
    is_measured_anew: bool = False,
) -> Verdict:
    """Say anew which limits a champion breaks; it stays champion, whatever they are.

    Args:
        metrics: what was measured.
        limits: as for ``judge``.
        written: its verdict under other limits, whose comparison with an earlier champion holds.
        is_measured_anew: whether the numbers of that comparison are not its own any more.
    """
    broken = _shortcomings(metrics, limits)
    if written and written.word == REFUSED:  # it was forced
        compared = [] if is_measured_anew else written.reason.split(AND)
        reasons = [*broken, *(each for each in compared if not _is_broken(each))]
        if reasons:
            return Verdict(REFUSED, AND.join(reasons))
    elif written and not (is_measured_anew and written.reason.partition(ALTHOUGH)[0] != FIRST):
        return Verdict(written.word, _although(written.reason.partition(ALTHOUGH)[0], broken))
    return Verdict(PASSED, _although("it is the champion already", broken))


def _is_broken(reason: str) -> bool:
    return BROKEN in reason or reason.endswith(NO_NUMBER)


def _although(reason: str, broken: Sequence[str]) -> str:
    return f"{reason}{ALTHOUGH}{AND.join(broken)}" if broken else reason


def _broken(metrics: Mapping[str, float], limits: Mapping[str, float | None]) -> list[str]:
    # `not <=`, because a measurement that is no number is none to be content with
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return [
        f"{name}{where} {value:.3g}{BROKEN}{limit:g}"
        for name, limit in ({"flat": BLANK} | given).items()
        for where, value in _at_every_size(metrics, name)
        if not value <= limit
    ]


def _shortcomings(metrics: Mapping[str, float], limits: Mapping[str, float | None]) -> list[str]:
    """What is wrong with a version by itself; what is compared is told of its total by that."""
    total = metrics.get("total", 0.0)
    lost = [] if math.isfinite(total) else [f"total {total:g}{NO_NUMBER}"]
    return [*lost, *_broken(metrics, limits)]


def _at_every_size(metrics: Mapping[str, float], name: str) -> Iterator[tuple[str, float]]:
    """A metric as ``evaluation.metrics`` has it: at the smallest size without saying so."""
    for key, value in metrics.items():
        size = key.removeprefix(f"{name}_")
        if key == name:
            yield "", value
        elif size != key and size.isdecimal():
            yield f" at {size} px", value


def _compare(candidate: Measured, champion: Measured) -> Verdict:
    other = f"version {champion.number}"
    if candidate.judged_by != champion.judged_by:
        return Verdict(NOT_COMPARED, f"{other} was judged {_otherwise(candidate, champion)}")
    for version in (candidate, champion):
        if "total" not in version.metrics:
            return Verdict(NOT_COMPARED, f"version {version.number} has no held-out total")
    ours, theirs = candidate.metrics["total"], champion.metrics["total"]
    totals = f"held-out total {ours:.4g} against {theirs:.4g}"
    low, high, told = _apart(candidate.metrics, champion.metrics)
    if len(candidate.totals) == len(champion.totals) > 0:
        end = champion.metrics.get("total_high", math.inf)
        low, high, told = _paired(candidate.totals, champion.totals)
        if low <= 0 and ours > end:  # as where a few photographs went wrong, and the others did not
            low = ours - end
            told += f", and above {end:.4g}, the upper end of {other}'s interval"
    worse = math.isfinite(theirs) and not low <= 0  # as what is no number is
    relation = "worse than" if worse else "better than" if high < 0 else "no worse than"
    return Verdict(REFUSED if worse else PASSED, f"{relation} {other}: {totals}{told}")


def _otherwise(candidate: Measured, champion: Measured) -> str:
    """In what the judge of the champion was another one."""
    known = candidate.judge.keys() & champion.judge.keys()
    parts = [
        f"with {name} {champion.judge[name]} instead of {candidate.judge[name]}"
        for name in sorted(known)
        if champion.judge[name] != candidate.judge[name]
    ]
    return AND.join(parts) or "on other photographs or by another loss"


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, str]:
    """The interval of the mean difference on the same photographs, and a word about it.

    Photographs differ far more from one another than versions do on one of them, so that this
    tells versions apart whose own intervals overlap.
    """
    difference = bootstrap.mean([our - their for our, their in zip(ours, theirs, strict=True)])
    low, high = difference.low, difference.high
    told = f"{difference.mean:+.3g} on the same {len(ours)} photographs"
    level = f"{bootstrap.LEVEL:.0%} " if len(ours) >= FEW else "so few tell little: "
    within = f"({level}between {low:+.3g} and {high:+.3g})"
    return low, high, f", {told} {within}"


def _apart(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, float, str]:
    """How far our total is from the ends of their interval, or from their total without one."""
    low, high = (theirs.get(end, theirs["total"]) for end in ("total_low", "total_high"))
    told = f" ({bootstrap.LEVEL:.0%} between {low:.4g} and {high:.4g})" if low < high else ""
    return ours["total"] - high, ours["total"] - low, told
