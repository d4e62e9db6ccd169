"""`twofold curve`: how often a TLB of each size would miss, all sizes in one pass."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options

if TYPE_CHECKING:
    from twofold.study import Curve


def curve(
    source: Annotated[str, typer.Argument(help="The workload that makes the addresses: see `twofold workloads`.")],
    footprint: Annotated[str, typer.Option(help="Area that it works in, a power of two.")] = "1GiB",
    skew: Annotated[float | None, typer.Option(help="Of the keys of kv and web, 0 to 2.", show_default="0.99")] = None,
    accesses: Annotated[int, typer.Option(min=1, help="Accesses counted.")] = 10_000_000,
    warmup: Annotated[int, typer.Option(min=0, help="Accesses before that.")] = 0,
    page_sizes: Annotated[str, typer.Option(help="A curve for each page size, like 4K,2M,1G.")] = "4K",
    sets: Annotated[str, typer.Option(help="And for each number of sets; 1 is fully associative.")] = "1",
    ways: Annotated[
        int | None, typer.Option(min=1, help="The most ways.", show_default="16; 65536 entries of one set")
    ] = None,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every number of ways.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write one self-contained HTML page.")] = None,
) -> None:
    """Count the misses of every size of a TLB on a trace, in one pass.

    Example:

        twofold curve kv --footprint 64MiB --page-sizes 4K,2M --sets 128
    """
    from twofold.cli.foreground import interruptible
    from twofold.files import check_target
    from twofold.study import curves
    from twofold.trace import AREA_BASE, get_workload
    from twofold.units import parse_bytes

    if report is not None:
        check_target(report)
    trace = get_workload(source).blocks(seed or 0, AREA_BASE, parse_bytes(footprint), warmup + accesses, skew=skew)
    sizes, numbers = options.names(page_sizes) or [], _numbers(sets)
    found = interruptible(lambda: curves(trace, sizes, numbers, ways, warmup=warmup))
    _print(found, "json" if json else "csv" if csv else "table")
    if report is not None:
        from twofold.report import write_curves

        write_curves(found, f"{source} over {footprint}", report)
        sys.stderr.write(f"report: {report}\n")


def _numbers(text: str) -> list[int]:
    """Return a comma-separated list of whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--sets takes whole numbers, like 1,128, not {text!r}") from None


def _print(found: "tuple[Curve, ...]", form: str) -> None:
    """Print curves on standard output."""
    from twofold.report.terminal import curves_table, show
    from twofold.study import curves_frame, curves_json

    if form == "table":
        show([curves_table(found)])
    else:
        sys.stdout.write(curves_json(found) if form == "json" else curves_frame(found).write_csv())
