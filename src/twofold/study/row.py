"""A row of a comparison, and what each of its columns is called.

A column is a field of `Row` with a `Column`; it then stands in JSON, CSV and Parquet, in the table of `--all` and the
page. Its value is set in `study.compare`. Nothing else knows how many columns there are.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, NamedTuple, Self

from twofold.machine import TWOFOLD
from twofold.study.modes import DEFAULT_HOST
from twofold.units import ORDER_1G, ORDER_2M, ORDER_4K, ORDER_4M, order_name

VERSION: Final = 2  # of what is saved; it changes when a column goes or means something else
LEAF_ORDERS: Final = (ORDER_4K, ORDER_2M, ORDER_4M, ORDER_1G)  # of every P2M format, each a column of its own
Kind = Literal["count", "share", "tenths", "hundredths", "times"]
Group = Literal["built", "priced"]


@dataclass(frozen=True)
class Column:
    """What a column of figures is called, and how its figures are written.

    Parameters
    ----------
    head : in a line of a terminal
    title : where there is room, in lines
    group : whether it tells what was built, or what that costs
    kind : of figure
    brief : whether 80 columns of a terminal show it
    """

    head: str
    title: str
    group: Group
    kind: Kind
    brief: bool = False


def _built(head: str, title: str, kind: Kind, *, brief: bool = False) -> Any:
    return field(metadata={"column": Column(head, title, "built", kind, brief)})


def _priced(head: str, title: str, kind: Kind, *, brief: bool = False) -> Any:
    return field(default=None, metadata={"column": Column(head, title, "priced", kind, brief)})


class Key(NamedTuple):
    """What a row is about, on whichever host state; a variant is what was built."""

    cpu: str
    workload: str
    guest_pages: str
    variant: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one cell came to.

    Figures of the MMU are None where the guest could not hold the page size; `not_available` says why.
    """

    seed: int  # of the host state
    cpu: str
    workload: str
    guest_pages: str
    design: str
    behaviour: str
    mode: str  # the name of the five that follow
    host_paging: str
    table_format: str
    guest_mode: str
    paging: str
    page_sizes: str  # that P2M leaves may have
    footprint: int  # of the workload [bytes]
    cell_digest: str  # of everything that the row depends on
    tables_digest: str  # of the P2M's tables: equal where designs built the same
    leaves: Mapping[int, int]  # {order: leaves}, of every order that the format has
    large_share: float = _built("large", "in large\nleaves", "share", brief=True)
    tables: int = _built("tables", "tables", "count", brief=True)
    calls: int = _built("calls", "calls", "count")
    extents_refused: int = _built("refused", "extents\nrefused", "count")
    trace_digest: str = ""  # of a trace of one's own, its loads and stores; empty where a workload ran
    answer: str | None = None  # what the program computed, in hex; None where a trace was priced
    misses_per_1000: float | None = _priced("miss/1000", "TLB misses\nper 1000\naccesses", "tenths", brief=True)
    reads_per_walk: float | None = _priced("reads", "reads\nper walk", "hundredths", brief=True)
    walk_cycles_per_access: float | None = _priced("walking", "walk cycles\nper access", "hundredths")
    cycles_per_access: float | None = _priced("cycles", "all cycles\nper access", "tenths", brief=True)
    speedup: float | None = _priced("gain", "speed-up", "times", brief=True)  # against `Cell.base`
    not_available: str = ""

    @property
    def cell(self) -> Key:
        """What the row is about, on whichever host state."""
        return Key(self.cpu, self.workload, self.guest_pages, self.variant)

    @property
    def variant(self) -> str:
        """What was built: a design, under a behaviour, in a mode."""
        return variant_name(self.design, self.behaviour, self.mode)

    def values(self) -> dict[str, Any]:
        """Return the row by fixed columns, whatever the table format: leaves of an order that it lacks are None."""
        values = {"version": VERSION, **asdict(self)}
        leaves = values.pop("leaves")
        return values | {leaf_column(order): leaves.get(order) for order in LEAF_ORDERS}

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields_: Mapping[str, Any]) -> Self:
        """Return the row that `as_dict` gave, after JSON too."""
        return cls(**{**fields_, "leaves": {int(order): count for order, count in fields_["leaves"].items()}})


def leaf_column(order: int) -> str:
    """Return the column that counts leaves of an order."""
    return f"leaves_{order_name(order).lower()}"


def columns() -> dict[str, Column]:
    """Return the columns of figures in order, leaves by size, the largest first, after their share."""
    named = {each.name: each.metadata["column"] for each in fields(Row) if "column" in each.metadata}
    sizes = {
        leaf_column(order): Column(order_name(order), f"{order_name(order)}\nleaves", "built", "count")
        for order in reversed(LEAF_ORDERS)
    }
    first = next(iter(named))
    return {first: named.pop(first)} | sizes | named


def variant_name(design: str, behaviour: str, mode: str = DEFAULT_HOST) -> str:
    """Return what a design is called under a behaviour, in a mode: by its own name where both are the default."""
    beside = [part for part, default in ((behaviour, TWOFOLD.name), (mode, DEFAULT_HOST)) if part != default]
    return f"{design} ({', '.join(beside)})" if beside else design
