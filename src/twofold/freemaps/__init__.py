"""Maps of a host's free memory: read from a running host, made up, saved and loaded."""

from twofold.freemaps.free_map import FreeMap, shipped_names
from twofold.freemaps.map_file import promised_runs

__all__ = [
    "FreeMap",
    "promised_runs",
    "shipped_names",
]
