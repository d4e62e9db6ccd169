"""`twofold cpus`: the CPU profiles, and where each number comes from."""

from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.documents import print_json


def cpus(
    name: Annotated[
        str | None, typer.Argument(help="A profile, or a TOML file, for all of its fields."), options.MayBeFile()
    ] = None,
    json: options.Json = False,
) -> None:
    """List the CPU profiles, or show one with the source and the confidence of every field.

    Example:

        twofold cpus zen3
    """
    from twofold.mmu import load_profile, profile_fields, profile_names
    from twofold.report.terminal import plain_table, show

    if json:
        from dataclasses import asdict

        shown = profile_names() if name is None else (name,)
        print_json(1, cpus=[asdict(load_profile(each)) for each in shown])
    elif name is None:
        show([plain_table(("name",), ((each,) for each in profile_names()))])
    else:
        show([plain_table(("field", "value", "confidence", "source"), profile_fields(name))])
