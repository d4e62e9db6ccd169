"""The shape of a page table: how many levels, how many bits each level takes, which levels may hold a leaf.

A frame number is cut into one index a level, the topmost first. Four levels of nine bits:

     35       27 26       18 17        9 8         0     bits of a gfn (add 12 for a byte address)
    +-----------+-----------+-----------+-----------+
    |  level 3  |  level 2  |  level 1  |  level 0  |
    +-----------+-----------+-----------+-----------+
                  1G leaves   2M leaves   4K leaves

Five levels add nine bits on top. PAE has three levels, the top one of four entries only; the 2-level tables of 32-bit
mode have ten bits a level. Both translate 4 GiB. Read next: `shape`, what a format's entries look like.
Source: AMD APM vol. 2, "Long-Mode Page Translation", "PAE Paging", "Non-PAE Paging".
"""

from dataclasses import dataclass
from typing import Final

from twofold.errors import AddressError
from twofold.units import ORDER_1G, ORDER_2M, ORDER_4K, ORDER_4M, Order


@dataclass(frozen=True)
class Geometry:
    """The shape of one kind of table."""

    name: str
    levels: int
    index_bits: int  # of a frame number, at each level but the top one
    top_bits: int  # of a frame number, at the top level
    leaf_orders: tuple[Order, ...]  # ascending; leaf_orders[level] is what a leaf of that level maps

    @property
    def entries(self) -> int:
        """Entries in one table frame."""
        return 1 << self.index_bits

    @property
    def frame_bits(self) -> int:
        """Bits of a frame number that the table can translate."""
        return (self.levels - 1) * self.index_bits + self.top_bits

    @property
    def frame_limit(self) -> int:
        """First frame number beyond the table."""
        return 1 << self.frame_bits

    def slot(self, frame: int, level: int) -> int:
        """Return the slot of a frame number in its table of this level."""
        return frame >> (self.index_bits * level) & (self.entries - 1)

    def level_of(self, order: int) -> int:
        """Return the level whose leaves have this order.

        Raises
        ------
        AddressError : no leaf has it
        """
        if order not in self.leaf_orders:
            raise AddressError("order", order, f"is not that of any leaf of a {self.name} table")
        return self.leaf_orders.index(Order(order))


_LONG_MODE: Final = (ORDER_4K, ORDER_2M, ORDER_1G)
FIVE_LEVEL: Final = Geometry("5-level", levels=5, index_bits=9, top_bits=9, leaf_orders=_LONG_MODE)
FOUR_LEVEL: Final = Geometry("4-level", levels=4, index_bits=9, top_bits=9, leaf_orders=_LONG_MODE)
PAE: Final = Geometry("pae", levels=3, index_bits=9, top_bits=2, leaf_orders=(ORDER_4K, ORDER_2M))
TWO_LEVEL: Final = Geometry("2-level", levels=2, index_bits=10, top_bits=10, leaf_orders=(ORDER_4K, ORDER_4M))
GEOMETRIES: Final = {each.name: each for each in (FIVE_LEVEL, FOUR_LEVEL, PAE, TWO_LEVEL)}
