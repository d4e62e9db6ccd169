"""Every command of the command line, found by looking: one that is new is tested without anybody's thinking of it."""

import shlex

import typer

from twofold.cli.app import app


def commands(node=None, words=()):
    """Yield (words, command) of every command, those of groups too."""
    node = typer.main.get_command(app) if node is None else node
    if not hasattr(node, "commands"):
        yield " ".join(words), node
        return
    for name, below in node.commands.items():
        yield from commands(below, (*words, name))


def options_of(command):
    """Return every spelling of every option of a command."""
    return {text for each in command.params for text in each.opts if text.startswith("-")}


NAMES = tuple(name for name, _ in commands())
BY_NAME = dict(commands())
BUILDERS = tuple(name for name, command in commands() if "--host-paging" in options_of(command))
WITH_JSON = tuple(name for name, command in commands() if "--json" in options_of(command))


def examples_of(help_text):
    """Return the examples in a help text as lists of arguments; each stands on one line, for copying."""
    lines = help_text.splitlines()
    if "  Example:" not in lines:
        return []
    start = lines.index("  Example:") + 1
    end = next((place for place in range(start, len(lines)) if lines[place].startswith(("Arg", "Opt"))), len(lines))
    found = []
    for line in filter(None, lines[start:end]):
        program, *argv = shlex.split(line)
        assert line.startswith("      ") and program == "twofold", f"no whole command: {line!r}"  # noqa: PT018
        found.append(argv)
    return found
