"""The MMU: TLBs, page-walk caches, the nested TLB and the CPUs that have them."""

from twofold.mmu.events import Event, run_with_events
from twofold.mmu.model import ASSUMPTIONS, Mmu
from twofold.mmu.profile import CpuProfile, load_profile, make_profile, profile_fields, profile_names
from twofold.mmu.stats import MmuStats

__all__ = [
    "ASSUMPTIONS",
    "CpuProfile",
    "Event",
    "Mmu",
    "MmuStats",
    "load_profile",
    "make_profile",
    "profile_fields",
    "profile_names",
    "run_with_events",
]
