"""Maps of a host's free memory: read from a running host, made up, saved and loaded."""

from twofold.freemaps.buddyinfo import read_meminfo
from twofold.freemaps.free_map import FreeMap, shipped_names

__all__ = [
    "FreeMap",
    "read_meminfo",
    "shipped_names",
]
