"""What paging asks of a guest's address space, and what it answers about the tables that hardware walks for it."""

from typing import NamedTuple, Protocol

from twofold.formats.arrays import Words


class GuestSpace(Protocol):
    """A guest's own page tables, as `guest.tables.GuestTables` has them."""

    @property
    def root(self) -> int:
        """The gfn of the top table."""

    @property
    def shape(self) -> Words:
        """The format of the tables (`formats.shape`)."""

    @property
    def walks_mark(self) -> bool:
        """Whether walks have A and D bits to set in them (`shape.walks_mark`)."""

    @property
    def memory(self) -> Words:
        """All machine frames as tables of such entries."""


class Roots(NamedTuple):
    """What hardware, or a model of it, needs to walk for a guest.

    guest_root : where a walk begins: a gfn under nested paging, a machine frame where walks have one dimension
    p2m_root : machine frame of the P2M's top table; None: walks have one dimension
    shapes : the formats of what `guest_root` and `p2m_root` name
    """

    guest_root: int
    p2m_root: int | None
    shapes: tuple[Words, Words]
