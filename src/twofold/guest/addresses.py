"""A trace taken apart, whatever it comes as: blocks of guest virtual addresses; and the canonical form of an address.

An access is its first byte: one that reaches into the next page counts for the page where it begins. Left out:
instruction fetches.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.errors import wrong_type
from twofold.formats.geometry import FOUR_LEVEL
from twofold.formats.kinds import LOAD, STORE
from twofold.trace import Trace, TraceBlock
from twofold.units import FRAME_SHIFT

Gvas = npt.NDArray[np.uint64]
Kinds = npt.NDArray[np.uint8]
TraceLike = Trace | npt.ArrayLike | Iterable[Gvas | tuple[Gvas, Kinds] | TraceBlock]

BLOCK: Final = 1 << 20  # addresses of a long array that are looked at together
GVA_BITS: Final = FRAME_SHIFT + FOUR_LEVEL.frame_bits


def accesses_of(trace: TraceLike) -> Iterator[tuple[Gvas, Kinds | None]]:
    """Yield (gvas, kinds of access) of the loads and stores of a trace, in order; None where it does not tell kinds.

    trace : one array or list of gvas, what `run` recorded, a `Trace`, or an iterable of what follows each other: such
        arrays, pairs of gvas and kinds, blocks of a `Trace`
    """
    if isinstance(trace, Trace):
        yield from trace.accesses()
    elif _is_array(trace):
        yield _accesses(np.asarray(trace) if isinstance(trace, np.ndarray) else np.asarray(trace, np.uint64))
    elif not isinstance(trace, Iterable) or isinstance(trace, str | bytes):
        raise wrong_type("a trace is an array of gvas, a Trace, or an iterable of arrays", trace)
    else:
        yield from map(_accesses, trace)


def blocks_of(trace: TraceLike) -> Iterator[Gvas]:
    """Yield the addresses of the loads and stores of a trace as contiguous arrays of at most `BLOCK`."""
    for gvas, _ in accesses_of(trace):
        for start in range(0, len(gvas), BLOCK):
            # A read-only or strided array would compile a second version of each kernel.
            yield np.require(gvas[start : start + BLOCK], np.uint64, ["C", "A", "W"])


def _is_array(trace: Any) -> bool:
    """Return whether a trace is one array, or a list of numbers."""
    if isinstance(trace, Sequence) and not isinstance(trace, str | bytes):
        return not (trace and isinstance(trace[0], np.ndarray | tuple | TraceBlock))
    return isinstance(trace, int) or hasattr(trace, "__array__")


def _accesses(part: Any) -> tuple[Gvas, Kinds | None]:
    """Return the accesses of one array, pair of arrays or block."""
    if isinstance(part, TraceBlock):
        return part.data()
    if isinstance(part, tuple):
        gvas, kinds = part
        return gvas, kinds
    if part.dtype.names:
        return part["gva"].reshape(-1), np.where(part["write"], STORE, LOAD).astype(np.uint8).reshape(-1)
    return part.reshape(-1), None


def canonical(gvas: Gvas) -> Gvas:
    """Return addresses in canonical form: the bits above 47 all equal to bit 47, whatever they were."""
    unused = 64 - GVA_BITS
    return ((gvas << np.uint64(unused)).view(np.int64) >> unused).view(np.uint64)
