"""Scenarios: everything that a comparison depends on, in one checked object or one TOML file.

A scenario and the host's free map decide every figure; a second run gives the same bytes.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from twofold.domain import Exact, design_names, get_layout
from twofold.domain.options import leaf_orders
from twofold.errors import FormatError, SizeError, TwofoldError, UnknownNameError
from twofold.files import read_bounded
from twofold.formats.geometry import FOUR_LEVEL
from twofold.machine import get_behaviour
from twofold.mmu import load_profile
from twofold.trace import DEFAULT_WORKLOADS, get_workload
from twofold.units import parse_bytes, parse_order

DEFAULT_ACCESSES: Final = 1_000_000  # a cell: with 36 cells the default comparison stays well under a minute
MAX_FILE_BYTES: Final = 1 << 20
MAX_SHOWN: Final = 300  # of a name or message from a file [letters]
Share = Annotated[float, Field(ge=0, le=1)]


def _checked(check: Any) -> AfterValidator:
    """Return a validator that runs one of our own checks and reports its message."""

    def validate(value: Any) -> Any:
        try:
            check(value)
        except TwofoldError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


def _check_guest_page(text: str) -> None:
    if parse_order(text) not in FOUR_LEVEL.leaf_orders:
        raise SizeError(text, "is no page size of a 4-level guest; it has 4K, 2M, 1G")


def _check_page_sizes(text: str) -> None:
    leaf_orders(text, FOUR_LEVEL)


def _check_design(name: str) -> None:
    if name not in design_names():
        raise UnknownNameError("design", name, design_names())


def _check_behaviour(name: str) -> None:
    get_behaviour(name)


def _check_file(name: str) -> None:
    if "\0" in name:
        raise FormatError(ascii(name), "is no file name")


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is listed twice")
    return names


_SIDE: Final = (Field(min_length=1), AfterValidator(_once))  # a list that makes a side of the comparison
Size = Annotated[str, _checked(parse_bytes)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostScenario(_Model):
    """Where the host's free memory comes from.

    Either `snapshot` ("this", "fresh", "fragmented" or a file), or a synthetic host: `size`, `free`, `fragmentation`.
    """

    snapshot: Annotated[str, _checked(_check_file)] | None = None
    size: Size | None = None
    free: Share = 0.6
    fragmentation: Share = 0.4
    packing: str = "contiguous"  # how top blocks of /proc/buddyinfo are assumed to lie

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.snapshot is not None and self.size is not None:
            raise ValueError("give either a snapshot or the size of a synthetic host, not both")
        return self

    @property
    def synthetic(self) -> bool:
        """Whether the seed decides which frames are free."""
        return self.size is not None


class ExactScenario(_Model):
    """A range of guest memory that is populated at its own page size in every design."""

    start: Size
    size: Size
    page_size: Annotated[str, _checked(parse_order)] = "4K"

    def exact(self) -> Exact:
        """Return the range as the builder takes it."""
        return Exact(self.start, self.size, self.page_size)


class GuestScenario(_Model):
    """The guest that is built: None for `memory` is a quarter of the host's free memory."""

    memory: Size | None = None
    layout: Annotated[str, _checked(get_layout)] = "pvh"
    page_sizes: Annotated[str, _checked(_check_page_sizes)] | None = None  # of the P2M's leaves
    table_pool: Annotated[int, Field(ge=4)] | None = None  # [frames]
    footprint: Size | None = None  # of the workload; None: the largest power of two in 3/4 of it
    exact: tuple[ExactScenario, ...] = ()


class Scenario(_Model):
    """A comparison: host state x behaviours x designs x guest page sizes x workloads x CPUs."""

    host: HostScenario = HostScenario()
    guest: GuestScenario = GuestScenario()
    designs: Annotated[tuple[Annotated[str, _checked(_check_design)], ...], *_SIDE] = (
        "small",
        "toolstack",
        "opportunistic",
    )
    behaviours: Annotated[tuple[Annotated[str, _checked(_check_behaviour)], ...], *_SIDE] = ("twofold",)
    guest_pages: Annotated[tuple[Annotated[str, _checked(_check_guest_page)], ...], *_SIDE] = ("4K", "2M", "1G")
    workloads: Annotated[tuple[Annotated[str, _checked(get_workload)], ...], *_SIDE] = DEFAULT_WORKLOADS
    cpus: Annotated[tuple[Annotated[str, _checked(load_profile)], ...], *_SIDE] = ("zen3",)
    accesses: Annotated[int, Field(ge=1)] = DEFAULT_ACCESSES
    warmup: Annotated[int, Field(ge=0)] | None = None  # None: half as many
    executed: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000  # steps that the engine runs, for the answer
    seed: Annotated[int, Field(ge=0)] = 0
    repeat: Annotated[int, Field(ge=1, le=1000)] = 5  # seeds tried on a synthetic host

    @property
    def warmup_accesses(self) -> int:
        """Accesses that fill the caches without being counted."""
        return self.accesses // 2 if self.warmup is None else self.warmup

    @property
    def seeds(self) -> range:
        """The seeds of the hosts tried: one unless the host is synthetic."""
        return range(self.seed, self.seed + (self.repeat if self.host.synthetic else 1))


def _printable(text: str) -> str:
    """Return text of a file in one line that a terminal can show."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def load_scenario(path: Path) -> dict[str, Any]:
    """Return the fields of a TOML scenario file, not yet checked.

    Raises
    ------
    FormatError : unreadable, too large, or no TOML
    """
    text = read_bounded(path, MAX_FILE_BYTES)
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise FormatError(path, "is no text") from None
    except (ValueError, RecursionError) as error:  # TOML that is wrong, a number too long, nesting too deep
        raise FormatError(path, f"is no TOML: {error}") from None


def make_scenario(fields: dict[str, Any], source: object = "scenario") -> Scenario:
    """Return a checked scenario.

    Raises
    ------
    FormatError : a field that is unknown or wrong; the first one is named, with how many more there are
    """
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        where = ".".join(_printable(str(part)) for part in first["loc"]) or "the whole"
        message = _printable(first["msg"].removeprefix("Value error, "))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise FormatError(source, f"field {where}: {message}{more}") from None
