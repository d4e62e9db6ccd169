"""`twofold compare`: which design gives guests large pages on a host, and what that buys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options
from twofold.cli.building import Building, taking_apart
from twofold.cli.documents import STDOUT, put, say

if TYPE_CHECKING:
    from twofold.freemaps import FreeMap
    from twofold.study import Outcome

EXIT_NOTHING = 1  # every cell is n/a


@taking_apart
def compare(
    *,
    scenario: Annotated[Path | None, typer.Option(help="TOML file with everything below; options win over it.")] = None,
    building: Building,
    designs: options.Designs = None,
    guest_pages: Annotated[
        str | None, typer.Option(help="Guest page sizes; with --trace 4K, thp, 1G.", show_default="all of its mode")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Workloads.", show_default="gups,chase,lookup,stream")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Price this trace instead of workloads, of any format; - is standard input.")
    ] = None,
    trace_format: options.TraceFormat = None,
    placement: Annotated[
        str | None,
        typer.Option(help="Where a trace's pages are: as in simulate.", show_default="contiguous"),
    ] = None,
    cpu: options.Cpus = None,
    footprint: options.Footprint = None,
    accesses: options.Accesses = None,
    warmup: options.Warmup = None,
    repeat: options.Repeat = None,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    output: options.Output = None,
    report: options.Report = None,
    every_row: Annotated[bool, typer.Option("--all", help="Print every row, with every figure and its range.")] = False,
    assumptions: Annotated[bool, typer.Option("--assumptions", help="Print every assumption, and the host.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare designs: each builds the guest on an equal copy of the host, runs the workloads, and is priced.

    On this host (the default) the free memory that was found is saved beside the result, for a run to be repeated.

    Example:

        twofold compare --host fragmented --guest 2GiB --workload gups
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.files import check_target
    from twofold.study import compare as run_comparison

    result = STDOUT if output is None else output
    if json and csv:
        raise typer.BadParameter("give one of --json and --csv")
    if json or csv:
        options.refuse("on --json and --csv, which have every row", all=every_row, assumptions=assumptions)
    if report == STDOUT == result and (json or csv or output is not None):
        raise typer.BadParameter("--report - and the result would share standard output: write one to a file, -o FILE")
    if trace is not None:
        options.refuse("beside --trace, which takes their place", workload=workload, footprint=footprint)
    elif scenario is None:
        options.refuse("without a --trace", from_=trace_format, placement=placement)
    chosen = building.scenario(
        scenario,
        footprint=footprint,
        designs=options.names(designs),
        guest_pages=options.names(guest_pages),
        workloads=options.names(workload),
        trace=options.trace_fields(trace, trace_format, placement),
        cpus=options.names(cpu),
        accesses=accesses,
        warmup=warmup,
        repeat=repeat,
    )
    for target in (result, report):
        if target is not None and target != STDOUT:
            check_target(target)
    folder = Path.cwd() if result == STDOUT else result.parent
    options.check_beside(scenario, output=output, report=report)
    free_memory, snapshot = options.live_snapshot(chosen.host, folder)
    options.check_beside(scenario, output=output, report=report, snapshot=snapshot)
    with Bar(quiet=quiet) as bar:
        outcome = interruptible(lambda: run_comparison(chosen, free=free_memory, progress=bar.update))
    _check_figures(outcome)
    if json or csv:
        put(outcome.to_json() if json else outcome.to_csv(), result)
    elif output is not None or report != STDOUT:  # the page says all that the table does
        _print(outcome, result, every_row=every_row, assumptions=assumptions, has_report=report is not None)
    if report is not None:
        _write_page(outcome, report)
    saved = free_memory is not None and snapshot is not None and keep_map(free_memory, snapshot)
    if not quiet:
        _tell(snapshot if saved else None, report)


def _check_figures(outcome: "Outcome") -> None:
    """End with the reason, before anything is written, where no cell has a figure."""
    if outcome.why_nothing:
        say(f"twofold: every cell is n/a, so nothing is written: {outcome.why_nothing}")
        raise typer.Exit(EXIT_NOTHING)


def _print(outcome: "Outcome", output: Path, *, every_row: bool, assumptions: bool, has_report: bool) -> None:
    """Print a result for people, or write it whole to a file."""
    from twofold.report.outcome_view import outcome_view
    from twofold.report.terminal import render, show

    view = outcome_view(outcome, every_row=every_row, assumptions=assumptions, has_report=has_report)
    if output == STDOUT:
        show(view)
    else:
        put(render(view), output)


def _write_page(outcome: "Outcome", report: Path) -> None:
    """Write the page of a result."""
    from twofold.report import report_html

    put(report_html(outcome), report)


def keep_map(free: "FreeMap", snapshot: Path) -> bool:
    """Save a host's free memory beside a result, if that can be; the result is there, and no failure after it."""
    from twofold.errors import TwofoldError

    try:
        free.save(snapshot)
    except TwofoldError as error:
        say(f"twofold: this host's free memory is not saved, so the run cannot be repeated: {error}")
        return False
    return True


def _tell(snapshot: Path | None, report: Path | None) -> None:
    """Say on standard error what was written."""
    if snapshot is not None:
        say(f"this host's free memory: {snapshot} (repeat with --host {snapshot})")
    if report is not None and report != STDOUT:
        say(f"report: {report}")
