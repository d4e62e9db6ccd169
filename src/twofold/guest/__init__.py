"""Guests: the inside of a domain, the programs that run there, and the engines that execute them."""

from twofold.guest.addresses import canonical
from twofold.guest.foreign import TraceGuest, TracePolicy
from twofold.guest.guest import Guest, default_footprint
from twofold.guest.program import Program
from twofold.guest.run import ACCESS_DTYPE, RunResult, check_answer, run
from twofold.guest.space import AddressSpace
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
    "canonical",
    "check_answer",
    "default_footprint",
    "run",
]
