"""Mean and variance of the channels of a picture's maps, as exact for large pictures as for small.

Letters in shapes: ``c`` channels, ``h`` x ``w`` positions.

References:
    [C83] Chan, Golub, LeVeque. Algorithms for Computing the Sample Variance. The American
          Statistician, 1983.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# So many positions are added up in float32, or one row; chosen by us: a whole picture's would lose
# three digits of seven, and fewer cost time.
AT_ONCE = 2048


class Moments:
    """Mean and variance over everything that was added, merged in float64 ([C83])."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def add(self, maps: Float[Tensor, "1 c h w"]) -> None:
        """Take in some rows of a picture's maps."""
        # Batch norm's kernel of two passes: a twentieth of the time of torch.var_mean on a CPU.
        for rows in torch.split(maps, max(1, AT_ONCE // maps.shape[3]), 2):
            mean, variance = torch.batch_norm_update_stats(rows, None, None, 0.0)
            self._parts.append((rows[0, 0].numel(), mean.double(), variance.double()))

    def merged(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and variance, of all positions and without Bessel's correction."""
        counts, means, variances = zip(*self._parts, strict=True)
        each = torch.stack(means)
        weights = torch.tensor(counts, dtype=torch.float64, device=each.device).view(-1, 1)
        weights /= weights.sum()
        mean = (weights * each).sum(0)
        variance = (weights * (torch.stack(variances) + (each - mean).square())).sum(0)
        return mean.float(), variance.float()
