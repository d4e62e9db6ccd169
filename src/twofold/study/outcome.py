"""What a comparison found: one row a design for each mode, guest page size, workload and CPU, and how it came about.

Nothing in it depends on the time, on paths, or on how long it took.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twofold.errors import FormatError
from twofold.files import check_target, write_text, write_whole
from twofold.freemaps import FreeMap
from twofold.study.csv_text import csv_text
from twofold.study.hosts import free_digest
from twofold.study.row import LEAF_ORDERS, VERSION, Column, Key, Row, columns, leaf_column, variant_name
from twofold.study.scenario import Scenario
from twofold.units import FRAME_BYTES, ORDER_1G, ORDER_2M

if TYPE_CHECKING:
    import polars as pl

Picture = npt.NDArray[np.uint8]
Spread = tuple[float, float, float]  # median, least, greatest over the host states


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
    return HostSummary(
        source=free.source,
        exact=free.exact,
        assumption=free.assumption,
        notes=free.notes,
        digest=free_digest(free),
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

    @cached_property
    def _values(self) -> dict[Key, list[dict[str, Any]]]:
        """The columns of the rows of each cell, a host state each."""
        values: dict[Key, list[dict[str, Any]]] = {}
        for row in self.rows:
            values.setdefault(row.cell, []).append(row.values())
        return values

    @cached_property
    def _spreads(self) -> dict[tuple[Key, str], Spread | None]:
        """The spreads that were asked for: tables ask again for each width that they try."""
        return {}

    def spread(self, cell: tuple[str, str, str, str], column: str) -> Spread | None:
        """Return (median, least, greatest) of a figure over the host states, or None where there is none."""
        key = Key(*cell), column
        if key not in self._spreads:
            values = [each[column] for each in self._values[key[0]]]
            known = not any(value is None for value in values)
            self._spreads[key] = (median(values), min(values), max(values)) if known else None
        return self._spreads[key]

    def texts(self, cell: tuple[str, str, str, str], column: str) -> tuple[str, ...]:
        """Return what a column of words says of a cell, a host state each."""
        return tuple(each[column] for each in self._values[Key(*cell)])

    @property
    def variants(self) -> tuple[str, ...]:
        """Return every design under every behaviour in every mode, in order."""
        return tuple(self.designs)

    @cached_property
    def designs(self) -> dict[str, str]:
        """What was built by variant: a design, with its behaviour where that is another."""
        sides = product(self.scenario.full_modes, self.scenario.behaviours, self.scenario.designs)
        return {
            variant_name(design, behaviour, mode.name): variant_name(design, behaviour)
            for mode, behaviour, design in sides
        }

    @property
    def labels(self) -> dict[str, str]:
        """What each variant is called here: its mode goes unsaid where there is but one."""
        return self.designs if len(self.scenario.modes) == 1 else {name: name for name in self.designs}

    def cells(self) -> list[Key]:
        """Return every (cpu, workload, guest pages, variant) once, in order."""
        return list(self._values)

    @property
    def columns(self) -> dict[str, Column]:
        """The columns of figures that say something here: those of leaves that no table has are left out."""
        had = {leaf_column(order) for row in self.rows for order in row.leaves}
        lacking = {leaf_column(order) for order in LEAF_ORDERS} - had
        return {name: column for name, column in columns().items() if name not in lacking}

    def to_frame(self) -> "pl.DataFrame":
        """Return the rows as a Polars frame: the same columns for every comparison, `version` says which."""
        import polars as pl  # noqa: PLC0415  takes a while to load, and a table on the terminal needs none of it

        return pl.DataFrame([row.values() for row in self.rows], schema_overrides=_types(), infer_schema_length=None)

    def to_json(self) -> str:
        """Return everything but the pictures as JSON; `version` changes when a field goes or means something else."""
        document = {
            "version": VERSION,
            "scenario": self.scenario_fields(),
            "host": asdict(self.host),
            "guest_bytes": self.guest_bytes,
            "footprint": self.footprint,
            "assumptions": self.assumptions,
            "rows": [row.as_dict() for row in self.rows],
        }
        return json.dumps(document, indent=1) + "\n"

    @property
    def why_nothing(self) -> str:
        """Why no cell has a figure, "" where one has."""
        reasons = dict.fromkeys(row.not_available for row in self.rows)
        return "" if "" in reasons else "; ".join(reasons)

    def scenario_fields(self) -> dict[str, Any]:
        """Return the scenario as it is saved: without where host and trace were read from, which digests say."""
        fields = self.scenario.model_dump(mode="json")
        del fields["host"]["snapshot"]
        trace = fields.pop("trace")
        if trace is not None:
            digest = self.rows[0].trace_digest
            fields["trace"] = {"name": self.scenario.programs[0], "digest": digest, "placement": trace["placement"]}
        return fields

    def applied_fields(self) -> dict[str, Any]:
        """Return the fields of the saved scenario that had a say: none of another kind of host, or for programs."""
        fields = self.scenario_fields()
        fields["host"] = {name: value for name, value in fields["host"].items() if value is not None}
        if not self.scenario.host.synthetic:
            del fields["repeat"]
        if self.scenario.trace is not None:
            del fields["workloads"], fields["executed"], fields["guest"]["footprint"]
        return fields

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        return csv_text(self.to_frame())

    def save(self, path: Path | str) -> None:
        """Write the rows to a file by its ending: .json, .csv or .parquet. A failure leaves no partial file."""
        target = Path(path)
        check_target(target)
        if target.suffix == ".parquet":
            packed = io.BytesIO()  # what fails while a file is written is no OSError with Polars
            self.to_frame().write_parquet(packed)
            write_whole(target, lambda file: file.write(packed.getbuffer()))
        elif target.suffix in {".json", ".csv"}:
            text = self.to_json() if target.suffix == ".json" else self.to_csv()
            write_text(target, text)
        else:
            raise FormatError(path, "has an ending that is not .json, .csv or .parquet")


def _types() -> dict[str, Any]:
    """Return the types of columns that may have nothing in them."""
    import polars as pl  # noqa: PLC0415  as above

    numbers = {"count": pl.Int64}
    return {name: numbers.get(column.kind, pl.Float64) for name, column in columns().items()} | {"answer": pl.String}
