"""The frame table and the M2P over runs of frames.

`owner`, uint16[frames]: the domid that holds a frame, 0 for nobody. `use`, uint8[frames]: what for (`machine.frames`).
`m2p`, uint64[frames]: the complement of the gfn, so that memory never written reads as INVALID_GFN and a machine of
1 TiB costs only the part it uses.
"""

import numpy as np

from twofold.formats.arrays import Marks, Owners, Words


def set_owner(
    owner: Owners,
    use: Marks,
    mfns: Words,
    frames: Words,
    domid: int,
    purpose: int,
) -> None:
    """Write owner and use of every frame of the runs."""
    for mfn, length in zip(mfns.tolist(), frames.tolist(), strict=True):
        owner[mfn : mfn + length] = domid
        use[mfn : mfn + length] = purpose


def set_m2p(m2p: Words, mfns: Words, gfns: Words, frames: Words) -> None:
    """Enter gfns[i] + k for frame mfns[i] + k of every run."""
    for mfn, gfn, length in zip(mfns.tolist(), gfns.tolist(), frames.tolist(), strict=True):
        m2p[mfn : mfn + length] = ~np.arange(gfn, gfn + length, dtype=np.uint64)


def clear_m2p(m2p: Words, mfns: Words, frames: Words) -> None:
    """Make the frames of the runs belong to no gfn."""
    for mfn, length in zip(mfns.tolist(), frames.tolist(), strict=True):
        m2p[mfn : mfn + length] = 0


def owned_by(
    owner: Owners,
    use: Marks,
    mfns: Words,
    frames: Words,
    domid: int,
    purpose: int,
) -> bool:
    """Return whether every frame of the runs has this owner and use."""
    for mfn, length in zip(mfns.tolist(), frames.tolist(), strict=True):
        if (owner[mfn : mfn + length] != domid).any() or (use[mfn : mfn + length] != purpose).any():
            return False
    return True
