"""One block of a trace: columns of equal length, one row an access, in the order in which they were made.

A column that is not known holds zeros: no length, one vCPU, no instruction count. An instruction that loads and then
stores the same word (a modify) is two accesses.
"""

from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError
from twofold.formats.kinds import FETCH, LOAD, STORE

Gvas = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Shorts = npt.NDArray[np.uint16]

KIND_NAMES: Final = {LOAD: "load", STORE: "store", FETCH: "fetch"}
DATA_KINDS: Final = (LOAD, STORE)
COLUMNS: Final[dict[str, np.dtype[np.unsignedinteger[Any]]]] = {
    "gvas": np.dtype("<u8"),
    "icounts": np.dtype("<u8"),
    "lengths": np.dtype("<u2"),
    "vcpus": np.dtype("<u2"),
    "kinds": np.dtype("u1"),
}
ACCESS_BYTES: Final = sum(dtype.itemsize for dtype in COLUMNS.values())


@dataclass(frozen=True)
class TraceBlock:
    """A run of accesses.

    Parameters
    ----------
    gvas : guest virtual addresses, uint64
    icounts : instructions begun in the whole trace up to this access, its own included, uint64; 0: not known
    lengths : of the accesses, uint16 [bytes]; 0: not known
    vcpus : who made them, uint16
    kinds : 0 load, 1 store, 2 instruction fetch, uint8
    """

    gvas: Gvas
    icounts: Gvas
    lengths: Shorts
    vcpus: Shorts
    kinds: Bytes

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != self.gvas.shape or column.ndim != 1:
                raise FormatError("trace", f"column {name} must be {dtype.name}, one row an access")

    @classmethod
    def of(
        cls,
        gvas: npt.ArrayLike,
        *,
        icounts: npt.ArrayLike = 0,
        lengths: npt.ArrayLike = 0,
        vcpus: npt.ArrayLike = 0,
        kinds: npt.ArrayLike = LOAD,
    ) -> Self:
        """Return a block of these columns; a single number stands for a whole column.

        Raises
        ------
        FormatError : a column of another length, or a number that its column cannot hold
        """
        given = {"gvas": gvas, "icounts": icounts, "lengths": lengths, "vcpus": vcpus, "kinds": kinds}
        rows = np.size(np.asarray(gvas))
        return cls(**{name: _column(name, column, rows) for name, column in given.items()})

    def __len__(self) -> int:
        return len(self.gvas)

    def part(self, start: int, stop: int) -> "TraceBlock":
        """Return rows `start` to `stop` - 1; nothing is copied."""
        return TraceBlock(*(getattr(self, each.name)[start:stop] for each in fields(self)))

    def of_kinds(self, kinds: tuple[int, ...] = DATA_KINDS) -> Gvas:
        """Return the gvas of the accesses of these kinds, in order; not a copy where that is all of them."""
        if not len(self):
            return self.gvas
        seen = self.kinds[:1] if not self.kinds.strides[0] else self.kinds  # one kind throughout is stored once
        if set(range(int(seen.min()), int(seen.max()) + 1)) <= set(kinds):
            return self.gvas
        wanted = np.zeros(len(self), np.bool_)
        for kind in kinds:
            wanted |= self.kinds == kind
        return self.gvas[wanted]

    def data(self) -> tuple[Gvas, Bytes]:
        """Return (gvas, kinds) of the loads and stores, in order; not copies where that is all of them."""
        is_data = self.kinds < FETCH
        return (self.gvas, self.kinds) if is_data.all() else (self.gvas[is_data], self.kinds[is_data])


def _column(name: str, given: npt.ArrayLike, rows: int) -> npt.NDArray[Any]:
    """Return what was given as the column of that name."""
    column, dtype = np.asarray(given), COLUMNS[name]
    if column.dtype != dtype:
        integers = column if column.dtype.kind in "bui" else np.asarray(given, np.int64)
        most = int(np.iinfo(dtype).max)
        if integers.size and (int(integers.min()) < 0 or int(integers.max()) > most):
            raise FormatError("trace", f"column {name} has a number outside 0 to {most:#x}")
        column = integers.astype(dtype)
    if column.size not in {1, rows}:
        raise FormatError("trace", f"column {name} has {column.size} rows, and there are {rows} accesses")
    return np.broadcast_to(column.reshape(-1), rows)
