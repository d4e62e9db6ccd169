"""Guests: the inside of a domain, the programs that run there, and the engines that execute them."""

from twofold.guest.addresses import canonical
from twofold.guest.engine import ACCESS_DTYPE, Engine, EngineSession, Start, Stop, engine_names, get_engine
from twofold.guest.foreign import PAGES, TraceGuest, TracePolicy, policies
from twofold.guest.guest import Guest, area_base, default_footprint
from twofold.guest.program import Program
from twofold.guest.run import RunResult, check_answer, load_program, run
from twofold.guest.session import Session
from twofold.guest.space import AddressSpace, Space, UnpagedSpace, check_guest_mode, mode_bits
from twofold.guest.walks import NestedStep

__all__ = [
    "ACCESS_DTYPE",
    "PAGES",
    "AddressSpace",
    "Engine",
    "EngineSession",
    "Guest",
    "NestedStep",
    "Program",
    "RunResult",
    "Session",
    "Space",
    "Start",
    "Stop",
    "TraceGuest",
    "TracePolicy",
    "UnpagedSpace",
    "area_base",
    "canonical",
    "check_answer",
    "check_guest_mode",
    "default_footprint",
    "engine_names",
    "get_engine",
    "load_program",
    "mode_bits",
    "policies",
    "run",
]
