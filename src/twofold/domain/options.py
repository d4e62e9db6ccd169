"""What a domain is created with, and which page sizes it may use."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from twofold.domain.layout import get_layout
from twofold.errors import SizeError, UnknownNameError, wrong_type
from twofold.formats.geometry import GEOMETRIES, Geometry
from twofold.formats.table_formats import ACCESSED_DIRTY
from twofold.paging import is_paging, paging_names
from twofold.units import ORDER_4K, Order, order_name, parse_page_sizes

TABLE_FORMATS: Final = ("npt", "ept", "ept-5")


@dataclass(frozen=True)
class DomainOptions:
    """How a domain's memory is managed.

    Parameters
    ----------
    paging : "hap", hardware-assisted paging, or a mode that is registered as `twofold.paging`
    page_sizes : what P2M leaves may be, such as "4K,2M"; None: whatever the machine allows
    table_format : "npt", in the format of the machine's paging mode; "ept" or "ept-5" on a 64-bit machine
    layout : "pvh", "hvm" (with VGA hole) or "flat"
    table_pool : table frames at most; None: what Xen's toolstack gives [frames]
    max_pages : memory that the domain may own; None: no limit [frames]
    accessed_dirty : A and D bits of new P2M entries, "preset", or "clear" for walks to set
    node : where its memory is to be; other nodes when that one is full; None: no preference
    """

    paging: str = "hap"
    page_sizes: str | tuple[Order, ...] | None = None
    table_format: str = "npt"
    layout: str = "pvh"
    table_pool: int | None = None
    max_pages: int | None = None
    node: int | None = None
    accessed_dirty: str = "preset"

    def __post_init__(self) -> None:
        if not is_paging(self.paging):
            raise UnknownNameError("paging mode", self.paging, paging_names())
        if self.table_format not in TABLE_FORMATS:
            raise UnknownNameError("table format", self.table_format, TABLE_FORMATS)
        if self.accessed_dirty not in ACCESSED_DIRTY:
            raise UnknownNameError("choice of A and D bits", self.accessed_dirty, ACCESSED_DIRTY)
        get_layout(self.layout)
        if self.page_sizes is not None and not any(_fits(self.page_sizes, each) for each in GEOMETRIES.values()):
            leaf_orders(self.page_sizes, GEOMETRIES["4-level"])  # says what is wrong


def check_pool(frames: int, geometry: Geometry) -> None:
    """Raise unless a table pool has room for one path at least."""
    if frames < geometry.levels:
        raise SizeError(str(frames), f"is too few table frames: one path takes {geometry.levels}")


def _fits(page_sizes: str | Iterable[Order], geometry: Geometry) -> bool:
    try:
        leaf_orders(page_sizes, geometry)
    except SizeError:
        return False
    return True


def leaf_orders(page_sizes: str | Iterable[Order] | None, geometry: Geometry) -> tuple[Order, ...]:
    """Return the leaf orders of a page-size list, ascending; None means all that the format has.

    Raises
    ------
    SizeError : a size that the format lacks, or a list without 4K
    """
    if page_sizes is None:
        return geometry.leaf_orders
    if isinstance(page_sizes, bytes) or not isinstance(page_sizes, Iterable):
        raise wrong_type("page sizes are a text like '4K,2M', or orders", page_sizes)
    orders = parse_page_sizes(page_sizes) if isinstance(page_sizes, str) else tuple(sorted(set(page_sizes)))
    known = ", ".join(order_name(order) for order in geometry.leaf_orders)
    for order in orders:
        if order not in geometry.leaf_orders:
            raise SizeError(order_name(order), f"is no page size of a {geometry.name} table; it has {known}")
    if ORDER_4K not in orders:
        raise SizeError(",".join(map(order_name, orders)), "lacks 4K, which every table needs")
    return orders
