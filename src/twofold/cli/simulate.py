"""`twofold simulate`: what a trace costs on the tables of a guest."""

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.building import Building, taking_apart
from twofold.cli.documents import print_json


@taking_apart
def simulate(
    trace: Annotated[Path, typer.Argument(help="A trace of any format, packed or not; - is standard input.")],
    *,
    building: Building,
    source_format: options.TraceFormat = None,
    design: options.Design = "toolstack",
    guest_pages: Annotated[
        str, typer.Option(help="The guest's own pages: 4K; thp, 2M (4M) where 256 pages of one are touched; 1G.")
    ] = "4K",
    placement: Annotated[
        str, typer.Option(help="Where the guest has them: contiguous, fragmented or scattered.")
    ] = "contiguous",
    cpu: Annotated[str, typer.Option(help="CPU profile, or TOML file."), options.MayBeFile()] = "zen3",
    warmup: Annotated[int, typer.Option(parser=options.count(), help="First accesses that are not counted.")] = 0,
    max_memory: options.MaxMemory = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Price the loads and stores of a trace on the tables of a guest. However long, a trace takes little memory.

    It may be of any format that `twofold trace info` reads. One of another tool is kept in a nameless file meanwhile,
    nine bytes an access, in TMPDIR.

    Example:

        twofold run gups --size 4GiB --guest 1GiB --save-trace gups.twotrace

        twofold simulate gups.twotrace --size 4GiB --guest 1GiB
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.guest import TracePolicy
    from twofold.report.terminal import plain_table, show
    from twofold.study import price_trace
    from twofold.units import format_bytes

    scenario = building.one_guest(design, cpus=[cpu], warmup=warmup)
    policy = TracePolicy(guest_pages, placement=placement, seed=scenario.seed)
    with Bar(quiet=quiet) as bar:
        price = interruptible(
            lambda: price_trace(
                trace, scenario, policy, source_format=source_format, max_memory=max_memory, progress=bar.update
            )
        )
    if json:
        print_json(1, **price.as_dict())
    else:
        rows = [("accesses", f"{price.stats.accesses:,}"), *((what, f"{number:g}") for what, number in price.rows())]
        show([plain_table(("what", "value"), [*rows, ("held beside tables", format_bytes(price.resident_bytes))])])
