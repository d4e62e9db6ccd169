"""Scenarios: everything that a comparison depends on, in one checked object or one TOML file.

A scenario and the host's free map decide every figure; a second run gives the same bytes.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from twofold.domain import Exact, design_names, get_layout
from twofold.errors import FormatError, ScenarioError, SizeError, TwofoldError, UnknownNameError, wrong_type
from twofold.files import as_path, read_toml
from twofold.formats.geometry import GEOMETRIES
from twofold.freemaps import shipped_names
from twofold.freemaps.buddyinfo import check_page_kib
from twofold.guest import PAGES, TracePolicy, policies
from twofold.machine import get_behaviour
from twofold.mmu import CpuProfile, load_profile, make_profile
from twofold.study.held import trace_name
from twofold.study.modes import Frozen, Mode, checked
from twofold.study.refusal import first_refusal, refusal
from twofold.study.values import counted, share
from twofold.trace import DEFAULT_WORKLOADS, get_workload
from twofold.trace.readers import FORMATS
from twofold.units import MAX_COUNT, order_name, parse_bytes, parse_frames, parse_order, parse_page_sizes

THIS_HOST: Final = "this"
DEFAULT_CPU: Final = "zen3"
DEFAULT_ACCESSES: Final = 1_000_000  # a cell: with 36 cells the default comparison stays well under a minute
MAX_EXECUTED: Final = 1_000_000
MAX_REPEAT: Final = 1000
MAX_FILE_BYTES: Final = 1 << 20
MAX_SEED: Final = 2**63 - 1  # seeds are words, and a run on a synthetic host counts on from the first
DEFAULT_FREE: Final = 0.6  # of a synthetic host
DEFAULT_FRAGMENTATION: Final = 0.4
Share = Annotated[float, share()]


def _check_design(name: str) -> None:
    if name not in design_names():
        raise UnknownNameError("design", name, design_names())


def _check_behaviour(name: str) -> None:
    get_behaviour(name)


def _check_file(name: str) -> None:
    if "\0" in name or not name:
        raise FormatError(ascii(name), "is no file name")


def _text(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _once(side: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [each if isinstance(each, str) else each.name for each in side]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is listed twice")
    return side


def _profile(given: Any) -> Any:
    """Return the whole of a CPU, which may be given by name, by path or by what a saved scenario has of it."""
    try:
        if isinstance(given, str):
            return load_profile(given)
        return make_profile(dict(given), "given") if isinstance(given, Mapping) else given
    except TwofoldError as error:
        raise ValueError(str(error)) from None


def _guest_pages(text: str) -> str:
    """Return a guest page size as it is called, "4k" as "4K"; or a policy of a trace's pages."""
    try:
        return text if text in PAGES else order_name(parse_order(text))
    except SizeError as error:
        raise ValueError(str(error)) from None


def _check_trace_format(name: str) -> None:
    if name not in FORMATS:
        raise UnknownNameError("trace format", name, FORMATS)


def _check_placement(name: str) -> None:
    TracePolicy(placement=name)


def _all_guest_pages(data: dict[str, Any]) -> tuple[str, ...]:
    """Return every page size that a guest of these modes has; nothing where the modes are wrong."""
    modes = data.get("modes", ())
    if data.get("trace") is not None:
        return tuple(dict.fromkeys(text for mode in modes for text in policies(GEOMETRIES[mode.guest])))
    return tuple(map(order_name, sorted({order for mode in modes for order in mode.guest_orders})))


def _all_workloads(data: dict[str, Any]) -> tuple[str, ...]:
    """Return the default workloads; a trace takes their place."""
    return DEFAULT_WORKLOADS if data.get("trace") is None else ()


def _all_accesses(data: dict[str, Any]) -> int | None:
    """Return how many accesses are counted: of a trace, all."""
    return DEFAULT_ACCESSES if data.get("trace") is None else None


_ONCE: Final = AfterValidator(_once)
_SIDE: Final = (Field(min_length=1), _ONCE)  # a list that makes a side of the comparison
Size = Annotated[str, checked(parse_bytes)]
Cpu = Annotated[CpuProfile, BeforeValidator(_profile)]


