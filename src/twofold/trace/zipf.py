"""The table that skewed generators draw ranks by, P(rank) ~ 1 / rank**skew; `spec.requests` explains it.

It is computed with decimal arithmetic, so that it has the same bits on every machine.
"""

from decimal import Context, Decimal, localcontext
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import SizeError
from twofold.spec.requests import KEEP, MAX_OCTAVES, PLACE_BITS

Words = npt.NDArray[np.uint64]

MAX_SKEW: Final = 2.0  # beyond it, more than half of all draws would be drawn again
_DIGITS: Final = 40


def zipf_table(octaves: int, skew: float) -> Words:
    """Return the table for ranks 1 to 2**octaves - 1, read-only.

    Raises
    ------
    SizeError : more ranks than can be drawn, or a skew that is not between 0 and 2
    """
    if not 1 <= octaves <= MAX_OCTAVES:
        raise SizeError(f"2**{octaves}", f"is no number of ranks: 2 to 2**{MAX_OCTAVES} of them")
    if not 0 <= skew <= MAX_SKEW:
        raise SizeError(str(skew), f"is no skew: 0 (all ranks alike) to {MAX_SKEW:g}")
    table = np.zeros(KEEP + (1 << PLACE_BITS) + 1, np.uint64)
    with localcontext(Context(prec=_DIGITS)):
        exponent = Decimal(str(skew))
        weights = [Decimal(2) ** (octave * (1 - exponent)) for octave in range(octaves)]
        sums = [sum(weights[: octave + 1]) / sum(weights) for octave in range(octaves)]
    table[:octaves] = [int(part * 2**64) - 1 for part in sums[:-1]] + [2**64 - 1]
    table[KEEP:] = _probabilities(skew)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def _probabilities(skew: float) -> tuple[int, ...]:
    """Return the probabilities to keep a rank at each place of an octave, and at its end, out of 2**32."""
    places = 1 << PLACE_BITS
    with localcontext(Context(prec=_DIGITS)):
        exponent = Decimal(str(skew))
        shares = [(1 + Decimal(place) / places) ** -exponent for place in range(places + 1)]
        return tuple(int((share * 2**32).to_integral_value()) for share in shares)
