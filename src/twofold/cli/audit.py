"""`twofold audit`: tables that somebody else made, checked."""

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.documents import print_json

EXIT_FINDINGS = 1
MIN_ADDRESS_BITS, MAX_ADDRESS_BITS = 32, 52  # `formats.dialects` holds each format to its own


Dialect = Annotated[
    str | None,
    typer.Option(
        help="Whose bits stand where hardware looks at none: xen, kvm, or bare, nobody's.",
        show_default="by what the tables show",
    ),
]
AddressBits = Annotated[
    int | None,
    typer.Option(
        parser=options.count(MIN_ADDRESS_BITS, MAX_ADDRESS_BITS),
        help="Of the CPU's physical addresses, 32 to 52; bits above are reserved.",
        show_default="what an entry can hold",
    ),
]
EncryptionMask = Annotated[
    int | None,
    typer.Option(
        parser=options.unsigned("mask"),
        help="Address bits of entries that say how memory is encrypted, like 0x800000000000.",
        show_default="none",
    ),
]


def audit(
    path: Annotated[
        Path,
        typer.Argument(
            parser=options.path, help="A saved machine, raw page-table pages, or another dump that a reader knows."
        ),
    ],
    domain: Annotated[
        str | None, typer.Option(help="Name or number of a saved domain.", show_default="all of them")
    ] = None,
    table_format: Annotated[
        str | None,
        typer.Option(
            "--table-format",
            "--format",
            help="What the tables are, like ept.",
            show_default="the NPT with as many levels",
        ),
    ] = None,
    root: Annotated[
        int | None,
        typer.Option(
            parser=options.unsigned("frame number"),
            help="Frame of the top table, where the file names none.",
            show_default="those that it names",
        ),
    ] = None,
    reader: Annotated[
        str | None, typer.Option(help="Which reader opens the file.", show_default="the one that knows it")
    ] = None,
    dialect: Dialect = None,
    address_bits: AddressBits = None,
    encryption_mask: EncryptionMask = None,
    max_memory: options.MaxHeld = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check page tables: structure, and frame table and M2P where they are known. Exit code 1 when something is wrong.

    Nothing is repaired. A machine is saved by `machine.save(PATH)` in Python, or by `twofold build --save PATH`. What a
    file is, its first bytes say, not its name. What nobody said of the tables, the output says that it was assumed.

    Example:

        twofold build --size 4GiB --design small --save machine.twomachine

        twofold audit machine.twomachine
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.dumps import audit_file
    from twofold.errors import ReadingError
    from twofold.report.terminal import audit_view, show

    try:
        with Bar(quiet=quiet) as bar:
            audited = interruptible(
                lambda: audit_file(
                    path,
                    domain=domain,
                    table_format=table_format,
                    root=root,
                    reader=reader,
                    dialect=dialect,
                    address_bits=address_bits,
                    encryption_mask=encryption_mask,
                    max_memory=max_memory,
                    progress=bar.update,
                )
            )
    except ReadingError as error:
        name = f"--{error.option.replace('_', '-')}"
        raise typer.BadParameter(f"{name} {error.value} {error.problem}") from None
    if json:
        print_json(2, path=str(path), tables=[each.as_dict() for each in audited])
    else:
        show(audit_view(audited))
    if not all(each.report.clean for each in audited):
        raise typer.Exit(EXIT_FINDINGS)
