"""Options that several subcommands share, and how they become a scenario."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from twofold.freemaps import FreeMap
    from twofold.study import HostScenario, Scenario

Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        help='Free memory: "this", "fresh", "fragmented", a snapshot file, or a copy of /proc/buddyinfo.',
        show_default="this",
    ),
]
HostSize = Annotated[str | None, typer.Option("--size", help="Instead: a synthetic host of this size, like 16GiB.")]
Free = Annotated[str | None, typer.Option("--free", help="Share of a synthetic host that is free.", show_default="60%")]
Fragmentation = Annotated[
    float | None, typer.Option(help="How fragmented a synthetic host is, 0 to 1.", show_default="0.4")
]
Packing = Annotated[
    str | None,
    typer.Option(help='How top blocks of /proc/buddyinfo lie: "contiguous" or "scattered".', show_default="contiguous"),
]
PageKib = Annotated[
    int | None,
    typer.Option(
        "--page-kib", help="KiB of a page of the kernel whose /proc/buddyinfo was copied: 4 to 256.", show_default="4"
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
MaxMemory = Annotated[str | None, typer.Option(help="Give up rather than hold more, tables aside, like 512MiB.")]
Seed = Annotated[int | None, typer.Option(help="What everything random starts from.", show_default="0")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no talk on standard error.")]
Footprint = Annotated[
    str | None, typer.Option(help="Area the workload works in, a power of two.", show_default="up to 3/4 of the guest")
]


def share(text: str) -> float | str:
    """Return "60%" or "0.6" as 0.6; anything else as it is, for the scenario to refuse."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return text


def names(text: str | None) -> list[str] | None:
    """Return a comma-separated list, None for none."""
    return None if text is None else [part.strip() for part in text.split(",")]


def exact_range(text: str) -> dict[str, str]:
    """Return START:SIZE:PAGE as the scenario has it."""
    return dict(zip(("start", "size", "page_size"), text.split(":", 2), strict=False))


def host_fields(
    host: str | None,
    size: str | None,
    free: str | None,
    fragmentation: float | None,
    packing: str | None,
    page_kib: int | None = None,
) -> dict[str, Any]:
    """Return the host part of a scenario from options; only what was given, and that no other origin is meant."""
    given = {
        "snapshot": host,
        "size": size,
        "free": None if free is None else share(free),
        "fragmentation": fragmentation,
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
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] = {**fields[name], **value}
        elif value is not None and value != {}:
            fields[name] = value
    return make_scenario(fields, "options" if path is None else path)


def single_guest(fields: dict[str, Any], modes: dict[str, list[str]]) -> "Scenario":
    """Return the scenario of one guest, in one mode."""
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
