"""`twofold walk`: one address through both dimensions, every step shown."""

import sys
from typing import Annotated

import typer

from twofold.cli import options


def walk(
    address: Annotated[str, typer.Argument(help="Guest virtual address, or +OFFSET into the workload's area.")] = "+0",
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
    access: Annotated[str, typer.Option(help="read, write or execute.")] = "read",
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Walk a guest virtual address through the guest's tables and the P2M, numbered, with the entries' values.

    Example:

        twofold walk +0x12345678 --size 4GiB --guest 1GiB --design small
    """
    from twofold.report.terminal import show, walk_table
    from twofold.study import guest_site, read_address, walk_answer

    origin = options.host_fields(host, size, None, None, None)
    inside = options.guest_fields(guest, layout, page_sizes, footprint, None)
    fields = {"host": origin, "guest": inside, "designs": [design], "guest_pages": [guest_pages], "seed": seed}
    scenario = options.single_guest(fields, options.mode_fields(host_paging, table_format, guest_mode, paging))
    gva = read_address(address, scenario.modes[0].area_base)
    with guest_site(scenario) as site:
        status, steps, maddr = site.walk(gva, access)
    if json:
        import json as encoder
        from dataclasses import asdict

        document = {"version": 1, "gva": gva, "status": status, "maddr": maddr, "steps": [asdict(s) for s in steps]}
        sys.stdout.write(encoder.dumps(document, indent=1) + "\n")
    else:
        show([walk_table(steps), walk_answer(gva, status, len(steps), maddr)])
