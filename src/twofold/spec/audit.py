"""The audit of a P2M against frame table and M2P: both directions, reporting only.

A finding is one row of `out_findings`, uint64[n, 5]: code, gfn, mfn, level, entry. When the array is full, further
ones are counted but not written. `counts` is int64[COUNT_COLUMNS].
Source: Xen 4.17 xen/arch/x86/mm/p2m.c, audit_p2m; the order of checks is ours.
"""

from typing import Final

import numpy as np

from twofold.formats import x86
from twofold.formats.arrays import Counts, Marks, Owners, Words
from twofold.formats.status import NOT_PRESENT, OK, OUTSIDE
from twofold.spec.lookup import look_up
from twofold.spec.p2m import span
from twofold.spec.walk import walk

# Codes of findings.
MALFORMED: Final = 1  # reserved bits, or a table outside the machine
BEYOND: Final = 2  # a leaf reaches beyond the machine
NOT_OWNED: Final = 3  # a leaf maps a frame that is not this domain's RAM
P2M_BAD: Final = 4  # the M2P names another gfn for the frame of a leaf
M2P_BAD: Final = 5  # the M2P names a gfn that does not map the frame

# Columns of counts.
FINDINGS: Final = 0
ORPHANS: Final = 1
P2M_BAD_FRAMES: Final = 2
M2P_BAD_FRAMES: Final = 3
COUNT_COLUMNS: Final = 4


def note(findings: Words, counts: Counts, code: int, gfn: int, mfn: int, level: int, entry: int) -> None:
    """Count a finding, and write it while there is room."""
    if counts[FINDINGS] < len(findings):
        findings[counts[FINDINGS]] = (code, gfn, mfn, level, entry)
    counts[FINDINGS] += 1


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
    """Check every leaf of gfns[0] .. gfns[1] - 1 against frame table and M2P.

    One finding a leaf and kind; `P2M_BAD_FRAMES` counts each frame.
    """
    here = gfns[0]
    while here < gfns[1]:
        status, level, entry = walk(memory, root, here)
        level += status == OUTSIDE  # the entry that points outside stands one level above
        gfn = here & ~(span(level) - 1)
        if status == OK:
            check_leaf(owner, use, m2p, domid, purpose, gfn, level, entry, out_findings, counts)
        elif status != NOT_PRESENT:
            note(out_findings, counts, MALFORMED, gfn, x86.frame_of(entry), level, entry)
        here = gfn + span(level)


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
    """Check each frame of one leaf."""
    mfn = x86.leaf_frame(entry, level)
    if mfn + span(level) > len(owner):
        note(out_findings, counts, BEYOND, gfn, mfn, level, entry)
        return
    foreign, bad = 0, 0
    for index in range(span(level)):
        foreign += int(owner[mfn + index]) != domid or int(use[mfn + index]) != purpose
        bad += int(~m2p[mfn + index]) != gfn + index
    counts[P2M_BAD_FRAMES] += bad
    if foreign:
        note(out_findings, counts, NOT_OWNED, gfn, mfn, level, entry)
    if bad:
        note(out_findings, counts, P2M_BAD, gfn, mfn, level, entry)


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
    """Check for every RAM frame of the domain that the gfn in its M2P entry maps it; no gfn makes it an orphan."""
    for mfn in np.flatnonzero((owner == domid) & (use == purpose)).tolist():
        if not m2p[mfn]:
            counts[ORPHANS] += 1
            continue
        gfn = int(~m2p[mfn])
        if look_up(memory, root, gfn) != mfn:
            counts[M2P_BAD_FRAMES] += 1
            note(out_findings, counts, M2P_BAD, gfn, mfn, 0, 0)
