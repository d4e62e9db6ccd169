"""What a comparison found: one row a design for each guest page size, workload and CPU, and how it came about.

Nothing in it depends on the time, on paths, or on how long it took.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError
from twofold.files import check_target, write_text, write_whole
from twofold.freemaps import FreeMap
from twofold.machine import TWOFOLD
from twofold.study.scenario import Scenario
from twofold.units import FRAME_BYTES, ORDER_1G, ORDER_2M

if TYPE_CHECKING:
    import polars as pl

VERSION: Final = 1
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One cell of a comparison on one host state.

    Figures of the MMU are None where the guest could not hold the page size; `not_available` says why.
    """

    seed: int
    cpu: str
    workload: str
    guest_pages: str
    design: str
    behaviour: str
    leaves_1g: int
    leaves_2m: int
    leaves_4k: int
    large_share: float  # of the memory, in leaves larger than 4K
    tables: int
    calls: int
    extents_refused: int
    answer: str | None = None  # what the program computed, in hex
    misses_per_1000: float | None = None
    reads_per_walk: float | None = None
    walk_cycles_per_access: float | None = None
    cycles_per_access: float | None = None  # translation and the workload's own
    speedup: float | None = None  # against `small` in the same cell, under the first behaviour
    not_available: str = ""

    @property
    def cell(self) -> tuple[str, str, str, str]:
        """What the row is about, on whichever host state."""
        return self.cpu, self.workload, self.guest_pages, self.variant

    @property
    def variant(self) -> str:
        """What was built: a design, under a behaviour."""
        return variant_name(self.design, self.behaviour)


def variant_name(design: str, behaviour: str) -> str:
    """Return what a design is called under a behaviour: by its own name under Twofold's."""
    return design if behaviour == TWOFOLD.name else f"{design} ({behaviour})"


@dataclass(frozen=True)
class HostSummary:
    """The host state of a comparison, by what it is and not by where it was read from."""

    source: str
    exact: bool
    assumption: str
    notes: tuple[str, ...]
    digest: str  # of the free map, SHA-256; of the first seed's on a synthetic host
    machine_bytes: int
    free_bytes: int
    free_blocks: dict[int, int]
    bounds: dict[int, tuple[int, int]]  # {order: least, most aligned free extents}; equal where they are known


def host_summary(free: FreeMap) -> HostSummary:
    """Return what a free map says of its host."""
    digest = hashlib.sha256(free.starts.tobytes() + free.frames.tobytes()).hexdigest()
    return HostSummary(
        source=free.source,
        exact=free.exact,
        assumption=free.assumption,
        notes=free.notes,
        digest=digest,
        machine_bytes=free.machine_frames * FRAME_BYTES,
        free_bytes=free.free_frames * FRAME_BYTES,
        free_blocks=free.free_blocks(),
        bounds={int(order): free.bounds(order) for order in (ORDER_2M, ORDER_1G)},
    )


@dataclass(frozen=True)
class Outcome:
    """A finished comparison."""

    scenario: Scenario
    host: HostSummary
    guest_bytes: int
    footprint: int
    rows: tuple[Row, ...]
    assumptions: tuple[str, ...]
    pictures: dict[str, Picture] = field(repr=False)  # variant -> P2M; "host" -> free memory, of the first seed

    def spread(self, cell: tuple[str, str, str, str], column: str) -> tuple[float, float, float] | None:
        """Return (median, least, greatest) of a figure over the host states, or None where there is none."""
        values = [getattr(row, column) for row in self.rows if row.cell == cell]
        if any(value is None for value in values):
            return None
        return median(values), min(values), max(values)

    @property
    def variants(self) -> tuple[str, ...]:
        """Return every design under every behaviour, in order."""
        sides = product(self.scenario.behaviours, self.scenario.designs)
        return tuple(variant_name(design, behaviour) for behaviour, design in sides)

    def cells(self) -> list[tuple[str, str, str, str]]:
        """Return every (cpu, workload, guest pages, variant) once, in order."""
        return list(dict.fromkeys(row.cell for row in self.rows))

    def to_frame(self) -> "pl.DataFrame":
        """Return the rows as a Polars frame."""
        import polars as pl  # noqa: PLC0415  takes a while to load, and a table on the terminal needs none of it

        return pl.DataFrame([asdict(row) for row in self.rows], infer_schema_length=None)

    def to_json(self) -> str:
        """Return everything but the pictures as JSON; `version` changes when a field goes or means something else."""
        document = {
            "version": VERSION,
            "scenario": _without_paths(self.scenario, self.rows),
            "host": asdict(self.host),
            "guest_bytes": self.guest_bytes,
            "footprint": self.footprint,
            "assumptions": self.assumptions,
            "rows": [asdict(row) for row in self.rows],
        }
        return json.dumps(document, indent=1) + "\n"

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        return self.to_frame().write_csv()

    def save(self, path: Path | str) -> None:
        """Write the rows to a file by its ending: .json, .csv or .parquet. A failure leaves no partial file."""
        target = Path(path)
        check_target(target)
        if target.suffix == ".parquet":
            write_whole(target, lambda temporary: self.to_frame().write_parquet(temporary))
        elif target.suffix in {".json", ".csv"}:
            text = self.to_json() if target.suffix == ".json" else self.to_csv()
            write_text(target, text)
        else:
            raise FormatError(path, "has an ending that is not .json, .csv or .parquet")


def _without_paths(scenario: Scenario, rows: tuple[Row, ...]) -> dict[str, Any]:
    """Return a scenario's fields without where its host was read from (its digest says it), and CPUs by name."""
    fields = scenario.model_dump(mode="json")
    del fields["host"]["snapshot"]
    fields["cpus"] = list(dict.fromkeys(row.cpu for row in rows))
    return fields
