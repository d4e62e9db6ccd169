"""The frame table and the M2P over runs of frames, fast. Twin of `spec.frames`."""

import numpy as np

from twofold.formats.arrays import Marks, Owners, Words
from twofold.kernels._jit import kernel

ZERO = np.uint64(0)


@kernel
def set_owner(owner: Owners, use: Marks, mfns: Words, frames: Words, domid: int, purpose: int) -> None:
    """Write owner and use of every frame of the runs. Twin: spec.frames.set_owner."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        for index in range(mfn, mfn + length):
            owner[index] = domid
        for index in range(mfn, mfn + length):
            use[index] = purpose


@kernel
def set_m2p(m2p: Words, mfns: Words, gfns: Words, frames: Words) -> None:
    """Enter the gfn of every frame of the runs. Twin: spec.frames.set_m2p."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        gfn = gfns[run]
        for index in range(length):
            m2p[mfn + index] = ~(gfn + np.uint64(index))


@kernel
def clear_m2p(m2p: Words, mfns: Words, frames: Words) -> None:
    """Make the frames of the runs belong to no gfn. Twin: spec.frames.clear_m2p."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        for index in range(mfn, mfn + length):
            m2p[index] = ZERO


@kernel
def owned_by(owner: Owners, use: Marks, mfns: Words, frames: Words, domid: int, purpose: int) -> bool:
    """Return whether every frame has this owner and use. Twin: spec.frames.owned_by."""
    for run in range(len(mfns)):
        mfn, length = np.int64(mfns[run]), np.int64(frames[run])
        for index in range(mfn, mfn + length):
            if owner[index] != domid or use[index] != purpose:
                return False
    return True
