"""The mean of a sample, and the interval in which to look for the mean over all of its kind.

References:
    [E93] Efron, Tibshirani. An Introduction to the Bootstrap. 1993; chapter 13, the percentile
          interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# How often means are drawn, which share of them the interval holds, and the seed, so that the same
# numbers have the same interval; chosen by us.
RESAMPLES, LEVEL, SEED = 10_000, 0.95, 0
AT_ONCE = 10**6  # of the counts that are drawn: 8 MB


@dataclass(frozen=True)
class Mean:
    """The mean of one number over photographs, and the interval in which to look for the true mean.

    It is the percentile interval of the bootstrap ([E93]), which cannot be wider than the numbers
    themselves: of two photographs it is their span, which holds the true mean half of the time; of
    one it is a point, and tells nothing.
    """

    mean: float
    low: float
    high: float


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent numbers, one per photograph, with its bootstrap interval."""
    count, draws, tail = len(values), np.random.default_rng(SEED), (1 - LEVEL) / 2
    rows = max(1, AT_ONCE // count)
    drawn = [
        draws.multinomial(count, [1 / count] * count, min(rows, RESAMPLES - done)) @ values / count
        for done in range(0, RESAMPLES, rows)
    ]
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Mean(float(np.mean(values)), float(low), float(high))
