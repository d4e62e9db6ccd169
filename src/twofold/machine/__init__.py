"""Machine memory: real bytes, the buddy heap, frame table and M2P, and maps of a host's free memory."""

from twofold.machine.arena import Arena
from twofold.machine.behaviour import BEHAVIOURS, TWOFOLD, Behaviour, get_behaviour
from twofold.machine.frames import M2P, NOBODY, FrameTable, Use, without_frames
from twofold.machine.free_map import FreeMap, shipped_names
from twofold.machine.hardware import Hardware
from twofold.machine.heap import Heap
from twofold.machine.zones import ANYWHERE, Origin, Zones

__all__ = [
    "ANYWHERE",
    "BEHAVIOURS",
    "M2P",
    "NOBODY",
    "TWOFOLD",
    "Arena",
    "Behaviour",
    "FrameTable",
    "FreeMap",
    "Hardware",
    "Heap",
    "Origin",
    "Use",
    "Zones",
    "get_behaviour",
    "shipped_names",
    "without_frames",
]
