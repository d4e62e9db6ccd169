"""The table that ranks are drawn by, P(rank) ~ 1 / rank**skew; `spec.requests` explains it.

It is computed with decimal arithmetic, so that it has the same bits on every machine.
"""

from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import accumulate
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import SizeError
from twofold.formats.workloads import MAX_OCTAVES, PLACE_BITS

Words = npt.NDArray[np.uint64]

DEFAULT_SKEW: Final = 0.99  # as YCSB has it; the programs have its table built in
MAX_SKEW: Final = 2.0  # beyond it, more than half of all draws would be drawn again
_DIGITS: Final = 40


@lru_cache(maxsize=8)
def zipf_table(skew: float) -> Words:
    """Return the table of a skew, read-only, for up to 2**32 ranks.

    Raises
    ------
    SizeError : a skew that is not between 0 and 2
    """
    if not 0 <= skew <= MAX_SKEW:
        raise SizeError(str(skew), f"is no skew: 0 (all ranks alike) to {MAX_SKEW:g}")
    places = 1 << PLACE_BITS
    with localcontext(Context(prec=_DIGITS)):
        exponent = Decimal(str(skew))
        weights = [Decimal(2) ** (octave * (1 - exponent)) for octave in range(MAX_OCTAVES)]
        scale = (2**64 - 1) / sum(weights, Decimal(0))
        octaves = [int(part * scale) for part in accumulate(weights)]
        kept = [(1 + Decimal(place) / places) ** -exponent * (2**32 - 1) for place in range(places + 1)]
        table = np.array([*octaves, *(int(part.to_integral_value()) for part in kept)], np.uint64)
    table.flags.writeable = False
    return table
