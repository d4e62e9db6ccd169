"""`twofold run`: a real program, executed on tables that Twofold built."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options
from twofold.cli.building import Building, taking_apart
from twofold.cli.documents import print_json, say

if TYPE_CHECKING:
    from twofold.guest import RunResult

EXIT_FAULT = 1


@taking_apart
def run(
    program: Annotated[
        str,
        typer.Argument(help="A workload (see `twofold workloads`), or an ELF file."),
        options.MayBeFile(options.workloads),
    ],
    *,
    building: Building,
    design: options.Design = "toolstack",
    guest_pages: Annotated[str, typer.Option(help="The guest's own page size, 4K, 2M, 4M or 1G.")] = "4K",
    footprint: options.Footprint = None,
    steps: Annotated[
        int, typer.Option(parser=options.count(1), help="Updates, hops, lookups, lines: what a step is.")
    ] = 10_000,
    engine: Annotated[str, typer.Option(help="What executes it: unicorn, or an engine that is installed.")] = "unicorn",
    seconds: Annotated[
        float, typer.Option(parser=options.number(0.1, 1e9), help="Stop a program that takes longer.")
    ] = 60.0,
    save_trace: Annotated[
        Path | None,
        typer.Option(writable=True, help="Save what it loaded and stored in its area, for twofold simulate."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Execute a program in a guest; exit code 1 when a fault stops it.

    Example:

        twofold run gups --size 4GiB --guest 1GiB --guest-pages 2M --steps 1000
    """
    from twofold.cli.foreground import interruptible
    from twofold.files import check_target
    from twofold.guest import Program
    from twofold.guest import run as run_program
    from twofold.report.terminal import plain_table, show
    from twofold.study import guest_site
    from twofold.trace import Trace

    scenario = building.one_guest(design, footprint=footprint, guest_pages=options.names(guest_pages))
    if save_trace is not None:
        check_target(save_trace)
    chosen = (
        Program.workload(program, steps=steps, bits=scenario.modes[0].bits)
        if not options.is_file(program)
        else Program.from_file(program, steps=steps)
    )

    def work() -> "RunResult":  # Ctrl-C must not close the machine under a program that still runs on it
        with guest_site(scenario) as site:
            return run_program(site, chosen, engine, seconds=seconds)

    result = interruptible(work)
    if save_trace is not None:
        Trace.of(result.trace, source=f"run of {chosen.name}").save(save_trace)
    figures = {
        "exit_code": result.exit_code,
        "output": f"{result.output:#x}",
        "accesses": result.accesses,
        "measured": len(result.trace),
        "walks": result.fills,
        "faults": list(result.faults),
    }
    if json:
        print_json(1, **figures)
    else:
        show([plain_table(("what", "value"), ((name, str(value)) for name, value in figures.items() if value != []))])
    if result.faults:
        say(f"twofold: program {chosen.name}: {result.faults[0]}")
        raise typer.Exit(EXIT_FAULT)
