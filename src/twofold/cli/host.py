"""`twofold host`: the free memory of a host, shown or saved."""

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.documents import print_json, say

app = typer.Typer(
    help="Show or save the free memory of a host.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def show(
    host: Annotated[
        str,
        typer.Argument(help='"this", "fresh", "fragmented", a snapshot file, or a copy of /proc/buddyinfo.'),
        options.MayBeFile(options.hosts),
    ] = "this",
    page_kib: options.PageKib = None,
    json: options.Json = False,
) -> None:
    """Show how much is free, in which block sizes, and how that is known.

    A file may be a copy of another host's /proc/buddyinfo: cat /proc/buddyinfo is all that has to run there.

    Example:

        twofold host show fragmented
    """
    from twofold.report.terminal import host_lines
    from twofold.report.terminal import show as print_all
    from twofold.study import free_map, host_summary

    scenario = options.scenario_from(None, {"host": options.host_fields(host, None, None, None, None, page_kib)})
    summary = host_summary(free_map(scenario.host, 0))
    if json:
        from dataclasses import asdict

        print_json(1, **asdict(summary))
    else:
        print_all(host_lines(summary))


@app.command()
def snapshot(
    file: Annotated[Path, typer.Argument(writable=True, help="Where to save it, like myhost.twohost.")],
    packing: options.Packing = None,
) -> None:
    """Save this host's free memory in a small file, for --host on any machine.

    Example:

        twofold host snapshot myhost.twohost
    """
    from twofold.files import check_target
    from twofold.study import THIS_HOST, free_map

    check_target(file)
    scenario = options.scenario_from(None, {"host": options.host_fields(THIS_HOST, None, None, None, packing)})
    free_map(scenario.host, 0).save(file)
    say(f"saved {file}")
