"""The zones of a machine's memory, each with free lists of its own, and in which order an allocation looks into them.

        0            4 GiB                          end
    one node   |     low     |           high          |
    two nodes  |     low     |    high   |    high      |
                      node 0             | node 1

Nodes share memory evenly, in order. Twofold cuts each at 4 GiB, where the reach of 32-bit tables ends; Xen cuts it
at every power of two (a zone holds the frames whose numbers have one bit width) and uses the highest zone up first.
On a machine with several nodes Xen keeps memory below 4 GiB for last, whatever its node.
An allocation that is bound to some address bits (`Origin.address_bits`) goes the same way and passes over what does not
end below its bound; nothing is kept there for it (docs/behaviours.md, "Memory below a bound").
Source: Xen 4.17 xen/common/page_alloc.c, get_free_buddy, alloc_domheap_pages.
"""

from bisect import bisect_right
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, SizeError
from twofold.formats.heap_state import BOUNDS, KEEP_UPPER, LIMIT, NEXT_GROUP, NO_LIMIT, TOP
from twofold.machine.behaviour import Behaviour
from twofold.units import FRAME_SHIFT

Counts = npt.NDArray[np.int64]
_LOW_END = 1 << 20  # first frame from 4 GiB on
_MAX_NODES = 64


class Zones(IntEnum):
    """Where an allocation may be: memory below 4 GiB is what 32-bit page tables can name."""

    LOW_FIRST = 0
    HIGH_FIRST = 1  # whoever can use high memory leaves the low to those who cannot
    LOW_ONLY = 2


@dataclass(frozen=True)
class Origin:
    """Where the memory of an allocation may come from.

    Parameters
    ----------
    zones : low or high memory
    node : look there first; None: no preference
    exact_node : look there only
    address_bits : machine addresses have no more bits than this; None: any
    """

    zones: Zones = Zones.LOW_FIRST
    node: int | None = None
    exact_node: bool = False
    address_bits: int | None = None

    @property
    def limit(self) -> int:
        """First frame that is out of reach."""
        if self.address_bits is None:
            return NO_LIMIT
        return 1 << self.address_bits - FRAME_SHIFT if self.address_bits >= FRAME_SHIFT else 0


ANYWHERE = Origin()


class ZoneMap:
    """The zones of one machine.

    Parameters
    ----------
    frames : first frame after the machine's memory
    behaviour : where zones end, and which is used first
    nodes : NUMA nodes
    """

    def __init__(self, frames: int, behaviour: Behaviour, nodes: int = 1) -> None:
        if not 1 <= nodes <= min(_MAX_NODES, frames):
            raise SizeError(str(nodes), f"is no number of nodes: 1 to {min(_MAX_NODES, frames)}")
        self._behaviour = behaviour
        self.node_ends = [frames * (node + 1) // nodes for node in range(nodes)]
        cuts = [1 << bits for bits in range(frames.bit_length())] if behaviour.zones_by_width else [_LOW_END]
        self.ends = sorted({*(cut for cut in cuts if cut < frames), *self.node_ends})
        self.starts = [0, *self.ends[:-1]]
        self.rules: Counts = np.zeros(BOUNDS + len(self.ends), np.int64)
        self.rules[KEEP_UPPER] = behaviour.keeps_upper_half
        self.rules[TOP] = behaviour.largest_block
        self.rules[LIMIT] = NO_LIMIT
        self.rules[BOUNDS:] = self.ends
        self._searches: dict[Origin, Counts] = {}

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def nodes(self) -> int:
        """NUMA nodes of the machine."""
        return len(self.node_ends)

    def zone_of(self, mfn: int) -> int:
        """Return the zone that a frame lies in."""
        return bisect_right(self.ends, mfn)

    def node_of(self, mfn: int) -> int:
        """Return the node that a frame lies on."""
        return bisect_right(self.node_ends, mfn)

    def frames_on(self, node: int, mfns: npt.NDArray[np.uint64], frames: npt.NDArray[np.uint64]) -> int:
        """Return how many frames of runs lie on a node."""
        first = np.uint64(self.node_ends[node - 1] if node else 0)
        starts = np.maximum(mfns, first)
        ends = np.minimum(mfns + frames, np.uint64(self.node_ends[node]))
        return int((ends - starts)[ends > starts].sum())

    def search(self, origin: Origin) -> Counts:
        """Return the zones that an allocation looks into, in order, in groups (`formats.heap_state`).

        Raises
        ------
        AddressError : there is no such node
        """
        if origin not in self._searches:
            if origin.node is not None and not 0 <= origin.node < self.nodes:
                raise AddressError("node", origin.node, f"is not one of 0 to {self.nodes - 1}")
            groups = self._xen_groups(origin) if self._behaviour.zones_by_width else self._groups(origin)
            words = [zone for group in groups if group for zone in (*group, NEXT_GROUP)]
            self._searches[origin] = np.array(words[:-1], np.int64)
        return self._searches[origin]

    def _nodes_in_order(self, origin: Origin) -> list[int]:
        """Return the nodes to look into: the one asked for, then those after it, around."""
        if origin.node is None:
            return list(range(self.nodes))
        if origin.exact_node:
            return [origin.node]
        return [(origin.node + step) % self.nodes for step in range(self.nodes)]

    def _of_node(self, node: int, origin: Origin) -> list[int]:
        """Return the zones of a node that hold any frame within reach, ascending."""
        top = _LOW_END if origin.zones == Zones.LOW_ONLY else NO_LIMIT
        reach = min(top, origin.limit)
        return [zone for zone, start in enumerate(self.starts) if start < reach and self.node_of(start) == node]

    def _groups(self, origin: Origin) -> list[list[int]]:
        """Return one group a node: within it, the smallest block that will do."""
        groups = []
        for node in self._nodes_in_order(origin):
            zones = self._of_node(node, origin)
            groups.append(zones[::-1] if origin.zones == Zones.HIGH_FIRST else zones)
        return groups

    def _xen_groups(self, origin: Origin) -> list[list[int]]:
        """Return one group a zone: the highest first; with several nodes, what lies below 4 GiB comes last."""
        nodes = [self._of_node(node, origin)[::-1] for node in self._nodes_in_order(origin)]
        order = [zone for zones in nodes for zone in zones]
        if self.nodes > 1:
            order.sort(key=lambda zone: self.starts[zone] < _LOW_END)
        return [[zone] for zone in order]

    def cut(
        self, starts: npt.NDArray[np.uint64], frames: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return runs of frames cut where zones end."""
        ends = starts + frames
        inner = np.array(self.ends[:-1], np.uint64)
        runs = np.searchsorted(starts, inner, "right").astype(np.int64) - 1
        is_cut = (runs >= 0) & (inner > starts[runs]) & (inner < ends[runs]) if len(starts) else inner < 0
        firsts = np.sort(np.concatenate((starts, inner[is_cut])))
        lasts = np.sort(np.concatenate((ends, inner[is_cut])))
        return firsts, lasts - firsts
