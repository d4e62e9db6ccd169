"""The frame table and the M2P over runs of frames, fast. Twin of `spec.frames`.

The loops run over slices from 0 on: an index that cannot be negative needs no check, and they become vector stores.
"""

import numpy as np

from twofold.formats.arrays import Marks, Owners, Words
from twofold.kernels._bits import ZERO
from twofold.kernels._jit import kernel


@kernel
def set_owner(owner: Owners, use: Marks, mfns: Words, frames: Words, domid: int, purpose: int) -> None:
    """Write owner and use of every frame of the runs. Twin: spec.frames.set_owner."""
    who, what = np.uint16(domid), np.uint8(purpose)
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        owners, uses = owner[mfn : mfn + length], use[mfn : mfn + length]
        for index in range(length):
            owners[index] = who
        for index in range(length):
            uses[index] = what


@kernel
def set_m2p(m2p: Words, mfns: Words, gfns: Words, frames: Words) -> None:
    """Enter the gfn of every frame of the runs. Twin: spec.frames.set_m2p."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        part, first = m2p[mfn : mfn + length], ~gfns[run]
        for index in range(length):
            part[index] = first - np.uint64(index)  # the complement of gfn + index


@kernel
def clear_m2p(m2p: Words, mfns: Words, frames: Words) -> None:
    """Make the frames of the runs belong to no gfn. Twin: spec.frames.clear_m2p."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        part = m2p[mfn : mfn + length]
        for index in range(length):
            part[index] = ZERO


@kernel
def owned_by(owner: Owners, use: Marks, mfns: Words, frames: Words, domid: int, purpose: int) -> bool:
    """Return whether every frame has this owner and use. Twin: spec.frames.owned_by."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        for index in range(mfn, mfn + length):
            if owner[index] != domid or use[index] != purpose:
                return False
    return True
