"""`twofold build`: what each design builds on a host."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options


def build(
    host: options.Host = None,
    size: options.HostSize = None,
    free: options.Free = None,
    fragmentation: options.Fragmentation = None,
    packing: options.Packing = None,
    page_kib: options.PageKib = None,
    guest: options.Memory = None,
    layout: options.Layout = None,
    page_sizes: options.PageSizes = None,
    host_paging: options.HostPaging = None,
    table_format: options.TableFormat = None,
    guest_mode: options.GuestMode = None,
    paging: options.Paging = None,
    exact: options.Exact = None,
    behaviour: options.Behaviour = None,
    design: Annotated[str | None, typer.Option(help="Designs, comma-separated.", show_default="all three")] = None,
    fallback: Annotated[
        str | None, typer.Option(help='Where toolstack falls back: "memory" or "builder".', show_default="memory")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(writable=True, help="Save the machine's tables, for twofold audit; with one design."),
    ] = None,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build a guest by each design on an equal copy of a host, and show its leaves by size.

    Example:

        twofold build --host fragmented --guest 2GiB
    """
    from twofold.files import check_target
    from twofold.report.terminal import built_table, host_lines, show
    from twofold.study import build_all, free_map, host_summary

    given = {
        "host": options.host_fields(host, size, free, fragmentation, packing, page_kib),
        "guest": options.guest_fields(guest, layout, page_sizes, None, exact),
        "designs": options.names(design),
        "behaviours": options.names(behaviour),
        "seed": seed,
    }
    modes = options.mode_fields(host_paging, table_format, guest_mode, paging)
    scenario = options.scenario_from(None, given, modes)
    if "toolstack" not in scenario.designs:
        options.refuse("without the design toolstack", fallback=fallback)
    free_memory = free_map(scenario.host, scenario.seed)
    if save is not None:
        if len(scenario.designs) * len(scenario.modes) * len(scenario.behaviours) != 1:
            raise typer.BadParameter("--save keeps one machine: name one --design, in one mode")
        check_target(save)
    builds = build_all(scenario, free_memory, fallback, save)
    if json:
        import json as encoder
        from dataclasses import asdict

        document = {"version": 1, "designs": {name: asdict(built) for name, built in builds}}
        sys.stdout.write(encoder.dumps(document, indent=1) + "\n")
    else:
        show([*host_lines(host_summary(free_memory)), built_table(builds)])
