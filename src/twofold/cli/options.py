"""Options that several subcommands share, and how they become a scenario."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from twofold.cli.guard import MayBeFile
from twofold.errors import MOST_SHOWN, CountError, FormatError, nearest, quoted
from twofold.units import MAX_COUNT, parse_count

if TYPE_CHECKING:
    from twofold.freemaps import FreeMap
    from twofold.study import HostScenario, Scenario

STDIN: Final = "-"
MAX_SEED: Final = 2**63 - 1
_EXACT: Final = ("start", "size", "page_size")
_DECIMAL: Final = re.compile(r"(?!-[0.]+$)-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?")  # no -0, no nan
_UNSIGNED: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}")


def count(least: int = 0, most: int = MAX_COUNT) -> Callable[[object], int]:
    """Return a parser of whole numbers in a range; `-1` and its like are refused with the range."""

    def parse(value: object) -> int:
        try:
            return parse_count(str(value), least, most)
        except CountError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def number(least: float, most: float) -> Callable[[object], float]:
    """Return a parser of decimal numbers in a range, written like 0.99."""

    def parse(value: object) -> float:
        text = str(value)
        if not _DECIMAL.fullmatch(text) or not least <= float(text) <= most:
            raise typer.BadParameter(f"{quoted(text)} is no number from {least:g} to {most:g}")
        return float(text)

    return parse


def unsigned(what: str) -> Callable[[object], int]:
    """Return a parser of frame numbers and masks, decimal or in hex."""

    def parse(value: object) -> int:
        text = str(value)
        if not _UNSIGNED.fullmatch(text):
            raise typer.BadParameter(f"{quoted(text)} is no {what}; write it like 0x1234")
        return int(text, 0)

    return parse


def path(value: object) -> Path:
    """Return the path of a file or folder; an empty name would be the folder that the command runs in."""
    if not str(value):
        raise typer.BadParameter("'' is no name of a file")
    return Path(str(value))


def hosts() -> frozenset[str]:
    """Return what names a host and no file."""
    from twofold.freemaps import shipped_names

    return frozenset({"this", *shipped_names()})


def workloads() -> frozenset[str]:
    """Return what names a workload and no file."""
    from twofold.trace import WORKLOADS

    return frozenset(WORKLOADS)


Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        help='Free memory: "this", "fresh", "fragmented", a snapshot file, or a copy of /proc/buddyinfo.',
        show_default="this",
    ),
    MayBeFile(hosts),
]
HostSize = Annotated[str | None, typer.Option("--size", help="Instead: a synthetic host of this size, like 16GiB.")]
Free = Annotated[str | None, typer.Option("--free", help="Share of a synthetic host that is free.", show_default="60%")]
Fragmentation = Annotated[
    str | None, typer.Option(help="How fragmented a synthetic host is, 0 to 1.", show_default="0.4")
]
Packing = Annotated[
    str | None,
    typer.Option(help='How top blocks of /proc/buddyinfo lie: "contiguous" or "scattered".', show_default="contiguous"),
]
PageKib = Annotated[
    int | None,
    typer.Option(
        "--page-kib",
        parser=count(4, 256),
        help="KiB of a page of the kernel whose /proc/buddyinfo was copied: 4 to 256.",
        show_default="4",
    ),
]
Memory = Annotated[
    str | None, typer.Option("--guest", help="Memory of the guest, like 4GiB.", show_default="a quarter of free")
]
Layout = Annotated[str | None, typer.Option(help="Guest layout: pvh, hvm or flat.", show_default="pvh")]
PageSizes = Annotated[str | None, typer.Option(help="What P2M leaves may be, like 4K,2M.", show_default="all")]
Behaviour = Annotated[
    str | None,
    typer.Option("--behaviour", help="Hypervisors, comma-separated: twofold and xen-4.17.", show_default="twofold"),
]
Designs = Annotated[
    str | None,
    typer.Option("--design", "--designs", help="Designs, comma-separated.", show_default="all three"),
]
Design = Annotated[str, typer.Option("--design", "--designs", help="Design that builds the guest.")]
HostPaging = Annotated[
    str | None,
    typer.Option(help="The hypervisor's own mode: 4-level, 5-level, pae or 2-level.", show_default="4-level"),
]
TableFormat = Annotated[
    str | None,
    typer.Option(help="Format of the P2M: npt (in the hypervisor's mode), ept or ept-5.", show_default="npt"),
]
GuestMode = Annotated[
    str | None,
    typer.Option(
        help="The guest's own paging: 4-level, pae or 2-level.", show_default="the hypervisor's, 4-level on 5"
    ),
]
Paging = Annotated[str | None, typer.Option(help="Paging of the domain, like hap.", show_default="hap")]
Exact = Annotated[
    list[str] | None,
    typer.Option(help="A range populated at its own page size in every design: START:SIZE:4K. May be repeated."),
]
TraceFormat = Annotated[
    str | None, typer.Option("--from", help="Format of the trace file.", show_default="by what it holds")
]
MaxHeld = Annotated[
    str | None,
    typer.Option(
        "--max-memory", help="Give up rather than hold more, like 2GiB.", show_default="a quarter of what is free"
    ),
]
MaxMemory = Annotated[str | None, typer.Option(help="Give up rather than hold more, tables aside, like 512MiB.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document: docs/json.md.")]
Seed = Annotated[
    int | None,
    typer.Option(parser=count(0, MAX_SEED), help="What everything random starts from.", show_default="0"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no talk on standard error.")]
Cpus = Annotated[str | None, typer.Option(help="CPU profiles, or TOML files.", show_default="zen3"), MayBeFile()]
Accesses = Annotated[
    int | None,
    typer.Option(parser=count(1), help="Accesses counted in a cell.", show_default="1000000; all of a trace"),
]
Warmup = Annotated[
    int | None,
    typer.Option(parser=count(), help="Accesses before that.", show_default="half as many; none of a trace"),
]
Repeat = Annotated[
    int | None, typer.Option(parser=count(1, 1000), help="Seeds tried on a synthetic host.", show_default="5")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", writable=True, help="Write the result there; - is stdout.", show_default="-"),
]
Report = Annotated[
    Path | None,
    typer.Option(writable=True, help="Also write one self-contained HTML page; - is stdout, which then has no table."),
]
Footprint = Annotated[
    str | None, typer.Option(help="Area the workload works in, a power of two.", show_default="up to 3/4 of the guest")
]


def refuse(why: str, **given: object) -> None:
    """Refuse options that have no effect beside others; what is None or False was not given."""
    found = [
        f"--{name.strip('_').replace('_', '-')}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    if found:
        raise typer.BadParameter(f"{' and '.join(found)} {'has' if len(found) == 1 else 'have'} no effect {why}")


def is_file(source: str) -> bool:
    """Return whether a file is meant, and not a workload; a file is asked for where its name is no workload's.

    Raises
    ------
    FormatError : neither
    """
    from twofold.trace import WORKLOADS

    if source in WORKLOADS:
        return False
    if source == STDIN:
        return True
    try:
        exists = source != "" and Path(source).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        exists = False
    if not exists:
        guess = nearest(source, WORKLOADS)
        meant = "" if guess is None else f"did you mean {guess!r}? "
        raise FormatError(
            ascii(source)[1:-1][:MOST_SHOWN] or "''",
            f"is no file and no workload; {meant}known are {', '.join(WORKLOADS)}",
        )
    return True


def share(text: str) -> float | str:
    """Return "60%" or "0.6" as 0.6; anything else as it is, for the scenario to refuse."""
    number_ = text.removesuffix("%")
    if not _DECIMAL.fullmatch(number_):
        return text
    share_ = float(number_) / 100 if text.endswith("%") else float(number_)
    return share_ if 0 <= share_ <= 1 else text


def names(text: str | None) -> list[str] | None:
    """Return a comma-separated list, None for none."""
    return None if text is None else [part.strip() for part in text.split(",")]


def exact_range(text: str) -> dict[str, str]:
    """Return START:SIZE:PAGE as the scenario has it."""
    parts = text.split(":")
    if len(parts) != len(_EXACT):
        raise FormatError("--exact", f"{quoted(text)} is no range; write START:SIZE:PAGE, like 64MiB:2MiB:4K")
    return dict(zip(_EXACT, parts, strict=True))


def host_fields(
    host: str | None,
    size: str | None,
    free: str | None,
    fragmentation: str | None,
    packing: str | None,
    page_kib: int | None = None,
) -> dict[str, Any]:
    """Return the host part of a scenario from options; only what was given, and that no other origin is meant."""
    given = {
        "snapshot": host,
        "size": size,
        "free": None if free is None else share(free),
        "fragmentation": None if fragmentation is None else share(fragmentation),
        "packing": packing,
        "page_kib": page_kib,
    }
    origins = ("snapshot", "size") if host is not None or size is not None else ()
    return {name: value for name, value in given.items() if value is not None or name in origins}


def guest_fields(
    memory: str | None, layout: str | None, page_sizes: str | None, footprint: str | None, exact: list[str] | None
) -> dict[str, Any]:
    """Return the guest part of a scenario from options; only what was given."""
    given = {
        "memory": memory,
        "layout": layout,
        "page_sizes": page_sizes,
        "footprint": footprint,
        "exact": [exact_range(text) for text in exact] if exact else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def trace_fields(file: Path | None, source_format: str | None, placement: str | None) -> dict[str, str]:
    """Return the trace part of a scenario from options; only what was given."""
    given = {"file": None if file is None else str(file), "format": source_format, "placement": placement}
    return {name: value for name, value in given.items() if value is not None}


def mode_fields(
    host_paging: str | None, table_format: str | None, guest_mode: str | None, paging: str | None
) -> dict[str, list[str]]:
    """Return what modes are to have, from options with comma-separated lists; only what was given."""
    given = {"host_paging": host_paging, "table_format": table_format, "guest_mode": guest_mode, "paging": paging}
    return {name: found for name, text in given.items() if (found := names(text)) is not None}


def scenario_from(path: Path | None, given: dict[str, Any], modes: dict[str, list[str]] | None = None) -> "Scenario":
    """Return the scenario of a file, or the defaults, with the options that were given laid over it.

    Every mode of the file gets each combination of what `modes` says. Page sizes that were given are each mode's.
    """
    from twofold.study import lay_over, load_scenario, make_scenario

    fields = {} if path is None else load_scenario(path)
    if "page_sizes" in given.get("guest", {}) or modes:
        fields["modes"] = lay_over(
            fields.get("modes", [{}]), modes or {}, without=["page_sizes"] * ("page_sizes" in given.get("guest", {}))
        )
    for name, other in (("trace", "workloads"), ("workloads", "trace")):
        if given.get(name) and not given.get(other):  # which takes the place of what the file has
            fields.pop(other, None)
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            kept = _kept_host(fields[name], value) if name == "host" else fields[name]
            fields[name] = {**kept, **value}
        elif value is not None and value != {}:
            fields[name] = value
    scenario = make_scenario(fields, "options" if path is None else path)
    _check_repeat(path, scenario, given)
    return scenario


def _kept_host(from_file: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what still applies of a file's host when options name another one."""
    if given.get("size") is not None:
        return {name: value for name, value in from_file.items() if name not in {"packing", "page_kib"}}
    if given.get("snapshot") is not None:
        return {}
    return from_file


