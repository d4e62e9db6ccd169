"""`twofold curve`: how often a TLB of each size would miss, all sizes in one pass."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options
from twofold.cli.documents import STDOUT, put, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from twofold.study import Curve

DEFAULT_ACCESSES = 10_000_000
DEFAULT_FOOTPRINT = "1GiB"


def curve(
    source: Annotated[
        str,
        typer.Argument(help="A workload (see `twofold workloads`), or a trace file; - is standard input."),
        options.MayBeFile(options.workloads),
    ],
    footprint: Annotated[
        str | None, typer.Option(help="Area that a workload works in, a power of two.", show_default="1GiB")
    ] = None,
    skew: Annotated[
        float | None,
        typer.Option(parser=options.number(0, 2), help="Of the keys of kv and web, 0 to 2.", show_default="0.99"),
    ] = None,
    source_format: options.TraceFormat = None,
    accesses: Annotated[
        int | None,
        typer.Option(
            parser=options.count(1), help="Accesses counted at most.", show_default="10 million; all of a file"
        ),
    ] = None,
    warmup: Annotated[int, typer.Option(parser=options.count(), help="Accesses before that.")] = 0,
    page_sizes: Annotated[str, typer.Option(help="A curve for each page size, like 4K,2M,1G.")] = "4K",
    sets: Annotated[str, typer.Option(help="And for each number of sets; 1 is fully associative.")] = "1",
    ways: Annotated[
        int | None,
        typer.Option(parser=options.count(1), help="The most ways.", show_default="16; 65536 entries of one set"),
    ] = None,
    max_memory: options.MaxMemory = None,
    seed: options.Seed = None,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    report: options.Report = None,
    quiet: options.Quiet = False,
) -> None:
    """Count the misses of every size of a TLB on a trace, in one pass. Of a trace file, loads and stores count.

    A file may be of any format that `twofold trace info` reads; name it ./kv where a workload has its name.

    Example:

        twofold curve kv --footprint 64MiB --page-sizes 4K,2M --sets 128
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.files import check_target
    from twofold.memory import MemoryWatch
    from twofold.study import check_counted, curves, stream_trace

    if json and csv:
        raise typer.BadParameter("give one of --json and --csv")
    if report == STDOUT and (json or csv):
        raise typer.BadParameter("--report - and --json or --csv would share standard output: write the page to a file")
    if report is not None and report != STDOUT:
        check_target(report)
    sizes, numbers, watch = options.names(page_sizes) or [], _numbers(sets), MemoryWatch(max_memory)
    is_file = options.is_file(source)
    area = DEFAULT_FOOTPRINT if footprint is None else footprint
    title = source if is_file else f"{source} over {area}"
    with Bar(quiet=quiet or not is_file) as bar:
        if is_file:
            options.refuse("on a trace file", footprint=footprint, skew=skew, seed=seed)
            most = None if accesses is None else warmup + accesses
            trace = stream_trace(source, source_format, accesses=most, progress=bar.update)
        else:
            options.refuse("on a workload", from_=source_format)
            most = warmup + (DEFAULT_ACCESSES if accesses is None else accesses)
            trace = _workload(source, seed or 0, area, most, skew)
        found = interruptible(lambda: curves(watch.over(trace), sizes, numbers, ways, warmup=warmup))
    check_counted(source, found[0].accesses, warmup)
    if report != STDOUT:
        _print(found, "json" if json else "csv" if csv else "table")
    if report is not None:
        from twofold.report import curves_html

        put(curves_html(found, title), report)
        if report != STDOUT and not quiet:
            say(f"report: {report}")


def _workload(
    name: str, seed: int, footprint: str, accesses: int, skew: float | None
) -> "Iterator[npt.NDArray[np.uint64]]":
    """Return the addresses of a workload."""
    from twofold.trace import AREA_BASE, get_workload
    from twofold.units import parse_bytes

    workload = get_workload(name)
    if not workload.is_skewed:
        options.refuse(f"on {name}, which draws no keys", skew=skew)
    return workload.blocks(seed, AREA_BASE, parse_bytes(footprint), accesses, skew=skew)


def _numbers(text: str) -> list[int]:
    """Return a comma-separated list of whole numbers."""
    from twofold.errors import CountError
    from twofold.units import parse_count

    try:
        return [parse_count(part.strip(" "), 1) for part in text.split(",")]
    except CountError as error:
        raise typer.BadParameter(f"--sets takes whole numbers, like 1,128: {error}") from None


def _print(found: "tuple[Curve, ...]", form: str) -> None:
    """Print curves on standard output."""
    from twofold.report.terminal import curves_table, show
    from twofold.study import csv_text, curves_frame, curves_json

    if form == "table":
        show([curves_table(found)])
    else:
        put(curves_json(found) if form == "json" else csv_text(curves_frame(found)), STDOUT)
