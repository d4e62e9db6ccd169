"""The P2M: guest frames to machine frames, in the hardware's own page-table format."""

from twofold.formats.p2m_types import P2MType
from twofold.p2m.faults import report
from twofold.p2m.feed import Change, ChangeKind, Flush, LeafRuns
from twofold.p2m.linear import LinearMapping, Window
from twofold.p2m.pool import TablePool, default_frames
from twofold.p2m.results import AuditReport, Counters, Entry, Fault, Finding, WalkStep
from twofold.p2m.table import P2M
from twofold.p2m.view import LEAF_DTYPE, P2MView

__all__ = [
    "LEAF_DTYPE",
    "P2M",
    "AuditReport",
    "Change",
    "ChangeKind",
    "Counters",
    "Entry",
    "Fault",
    "Finding",
    "Flush",
    "LeafRuns",
    "LinearMapping",
    "P2MType",
    "P2MView",
    "TablePool",
    "WalkStep",
    "Window",
    "default_frames",
    "report",
]
