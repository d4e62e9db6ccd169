"""`twofold trace`: traces of other tools and of real programs, converted, recorded and shown."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import options
from twofold.cli.documents import print_json, say

if TYPE_CHECKING:
    from twofold.errors import FormatError

EXIT_PROGRAM = 1  # the recorded program failed
EXIT_FAILURE = 3

app = typer.Typer(
    help="Convert, record and show traces of memory accesses.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def convert(
    trace: Annotated[Path, typer.Argument(help="A trace of any format, packed or not; - is standard input.")],
    output: Annotated[Path, typer.Argument(writable=True, help="The trace file to write, like gups.twotrace.")],
    source: options.TraceFormat = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a trace of another tool as a trace file.

    A trace that is broken is written up to that place; the exit code is 3.

    Formats: lackey (Valgrind), drmemtrace (DynamoRIO's view), execlog (QEMU), perf-script, perf-mem, gem5-packets,
    gem5-exec, champsim, champsim-load-type, champsim-cloudsuite, csv, twotrace.

    Example:

        twofold run gups --size 4GiB --guest 1GiB --save-trace gups.twotrace

        twofold trace convert gups.twotrace copy.twotrace
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.files import check_target
    from twofold.trace import convert_trace

    check_target(output)
    with Bar(quiet=quiet) as bar:
        converted = interruptible(lambda: convert_trace(trace, output, source, bar.update))
    if json:
        problem = "" if converted.problem is None else str(converted.problem)
        print_json(1, path=str(output), accesses=converted.accesses, source=converted.source, problem=problem)
    elif not quiet:
        say(f"{output}: {converted.accesses:,} accesses, from {converted.source}")
    _end(converted.problem)


@app.command()
def info(
    trace: Annotated[Path, typer.Argument(help="A trace of any format; - is standard input.")],
    source: options.TraceFormat = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what is in a trace: accesses by kind, their span, footprint in pages of each size, vCPUs.

    Example:

        twofold run gups --size 4GiB --guest 1GiB --save-trace gups.twotrace

        twofold trace info gups.twotrace
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.report.terminal import plain_table, show
    from twofold.trace import inspect_trace

    with Bar(quiet=quiet) as bar:
        found, problem = interruptible(lambda: inspect_trace(trace, source, bar.update))
    if json:
        print_json(2, **found.as_dict(), problem="" if problem is None else str(problem))
    else:
        show([plain_table(("what", "value"), found.rows())])
    _end(problem)


@app.command(context_settings={"allow_interspersed_args": False})
def capture(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --."), options.MayBeFile()],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", writable=True, help="The trace file to write.", show_default="PROGRAM.twotrace"),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Run a program under Valgrind and keep every fetch, load and store of it. Ctrl-C ends it; the trace stays.
    Exit code 1 when the program fails.

    Example:

        twofold trace capture -o true.twotrace -- true
    """
    from twofold.cli.foreground import Bar
    from twofold.files import check_apart
    from twofold.trace import capture_trace

    target = Path(f"{Path(command[0]).name}.twotrace") if output is None else output
    read = [*command, shutil.which(command[0]) or command[0]]
    check_apart({"--output": target}, [("COMMAND", Path(part)) for part in read])
    with Bar(quiet=quiet) as bar:
        captured = capture_trace(command, target, lambda accesses: bar.count(f"{accesses:,} accesses"))
    if not quiet:
        end = "stopped" if captured.stopped else f"ended with {captured.exit_code}"
        say(f"{target}: {captured.accesses:,} accesses; the program {end}")
    if captured.exit_code and not captured.stopped:
        raise typer.Exit(EXIT_PROGRAM)


def _end(problem: "FormatError | None") -> None:
    """Say why a trace ended early, if it did."""
    if problem is not None:
        say(f"twofold: {problem}; what stands before that was kept")
        raise typer.Exit(EXIT_FAILURE)
