"""`twofold run`: a real program, executed on tables that Twofold built."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options

if TYPE_CHECKING:
    from twofold.guest import RunResult

EXIT_FAULT = 1


def run(
    program: Annotated[
        str,
        typer.Argument(help="A workload (see `twofold workloads`), or an ELF file."),
        options.MayBeFile(options.workloads),
    ],
    host: options.Host = None,
    size: options.HostSize = None,
    guest: options.Memory = None,
    layout: options.Layout = None,
    page_sizes: options.PageSizes = None,
    host_paging: options.HostPaging = None,
    table_format: options.TableFormat = None,
    guest_mode: options.GuestMode = None,
    paging: options.Paging = None,
    design: Annotated[str, typer.Option(help="Design that builds the guest.")] = "toolstack",
    guest_pages: Annotated[str, typer.Option(help="The guest's own page size, 4K, 2M, 4M or 1G.")] = "4K",
    footprint: options.Footprint = None,
    steps: Annotated[
        int, typer.Option(parser=options.count(1), help="Updates, hops, lookups, lines: what a step is.")
    ] = 10_000,
    engine: Annotated[str, typer.Option(help="What executes it: unicorn, or an engine that is installed.")] = "unicorn",
    seconds: Annotated[
        float, typer.Option(parser=options.number(0.1, 1e9), help="Stop a program that takes longer.")
    ] = 60.0,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Execute a program in a guest; exit code 1 when a fault stops it.

    Example:

        twofold run gups --size 4GiB --guest 1GiB --guest-pages 2M --steps 1000
    """
    from twofold.cli.foreground import interruptible
    from twofold.guest import Program
    from twofold.guest import run as run_program
    from twofold.report.terminal import plain_table, show
    from twofold.study import guest_site

    origin = options.host_fields(host, size, None, None, None)
    inside = options.guest_fields(guest, layout, page_sizes, footprint, None)
    fields = {"host": origin, "guest": inside, "designs": [design], "guest_pages": [guest_pages], "seed": seed}
    scenario = options.single_guest(fields, options.mode_fields(host_paging, table_format, guest_mode, paging))
    chosen = (
        Program.workload(program, steps=steps, bits=scenario.modes[0].bits)
        if not options.is_file(program)
        else Program.from_file(program, steps=steps)
    )

    def work() -> "RunResult":  # Ctrl-C must not close the machine under a program that still runs on it
        with guest_site(scenario) as site:
            return run_program(site, chosen, engine, seconds=seconds)

    result = interruptible(work)
    figures = {
        "exit_code": result.exit_code,
        "output": f"{result.output:#x}",
        "accesses": result.accesses,
        "measured": len(result.trace),
        "walks": result.fills,
        "faults": list(result.faults),
    }
    if json:
        import json as encoder

        sys.stdout.write(encoder.dumps({"version": 1, **figures}, indent=1) + "\n")
    else:
        show([plain_table(("what", "value"), ((name, str(value)) for name, value in figures.items() if value != []))])
    if result.faults:
        sys.stderr.write(f"twofold: program {chosen.name}: {result.faults[0]}\n")
        raise typer.Exit(EXIT_FAULT)
