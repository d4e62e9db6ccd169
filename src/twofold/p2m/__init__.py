"""The P2M: guest frames to machine frames, in the hardware's own page-table format."""

from twofold.formats.p2m_types import P2MType
from twofold.p2m.linear import LinearMapping, Window
from twofold.p2m.open_tables import Audited, OpenTables, audit_file, open_tables
from twofold.p2m.pool import TablePool, default_frames
from twofold.p2m.results import AuditReport, Counters, Entry, Fault, Finding, WalkStep
from twofold.p2m.saved_machine import SavedDomain, save_machine
from twofold.p2m.table import P2M
from twofold.p2m.view import LEAF_DTYPE, P2MView

__all__ = [
    "LEAF_DTYPE",
    "P2M",
    "AuditReport",
    "Audited",
    "Counters",
    "Entry",
    "Fault",
    "Finding",
    "LinearMapping",
    "OpenTables",
    "P2MType",
    "P2MView",
    "SavedDomain",
    "TablePool",
    "WalkStep",
    "Window",
    "audit_file",
    "default_frames",
    "open_tables",
    "save_machine",
]
