"""Guests: the inside of a domain, the programs that run there, and the engines that execute them."""

from twofold.guest.addresses import canonical
from twofold.guest.foreign import TraceGuest, TracePolicy
from twofold.guest.guest import Guest, area_base, default_footprint
from twofold.guest.program import Program
from twofold.guest.run import ACCESS_DTYPE, RunResult, check_answer, run
from twofold.guest.space import AddressSpace, check_guest_mode, mode_bits
from twofold.guest.walks import NestedStep

__all__ = [
    "ACCESS_DTYPE",
    "AddressSpace",
    "Guest",
    "NestedStep",
    "Program",
    "RunResult",
    "TraceGuest",
    "TracePolicy",
    "area_base",
    "canonical",
    "check_answer",
    "check_guest_mode",
    "default_footprint",
    "mode_bits",
    "run",
]
