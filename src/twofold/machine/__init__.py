"""Machine memory: real bytes, the buddy heap, frame table and M2P, and maps of a host's free memory."""

from twofold.machine.arena import Arena
from twofold.machine.frames import M2P, NOBODY, FrameTable, Use
from twofold.machine.free_map import FreeMap, shipped_names
from twofold.machine.hardware import Hardware
from twofold.machine.heap import Heap, Zones

__all__ = ["M2P", "NOBODY", "Arena", "FrameTable", "FreeMap", "Hardware", "Heap", "Use", "Zones", "shipped_names"]
