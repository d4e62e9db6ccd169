"""A trace as blocks of guest virtual addresses, whatever it comes as, and the canonical form of an address."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.formats.geometry import FOUR_LEVEL
from twofold.units import FRAME_SHIFT

Gvas = npt.NDArray[np.uint64]
TraceLike = npt.ArrayLike | Iterable[Gvas]

BLOCK: Final = 1 << 20  # addresses of a long array that are looked at together
GVA_BITS: Final = FRAME_SHIFT + FOUR_LEVEL.frame_bits


def blocks_of(trace: TraceLike) -> Iterator[Gvas]:
    """Yield a trace as contiguous arrays of at most `BLOCK` addresses.

    trace : one array or list of gvas, what `run` recorded, or an iterable of arrays that follow each other
    """
    for part in _parts(trace):
        for start in range(0, len(part), BLOCK):
            # A read-only or strided array would compile a second version of each kernel.
            yield np.require(part[start : start + BLOCK], np.uint64, ["C", "A", "W"])


def _parts(trace: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield the arrays that a trace consists of, each with one dimension."""
    is_numbers = isinstance(trace, Sequence) and not (trace and isinstance(trace[0], np.ndarray))
    if isinstance(trace, np.ndarray | np.generic | int) or is_numbers:
        yield _gvas(np.asarray(trace) if isinstance(trace, np.ndarray) else np.asarray(trace, np.uint64))
    else:
        yield from map(_gvas, trace)


def _gvas(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the addresses of one array, which may be a recording."""
    return (part["gva"] if part.dtype.names else part).reshape(-1)


def canonical(gvas: Gvas) -> Gvas:
    """Return addresses in canonical form: the bits above 47 all equal to bit 47, whatever they were."""
    unused = 64 - GVA_BITS
    return ((gvas << np.uint64(unused)).view(np.int64) >> unused).view(np.uint64)