class HostScenario(Frozen):
    """Where the host's free memory comes from.

    Either `snapshot` ("this", "fresh", "fragmented" or a file, a saved map or a copy of /proc/buddyinfo), or a
    synthetic host: `size`, `free`, `fragmentation`. What does not apply to it is None.
    """

    snapshot: Annotated[str, checked(_check_file)] | None = None
    size: Size | None = None
    free: Share | None = None
    fragmentation: Share | None = None
    packing: str | None = None  # how top blocks of /proc/buddyinfo are assumed to lie; None: "contiguous"
    page_kib: Annotated[int, counted(1), checked(check_page_kib)] | None = (
        None  # pages of the kernel whose /proc/buddyinfo it is
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("size") is not None:
            shares = {"free": DEFAULT_FREE, "fragmentation": DEFAULT_FRAGMENTATION}
            return given | {name: share for name, share in shares.items() if given.get(name) is None}
        return given

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.snapshot is not None and self.size is not None:
            raise _problem("host", "give either a snapshot or the size of a synthetic host, not both")
        for name in ("free", "fragmentation"):
            if self.size is None and getattr(self, name) is not None:
                raise _problem(f"host.{name}", "has no effect on a host that is given; it is for one made up by size")
        if self.packing is not None and (self.size is not None or self.snapshot in shipped_names()):
            raise _problem("host.packing", "has no effect here; it is for the free memory of /proc/buddyinfo")
        if self.page_kib is not None and self.snapshot in {None, THIS_HOST, *shipped_names()}:
            raise _problem("host.page_kib", "has no effect here; it is for a copy of /proc/buddyinfo")
        return self

    @property
    def synthetic(self) -> bool:
        """Whether the seed decides which frames are free."""
        return self.size is not None


class ExactScenario(Frozen):
    """A range of guest memory that is populated at its own page size in every design."""

    start: Size
    size: Size
    page_size: Annotated[str, checked(parse_order)] = "4K"

    def exact(self) -> Exact:
        """Return the range as the builder takes it."""
        return Exact(self.start, self.size, self.page_size)


class GuestScenario(Frozen):
    """The guest that is built: None for `memory` is a quarter of the host's free memory."""

    memory: Annotated[str, checked(parse_frames)] | None = None
    layout: Annotated[str, checked(get_layout)] = "pvh"
    page_sizes: Annotated[str, checked(parse_page_sizes)] | None = None  # of the P2M's leaves
    table_pool: Annotated[int, counted(4)] | None = None  # [frames]
    footprint: Size | None = None  # of the workload; None: the largest power of two in 3/4 of it
    exact: tuple[ExactScenario, ...] = ()


class TraceScenario(Frozen):
    """A trace of one's own, priced in place of workloads.

    file : of any format, packed perhaps; "-" is standard input
    format : its name; None: by what the file holds
    placement : where the guest has its pages: see `TracePolicy`
    """

    file: Annotated[str, BeforeValidator(_text), checked(_check_file)]
    format: Annotated[str, checked(_check_trace_format)] | None = None
    placement: Annotated[str, checked(_check_placement)] = "contiguous"


class Scenario(Frozen):
    """A comparison: host state x modes x behaviours x designs x guest page sizes x workloads x CPUs.

    Guest page sizes are those that the guest's own mode has: 2M in PAE, 4M in 2-level mode; with a trace, how its pages
    are chosen: 4K, thp, 1G. A CPU is kept whole, so a scenario means the same wherever it goes.
    """

    host: HostScenario = HostScenario()
    guest: GuestScenario = GuestScenario()
    trace: TraceScenario | None = None
    modes: Annotated[tuple[Mode, ...], *_SIDE] = (Mode(),)
    designs: Annotated[tuple[Annotated[str, checked(_check_design)], ...], *_SIDE] = (
        "small",
        "toolstack",
        "opportunistic",
    )
    behaviours: Annotated[tuple[Annotated[str, checked(_check_behaviour)], ...], *_SIDE] = ("twofold",)
    guest_pages: Annotated[tuple[Annotated[str, AfterValidator(_guest_pages)], ...], *_SIDE] = Field(
        default_factory=_all_guest_pages
    )
    workloads: Annotated[tuple[Annotated[str, checked(get_workload)], ...], _ONCE] = Field(
        default_factory=_all_workloads
    )
    cpus: Annotated[tuple[Cpu, ...], *_SIDE] = Field(default_factory=lambda: (load_profile(DEFAULT_CPU),))
    accesses: Annotated[int, counted(1)] | None = Field(default_factory=_all_accesses)  # None: all of a trace
    warmup: Annotated[int, counted(0)] | None = None  # None: half as many; of a trace, none
    executed: Annotated[int, counted(1, MAX_EXECUTED)] = 2_000  # steps that the engine runs, for the answer
    seed: Annotated[int, counted(0, MAX_SEED)] = 0
    repeat: Annotated[int, counted(1, MAX_REPEAT)] = 5  # seeds tried on a synthetic host

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.trace is None:
            if not self.workloads:
                raise _problem("workloads", "is an empty list; leave it out for the default")
            if self.accesses is None:
                raise _problem("accesses", f"None is no whole number from 1 to {MAX_COUNT}")
        elif self.workloads:
            raise _problem("workloads", "a trace takes their place: give one of them")
        elif self.guest.footprint is not None:
            raise _problem("guest.footprint", "a trace says by itself what it touches")
        return self

    @model_validator(mode="after")
    def _pages_fit(self) -> Self:
        try:
            _once(self.full_modes)
        except SizeError as error:
            raise _problem("guest.page_sizes", str(error)) from None
        except ValueError as error:
            raise _problem("modes", str(error)) from None
        for mode in self.modes:
            if not self.pages_of(mode):
                raise _problem("guest_pages", str(self._lacking(self.guest_pages[0], [mode])))
        for text in self.guest_pages:
            if not any(text in self.pages_of(mode) for mode in self.modes):
                raise _problem("guest_pages", str(self._lacking(text, self.modes)))
        return self

    @model_validator(mode="wrap")
    @classmethod  # the last one, so that it is around the others
    def _in_one_line(cls, given: Any, checked_by: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return checked_by(given)
        except ValidationError as error:
            raise refusal("Scenario", *first_refusal(error, cls)) from None

    def pages_of(self, mode: Mode) -> tuple[str, ...]:
        """Return the guest page sizes of the comparison that a guest of this mode has."""
        has = self._pages_in(mode)
        return tuple(text for text in self.guest_pages if text in has)

    def _pages_in(self, mode: Mode) -> tuple[str, ...]:
        """Return what the pages of a guest of this mode may be."""
        if self.trace is not None:
            return policies(GEOMETRIES[mode.guest])
        return tuple(map(order_name, mode.guest_orders))

    def _lacking(self, page: str, modes: Iterable[Mode]) -> SizeError:
        """Return the refusal of a guest page size that none of these modes has."""
        guests = {mode.guest: ", ".join(self._pages_in(mode)) for mode in modes}
        whose = "" if self.trace is None else " for a trace"
        have = "; ".join(f"a {mode} guest{whose}; it has {sizes}" for mode, sizes in guests.items())
        return SizeError(page, f"is no page size of {have}")

    @property
    def full_modes(self) -> tuple[Mode, ...]:
        """The modes, each with the sizes of its P2M leaves."""
        return tuple(mode.with_sizes(self.guest.page_sizes) for mode in self.modes)

    @property
    def warmup_accesses(self) -> int:
        """Accesses that fill the caches without being counted."""
        return (self.accesses or 0) // 2 if self.warmup is None and self.trace is None else self.warmup or 0

    @property
    def programs(self) -> tuple[str, ...]:
        """What is priced, by name: the workloads, or the trace."""
        return self.workloads if self.trace is None else (trace_name(self.trace.file),)

    @property
    def seeds(self) -> range:
        """The seeds of the hosts tried: one unless the host is synthetic."""
        return range(self.seed, self.seed + (self.repeat if self.host.synthetic else 1))


def _problem(field: str, message: str) -> PydanticCustomError:
    """Return what is wrong with one field in the light of others."""
    return PydanticCustomError("combination", "{message}", {"message": message, "field": field})


def load_scenario(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of a TOML scenario file, not yet checked.

    Raises
    ------
    FormatError : unreadable, too large, or no TOML
    """
    return read_toml(as_path(path), MAX_FILE_BYTES)


def make_scenario(fields: Mapping[str, Any], source: object = "scenario") -> Scenario:
    """Return a checked scenario.

    Raises
    ------
    ScenarioError : a field that is unknown or wrong; the first one is named
    """
    if not isinstance(fields, Mapping):
        raise wrong_type("the fields of a scenario are a dict", fields)
    try:
        return Scenario.model_validate(dict(fields))
    except ScenarioError as error:
        raise refusal(source, error.place, error.wrong) from None


def check_scenario(scenario: Scenario) -> None:
    """Raise TypeError for what is no scenario."""
    if not isinstance(scenario, Scenario):
        raise wrong_type("a comparison takes a Scenario, as make_scenario gives", scenario)
