"""`twofold simulate`: what a trace file costs on the tables of a guest."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options


def simulate(
    trace: Annotated[Path, typer.Argument(help="A trace file; see `twofold trace`.")],
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
    guest_pages: Annotated[
        str, typer.Option(help="The guest's own pages: 4K; thp, 2M (4M) where 256 pages of one are touched; 1G.")
    ] = "4K",
    placement: Annotated[
        str, typer.Option(help="Where the guest has them: contiguous, fragmented or scattered.")
    ] = "contiguous",
    cpu: Annotated[str, typer.Option(help="CPU profile, or TOML file."), options.MayBeFile()] = "zen3",
    warmup: Annotated[int, typer.Option(parser=options.count(), help="First accesses that are not counted.")] = 0,
    max_memory: options.MaxMemory = None,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Price the loads and stores of a trace on the tables of a guest. However long, a trace takes little memory.

    Example:

        twofold simulate gups.twotrace --size 4GiB --guest 1GiB
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.guest import TracePolicy
    from twofold.report.terminal import plain_table, show
    from twofold.study import price_trace
    from twofold.units import format_bytes

    origin = options.host_fields(host, size, None, None, None)
    inside = options.guest_fields(guest, layout, page_sizes, None, None)
    fields = {
        "host": origin,
        "guest": inside,
        "designs": [design],
        "cpus": [cpu],
        "warmup": warmup,
        "seed": seed,
    }
    scenario = options.single_guest(fields, options.mode_fields(host_paging, table_format, guest_mode, paging))
    policy = TracePolicy(guest_pages, placement=placement, seed=scenario.seed)
    with Bar(quiet=quiet) as bar:
        price = interruptible(lambda: price_trace(trace, scenario, policy, max_memory=max_memory, progress=bar.update))
    if json:
        import json as encoder

        sys.stdout.write(encoder.dumps({"version": 1, **price.as_dict()}, indent=1) + "\n")
    else:
        rows = [("accesses", f"{price.stats.accesses:,}"), *((what, f"{number:g}") for what, number in price.rows())]
        show([plain_table(("what", "value"), [*rows, ("held beside tables", format_bytes(price.resident_bytes))])])
