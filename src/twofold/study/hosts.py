"""From a scenario's host to a map of free memory."""

import hashlib
from pathlib import Path
from typing import Final

from twofold.freemaps import FreeMap, shipped_names
from twofold.study.refusal import refusal
from twofold.study.scenario import THIS_HOST, HostScenario
from twofold.units import FRAME_BYTES

_QUARTER: Final = 4
_MEMORY_STEP: Final = 64 << 20  # a default guest is a whole number of these [bytes]


def free_map(host: HostScenario, seed: int) -> FreeMap:
    """Return the free memory that a scenario starts from; only a synthetic host depends on the seed."""
    if host.size is not None and host.free is not None and host.fragmentation is not None:
        return FreeMap.synthetic(host.size, free_share=host.free, fragmentation=host.fragmentation, seed=seed)
    name = THIS_HOST if host.snapshot is None else host.snapshot
    if name == THIS_HOST:
        return _this_host(host.packing)
    if name in shipped_names():
        return FreeMap.shipped(name)
    return FreeMap.from_file(Path(name), page_kib=host.page_kib, packing=host.packing)


def _this_host(packing: str | None) -> FreeMap:
    """Return this host's free memory; a packing is refused where nothing has to be assumed."""
    if packing is None:
        return FreeMap.this_host()
    free = FreeMap.this_host(packing=packing)
    if not free.assumption:
        why = "/proc/kpageflags, which can be read here, says where free memory lies"
        raise refusal("scenario", ("host", "packing"), f"has no effect: {why}")
    return free


def default_memory(free: FreeMap) -> int:
    """Return a quarter of the free memory, in whole steps of 64 MiB where it is that much [bytes]."""
    quarter = free.free_frames // _QUARTER * FRAME_BYTES
    return max(quarter // _MEMORY_STEP * _MEMORY_STEP, min(quarter, _MEMORY_STEP))


def free_digest(free: FreeMap) -> str:
    """Return the SHA-256 of which frames are free, whatever they were read from."""
    return hashlib.sha256(free.starts.tobytes() + free.frames.tobytes()).hexdigest()


class HostStates:
    """The free maps of a scenario's host by seed: the first one stays, of the others the last.

    Parameters
    ----------
    host, first_seed : of the scenario
    first : the map of the first seed, where the caller has it; None: as the host says
    """

    def __init__(self, host: HostScenario, first_seed: int, first: FreeMap | None = None) -> None:
        self._host = host
        self._first_seed = first_seed
        self._maps = {} if first is None else {first_seed: first}

    def get(self, seed: int) -> FreeMap:
        """Return the map of a seed; all seeds of a host that is not synthetic are alike."""
        seed = seed if self._host.synthetic else self._first_seed
        if seed not in self._maps:
            kept = {key: value for key, value in self._maps.items() if key == self._first_seed}
            self._maps = kept | {seed: free_map(self._host, seed)}
        return self._maps[seed]
