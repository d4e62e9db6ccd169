"""`twofold replay`: the operations of a journal, done again."""

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import options
from twofold.cli.documents import print_json, say

EXIT_DIVERGED = 1


def replay(
    path: Annotated[
        Path,
        typer.Argument(help="A journal: of build --save-journal, or of Machine(journal=PATH) in Python."),
    ],
    max_machine: Annotated[
        str | None, typer.Option(help="Refuse a journal of a larger machine, like 4TiB.", show_default="1TiB")
    ] = None,
    max_work: Annotated[
        int | None,
        typer.Option(
            parser=options.count(1),
            help="Give up rather than take more steps, some 5 ns each.",
            show_default="2**30, and 64 for each byte",
        ),
    ] = None,
    max_memory: options.MaxHeld = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Do the operations of a journal again, hold each answer against it, and show the machine that they lead to.

    Exit code 1 when an operation comes to something else than when it was recorded. A journal that is damaged, or that
    a killed process left, is replayed as far as it is whole; then the exit code is 3, and the offset is told.

    Example:

        twofold build --size 4GiB --design small --save-journal machine.journal

        twofold replay machine.journal
    """
    from twofold.cli.foreground import Bar, interruptible
    from twofold.domain import replay as replay_journal
    from twofold.errors import DivergenceError
    from twofold.report.terminal import replay_view, show

    try:
        with Bar(quiet=quiet) as bar:
            replayed = interruptible(
                lambda: replay_journal(
                    path,
                    partial=True,
                    max_machine=max_machine,
                    max_work=max_work,
                    max_memory=max_memory,
                    progress=bar.update,
                )
            )
    except DivergenceError as error:
        say(f"twofold: {error}")
        raise typer.Exit(EXIT_DIVERGED) from None
    if json:
        print_json(1, path=str(path), **replayed.as_dict())
    else:
        show(replay_view(replayed))
    replayed.machine.close()
    if replayed.damage is not None:
        raise replayed.damage
