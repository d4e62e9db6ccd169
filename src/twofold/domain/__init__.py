"""Domains: machines and their guests, memory operations, layouts, designs, the builder."""

from twofold.domain.builder import Built, Exact, build
from twofold.domain.caller import Buffer, Caller, CallerMemory
from twofold.domain.designs import Design, SmallDesign, design_names, get_design
from twofold.domain.domain import Domain
from twofold.domain.door import Store, WriteDoor
from twofold.domain.extents import Extents, Mem, Reason
from twofold.domain.hypercall import Continuation, memory_op
from twofold.domain.layout import LAYOUTS, Layout, get_layout
from twofold.domain.machine import Machine
from twofold.domain.memory import MemoryOperations
from twofold.domain.options import DomainOptions
from twofold.domain.replay import Replayed, replay

__all__ = [
    "LAYOUTS",
    "Buffer",
    "Built",
    "Caller",
    "CallerMemory",
    "Continuation",
    "Design",
    "Domain",
    "DomainOptions",
    "Exact",
    "Extents",
    "Layout",
    "Machine",
    "Mem",
    "MemoryOperations",
    "Reason",
    "Replayed",
    "SmallDesign",
    "Store",
    "WriteDoor",
    "build",
    "design_names",
    "get_design",
    "get_layout",
    "memory_op",
    "replay",
]
