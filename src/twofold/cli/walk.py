"""`twofold walk`: one address through both dimensions, every step shown."""

from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.building import Building, taking_apart
from twofold.cli.documents import print_json

EXIT_FAULT = 1  # the address leads nowhere


@taking_apart
def walk(
    address: Annotated[str, typer.Argument(help="Guest virtual address, or +OFFSET into the workload's area.")] = "+0",
    *,
    building: Building,
    design: options.Design = "toolstack",
    guest_pages: Annotated[str, typer.Option(help="The guest's own page size, 4K, 2M, 4M or 1G.")] = "4K",
    footprint: options.Footprint = None,
    access: Annotated[str, typer.Option(help="read, write or execute.")] = "read",
    json: options.Json = False,
) -> None:
    """Walk a guest virtual address through the guest's tables and the P2M, every step; exit code 1 if it leads nowhere.

    Example:

        twofold walk +0x12345678 --size 4GiB --guest 1GiB --design small
    """
    from twofold.report.terminal import show, walk_table
    from twofold.study import guest_site, read_address, walk_answer

    scenario = building.one_guest(design, footprint=footprint, guest_pages=options.names(guest_pages))
    gva = read_address(address, scenario.modes[0].area_base)
    with guest_site(scenario) as site:
        status, steps, maddr = site.walk(gva, access)
    if json:
        print_json(2, gva=hex(gva), status=status, maddr=hex(maddr), steps=[each.as_dict() for each in steps])
    else:
        show([walk_table(steps), walk_answer(gva, status, len(steps), maddr)])
    if status:
        raise typer.Exit(EXIT_FAULT)
