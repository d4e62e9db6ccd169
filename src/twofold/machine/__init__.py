"""Machine memory: real bytes, the buddy heap, frame table and M2P."""

from twofold.machine.arena import Arena
from twofold.machine.behaviour import BEHAVIOURS, TWOFOLD, Behaviour, get_behaviour
from twofold.machine.frames import M2P, NOBODY, FrameTable, Use, without_frames
from twofold.machine.hardware import Hardware
from twofold.machine.heap import Heap
from twofold.machine.ledger import Account, Backing, Ledger, Unmapped
from twofold.machine.zones import ANYWHERE, Origin, Zones

__all__ = [
    "ANYWHERE",
    "BEHAVIOURS",
    "M2P",
    "NOBODY",
    "TWOFOLD",
    "Account",
    "Arena",
    "Backing",
    "Behaviour",
    "FrameTable",
    "Hardware",
    "Heap",
    "Ledger",
    "Origin",
    "Unmapped",
    "Use",
    "Zones",
    "get_behaviour",
    "without_frames",
]
