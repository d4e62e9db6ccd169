"""The audit of a P2M, fast. Twin of `spec.audit`, which lists codes and columns."""

import numpy as np

from twofold.formats.arrays import Counts, Marks, Owners, Words
from twofold.formats.status import NOT_PRESENT, OK, OUTSIDE
from twofold.kernels._bits import ZERO
from twofold.kernels._jit import inline, kernel
from twofold.kernels.lookup import find, first_frame, look_up
from twofold.kernels.p2m import BITS, frame_of

MALFORMED, BEYOND, NOT_OWNED, P2M_BAD, M2P_BAD = 1, 2, 3, 4, 5
FINDINGS, ORPHANS, P2M_BAD_FRAMES, M2P_BAD_FRAMES = 0, 1, 2, 3


@inline
def note(findings: Words, counts: Counts, code: int, gfn: int, mfn: int, level: int, entry: int) -> None:
    """Count a finding, and write it while there is room. Twin: spec.audit.note."""
    row = counts[FINDINGS]
    if row < len(findings):
        findings[row, 0] = code
        findings[row, 1] = gfn
        findings[row, 2] = mfn
        findings[row, 3] = level
        findings[row, 4] = entry
    counts[FINDINGS] += 1


@kernel
def audit_leaves(
    memory: Words,
    root: int,
    owner: Owners,
    use: Marks,
    m2p: Words,
    domid: int,
    purpose: int,
    gfns: tuple[int, int],
    out_findings: Words,
    counts: Counts,
) -> None:
    """Check every leaf of a range of gfns. Twin: spec.audit.audit_leaves."""
    here = gfns[0]
    while here < gfns[1]:
        status, level, entry = find(memory, root, here)
        if status == OUTSIDE:
            level += 1
        size = 1 << (BITS * level)
        gfn = here & ~(size - 1)
        if status == OK:
            check_leaf(owner, use, m2p, domid, purpose, gfn, level, entry, out_findings, counts)
        elif status != NOT_PRESENT:
            note(out_findings, counts, MALFORMED, gfn, frame_of(entry), level, entry)
        here = gfn + size


@kernel
def check_leaf(
    owner: Owners,
    use: Marks,
    m2p: Words,
    domid: int,
    purpose: int,
    gfn: int,
    level: int,
    entry: int,
    out_findings: Words,
    counts: Counts,
) -> None:
    """Check each frame of one leaf. Twin: spec.audit.check_leaf."""
    mfn = first_frame(entry, level)
    size = 1 << (BITS * level)
    if mfn + size > len(owner):
        note(out_findings, counts, BEYOND, gfn, mfn, level, entry)
        return
    foreign, bad = 0, 0
    for index in range(size):
        foreign += (owner[mfn + index] != domid) | (use[mfn + index] != purpose)
        bad += ~m2p[mfn + index] != np.uint64(gfn + index)
    counts[P2M_BAD_FRAMES] += bad
    if foreign:
        note(out_findings, counts, NOT_OWNED, gfn, mfn, level, entry)
    if bad:
        note(out_findings, counts, P2M_BAD, gfn, mfn, level, entry)


@kernel
def audit_frames(
    memory: Words,
    root: int,
    owner: Owners,
    use: Marks,
    m2p: Words,
    domid: int,
    purpose: int,
    out_findings: Words,
    counts: Counts,
) -> None:
    """Check every RAM frame of the domain. Twin: spec.audit.audit_frames."""
    for mfn in range(len(owner)):
        if owner[mfn] != domid or use[mfn] != purpose:
            continue
        if m2p[mfn] == ZERO:
            counts[ORPHANS] += 1
            continue
        gfn = ~m2p[mfn]
        if look_up(memory, root, gfn) != np.uint64(mfn):
            counts[M2P_BAD_FRAMES] += 1
            note(out_findings, counts, M2P_BAD, gfn, mfn, 0, ZERO)
