"""What the P2M answers with: entries, steps of a walk, counters, audit reports."""

from dataclasses import dataclass
from typing import Final

from twofold.formats.npt import P2MType
from twofold.units import Gfn, Mfn, Order, order_name

_SENTENCES: Final = {
    1: "has a malformed entry",
    2: "is mapped beyond the end of the machine",
    3: "maps frames that are not this domain's memory",
    4: "maps frames whose M2P entries name other gfns",
    5: "is named by the M2P entry of a frame that it does not map",
}


@dataclass(frozen=True)
class Entry:
    """What a gfn maps to. A hole has `INVALID_MFN` and the order of the empty slot."""

    mfn: Mfn
    order: Order
    type: P2MType
    access: str


@dataclass(frozen=True)
class WalkStep:
    """One table read of a walk: the entry in `slot` of the table in frame `table`."""

    level: int
    table: Mfn
    slot: int
    entry: int


@dataclass(frozen=True)
class Counters:
    """What happened to a P2M since it was created."""

    splits: int
    tables_allocated: int
    tables_freed: int
    flushes_owed: int
    flushes_done: int


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found wrong."""

    code: int
    gfn: Gfn
    mfn: Mfn
    level: int
    entry: int

    def __str__(self) -> str:
        size = order_name(9 * self.level)
        return f"gfn {self.gfn:#x} ({size}) {_SENTENCES[self.code]}: mfn {self.mfn:#x}, entry {self.entry:#x}"


@dataclass(frozen=True)
class AuditReport:
    """Both directions of an audit.

    orphans : frames that the domain owns and no gfn maps (counted, not findings) [frames]
    m2p_bad : frames whose M2P entry names a gfn that maps something else [frames]
    p2m_bad : frames that a leaf maps and whose M2P entry disagrees [frames]
    findings : the first of them, each with its place; `found` counts all
    """

    orphans: int
    m2p_bad: int
    p2m_bad: int
    findings: tuple[Finding, ...]
    found: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found wrong."""
        return self.found == 0