def _check_repeat(path: Path | None, scenario: "Scenario", given: dict[str, Any]) -> None:
    """Refuse a number of host states to try where there is one; of a file, unless options have changed its host."""
    from twofold.study import refusal

    in_file = path is not None and "repeat" in scenario.model_fields_set and scenario.repeat > 1
    asked = given.get("repeat") is not None or (in_file and not given.get("host"))
    if asked and not scenario.host.synthetic:
        raise refusal(
            path or "options", ("repeat",), "has no effect: only a host that is made up by size has more states"
        )


def check_beside(scenario: Path | None, **outputs: Path | None) -> None:
    """Refuse files to write that are one, or that a scenario file names as inputs; what is None is not written."""
    from twofold.files import check_apart
    from twofold.study import load_scenario

    fields = {} if scenario is None else load_scenario(scenario)
    named = [
        ("host.snapshot", fields.get("host", {}).get("snapshot")),
        ("trace.file", fields.get("trace", {}).get("file")),
        *(("cpus", cpu) for cpu in fields.get("cpus", ())),
    ]
    inputs = [(f"{key} in {scenario}", Path(name)) for key, name in named if isinstance(name, str)]
    written = {f"--{option}": path for option, path in outputs.items() if path not in {None, Path(STDIN)}}
    check_apart(written, [("--scenario", scenario), *inputs] if scenario is not None else inputs)


_ONE_OF = {"designs": "--design", "behaviours": "--behaviour", "guest_pages": "--guest-pages", "cpus": "--cpu"}


def single_guest(fields: dict[str, Any], modes: dict[str, list[str]]) -> "Scenario":
    """Return the scenario of one guest, in one mode, with one of everything."""
    for name, option in _ONE_OF.items():
        if len(listed := fields.get(name) or ()) > 1:
            raise typer.BadParameter(f"this command takes one {option}, not {','.join(listed)}")
    scenario = scenario_from(None, fields, modes)
    if len(scenario.modes) > 1:
        raise typer.BadParameter("this command takes one mode: no lists in --host-paging and what goes with it")
    return scenario


def live_snapshot(host: "HostScenario", folder: Path) -> "tuple[FreeMap | None, Path | None]":
    """Read this host's free memory, when the scenario is about it.

    Returns
    -------
    free, path : the map and where to save it in `folder`; (None, None) when the scenario is not about this host
    """
    from twofold.study import THIS_HOST, free_map, host_summary

    if host.synthetic or host.snapshot not in {None, THIS_HOST}:
        return None, None
    free = free_map(host, 0)
    return free, folder / f"host-{host_summary(free).digest[:12]}.twohost"
