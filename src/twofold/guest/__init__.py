"""Guests: the inside of a domain, the programs that run there, and the engines that execute them."""

from twofold.guest.guest import Guest, default_footprint
from twofold.guest.program import Program
from twofold.guest.run import ACCESS_DTYPE, RunResult, check_answer, run
from twofold.guest.walks import NestedStep

__all__ = [
    "ACCESS_DTYPE",
    "Guest",
    "NestedStep",
    "Program",
    "RunResult",
    "check_answer",
    "default_footprint",
    "run",
]
