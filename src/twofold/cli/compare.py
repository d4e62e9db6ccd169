"""`twofold compare`: which design gives guests large pages on a host, and what that buys."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options

if TYPE_CHECKING:
    from twofold.study import Outcome

EXIT_NOTHING = 1  # every cell is n/a


def compare(
    scenario: Annotated[Path | None, typer.Option(help="TOML file with everything below; options win over it.")] = None,
    host: options.Host = None,
    size: options.HostSize = None,
    free: options.Free = None,
    fragmentation: options.Fragmentation = None,
    packing: options.Packing = None,
    page_kib: options.PageKib = None,
    guest: options.Memory = None,
    layout: options.Layout = None,
    page_sizes: options.PageSizes = None,
    host_paging: options.HostPaging = None,
    table_format: options.TableFormat = None,
    guest_mode: options.GuestMode = None,
    paging: options.Paging = None,
    exact: options.Exact = None,
    behaviour: options.Behaviour = None,
    designs: Annotated[str | None, typer.Option(help="Designs, comma-separated.", show_default="all three")] = None,
    guest_pages: Annotated[str | None, typer.Option(help="Guest page sizes.", show_default="all of its mode")] = None,
    workload: Annotated[str | None, typer.Option(help="Workloads.", show_default="gups,chase,lookup,stream")] = None,
    cpu: options.Cpus = None,
    footprint: options.Footprint = None,
    accesses: options.Accesses = None,
    warmup: options.Warmup = None,
    seed: options.Seed = None,
    repeat: options.Repeat = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    output: options.Output = Path("-"),
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

    given = {
        "host": options.host_fields(host, size, free, fragmentation, packing, page_kib),
        "guest": options.guest_fields(guest, layout, page_sizes, footprint, exact),
        "designs": options.names(designs),
        "guest_pages": options.names(guest_pages),
        "workloads": options.names(workload),
        "cpus": options.names(cpu),
        "accesses": accesses,
        "warmup": warmup,
        "behaviours": options.names(behaviour),
        "seed": seed,
        "repeat": repeat,
    }
    if json and csv:
        raise typer.BadParameter("give one of --json and --csv")
    if json or csv:
        options.refuse("on --json and --csv, which have every row", all=every_row, assumptions=assumptions)
    modes = options.mode_fields(host_paging, table_format, guest_mode, paging)
    chosen = options.scenario_from(scenario, given, modes)
    for target in (output, report):
        if target not in {None, Path("-")}:
            check_target(target)
    folder = Path.cwd() if output == Path("-") else output.parent
    options.check_beside(scenario, output=output, report=report)
    free_memory, snapshot = options.live_snapshot(chosen.host, folder)
    options.check_beside(scenario, output=output, report=report, snapshot=snapshot)
    with Bar(quiet=quiet) as bar:
        outcome = interruptible(lambda: run_comparison(chosen, free=free_memory, progress=bar.update))
    _check_figures(outcome)
    if json or csv:
        _write(outcome.to_json() if json else outcome.to_csv(), output)
    else:
        _print(outcome, output, every_row=every_row, assumptions=assumptions, has_report=report is not None)
    if report is not None:
        from twofold.report import write_report

        write_report(outcome, report)
    if free_memory is not None and snapshot is not None:
        free_memory.save(snapshot)
    if not quiet:
        _tell(snapshot, report)


def _check_figures(outcome: "Outcome") -> None:
    """End with the reason, before anything is written, where no cell has a figure."""
    if outcome.why_nothing:
        sys.stderr.write(f"twofold: every cell is n/a, so nothing is written: {outcome.why_nothing}\n")
        raise typer.Exit(EXIT_NOTHING)


def _print(outcome: "Outcome", output: Path, *, every_row: bool, assumptions: bool, has_report: bool) -> None:
    """Print a result for people, or write it whole to a file."""
    from twofold.report.outcome_view import outcome_view
    from twofold.report.terminal import render, show

    view = outcome_view(outcome, every_row=every_row, assumptions=assumptions, has_report=has_report)
    if output == Path("-"):
        show(view)
    else:
        _write(render(view), output)


def _write(text: str, output: Path) -> None:
    """Write text to standard output, or whole to a file."""
    from twofold.files import write_text

    if output == Path("-"):
        sys.stdout.write(text)
    else:
        write_text(output, text)


def _tell(snapshot: Path | None, report: Path | None) -> None:
    """Say on standard error what was written."""
    if snapshot is not None:
        sys.stderr.write(f"this host's free memory: {snapshot} (repeat with --host {snapshot})\n")
    if report is not None:
        sys.stderr.write(f"report: {report}\n")
