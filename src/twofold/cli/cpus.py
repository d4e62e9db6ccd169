"""`twofold cpus`: the CPU profiles, and where each number comes from."""

from typing import Annotated

import typer

from twofold.cli.guard import MayBeFile


def cpus(
    name: Annotated[str | None, typer.Argument(help="A profile, for all of its fields."), MayBeFile()] = None,
) -> None:
    """List the CPU profiles, or show one with the source and the confidence of every field.

    Example:

        twofold cpus zen3
    """
    from twofold.mmu import profile_fields, profile_names
    from twofold.report.terminal import plain_table, show

    if name is None:
        show([plain_table(("name",), ((each,) for each in profile_names()))])
    else:
        show([plain_table(("field", "value", "confidence", "source"), profile_fields(name))])
