"""From a scenario's host to a map of free memory."""

from pathlib import Path
from typing import Final

from twofold.freemaps import FreeMap, shipped_names
from twofold.study.scenario import HostScenario
from twofold.units import FRAME_BYTES

THIS_HOST: Final = "this"
_QUARTER: Final = 4
_MEMORY_STEP: Final = 64 << 20  # a default guest is a whole number of these [bytes]


def free_map(host: HostScenario, seed: int) -> FreeMap:
    """Return the free memory that a scenario starts from; only a synthetic host depends on the seed."""
    if host.size is not None:
        return FreeMap.synthetic(host.size, free_share=host.free, fragmentation=host.fragmentation, seed=seed)
    name = THIS_HOST if host.snapshot is None else host.snapshot
    if name == THIS_HOST:
        return FreeMap.this_host(packing=host.packing)
    if name in shipped_names():
        return FreeMap.shipped(name)
    return FreeMap.load(Path(name))


def default_memory(free: FreeMap) -> int:
    """Return a quarter of the free memory, in whole steps of 64 MiB where it is that much [bytes]."""
    quarter = free.free_frames // _QUARTER * FRAME_BYTES
    return max(quarter // _MEMORY_STEP * _MEMORY_STEP, min(quarter, _MEMORY_STEP))
