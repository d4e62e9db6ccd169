"""What the pieces of a mapping become: runs of equal leaves, as `spec.p2m.segment` cuts them, for all at once."""

import numpy as np
import numpy.typing as npt

from twofold.formats.operands import Pieces
from twofold.formats.p2m_state import MAX_LEAF_LEVELS

Array = npt.NDArray[np.uint64]
Masks = npt.NDArray[np.int64]
Marks = npt.NDArray[np.uint8]
Truths = npt.NDArray[np.bool_]
Segments = tuple[Array, Array, Array, Marks]  # gfns, mfns, frames, levels


def segments(pieces: Pieces, bits: int, *, aligns_whole: bool) -> Segments:
    """Return the runs of equal leaves that pieces are mapped by, in no order of their own.

    pieces : as `map_pieces` takes them
    bits : of an index of a table
    aligns_whole : a leaf may have the sizes only that the end of its piece is a multiple of
    """
    gfns, mfns, frames, sizes = pieces
    if not (frames >> np.uint64(bits)).any() or not (sizes >> 1).any():
        return gfns, mfns, frames, np.zeros(len(gfns), np.uint8)
    found: list[Segments] = []
    while len(gfns):
        levels, here = _first(gfns, mfns, frames, sizes, bits, aligns_whole=aligns_whole)
        found.append((gfns, mfns, here, levels))
        left = frames > here
        gfns, mfns, frames, sizes = (gfns + here)[left], (mfns + here)[left], (frames - here)[left], sizes[left]
    return tuple(np.concatenate(columns) for columns in zip(*found, strict=True))  # type: ignore[return-value]


def _first(
    gfns: Array, mfns: Array, frames: Array, sizes: Masks, bits: int, *, aligns_whole: bool
) -> tuple[Marks, Array]:
    """Return (level of its leaves, frames) of the first segment of each piece."""
    spans = [np.uint64(1 << bits * level) for level in range(MAX_LEAF_LEVELS)]
    levels, fits = np.zeros(len(gfns), np.uint8), []
    for level, span in enumerate(spans):
        may: Truths = (sizes >> level & 1 != 0) & (frames >= spans[min(1, level)])
        if level and aligns_whole:
            may &= (gfns + frames) & (span - np.uint64(1)) == 0
        levels[may & (frames >= span) & ((gfns | mfns) & (span - np.uint64(1)) == 0) & (level > 0)] = level
        fits.append(may & ((gfns ^ mfns) & (span - np.uint64(1)) == 0) & (level > 0))
    here, is_cut = frames.copy(), np.zeros(len(gfns), np.bool_)
    for level, span in enumerate(spans):  # up to where a larger leaf can start
        boundary = (np.uint64(0) - gfns) & (span - np.uint64(1))
        cut = fits[level] & (levels < level) & (frames >= boundary + span) & ~is_cut
        here[cut] = boundary[cut]
        is_cut |= cut
    shift = levels.astype(np.uint64) * np.uint64(bits)
    return levels, here >> shift << shift
