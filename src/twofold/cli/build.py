"""`twofold build`: what each design builds on a host."""

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.building import Building, taking_apart
from twofold.cli.documents import print_json


@taking_apart
def build(
    *,
    building: Building,
    design: options.Designs = None,
    fallback: Annotated[
        str | None, typer.Option(help='Where toolstack falls back: "memory" or "builder".', show_default="memory")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(writable=True, help="Save the machine's tables, for twofold audit; with one design.")
    ] = None,
    save_journal: Annotated[
        Path | None, typer.Option(writable=True, help="Save all that was done, for twofold replay; with one design.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Build a guest by each design on an equal copy of a host, and show its leaves by size.

    Example:

        twofold build --host fragmented --guest 2GiB
    """
    from twofold.files import check_target
    from twofold.report.terminal import built_table, host_lines, show
    from twofold.study import build_all, free_map, host_summary

    scenario = building.scenario(designs=options.names(design))
    for option, target in (("--save", save), ("--save-journal", save_journal)):
        if target is not None:
            if len(scenario.designs) * len(scenario.modes) * len(scenario.behaviours) != 1:
                raise typer.BadParameter(f"{option} keeps one machine: name one --design, in one mode")
            check_target(target)
    if "toolstack" not in scenario.designs:
        options.refuse("without the design toolstack", fallback=fallback)
    free_memory = free_map(scenario.host, scenario.seed)
    builds = build_all(scenario, free_memory, fallback, save=save, journal=save_journal)
    if json:
        from dataclasses import asdict

        print_json(1, designs={name: {**asdict(built), "large_share": built.large_share} for name, built in builds})
    else:
        show([*host_lines(host_summary(free_memory)), built_table(builds)])
