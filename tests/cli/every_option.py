"""Every command and every option of it, found by what Typer is told, with wrong values for each: nothing is listed.

What is listed are values that are right: of arguments, which have no default, and of options that keep a run short.
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import get_args, get_type_hints

from twofold.cli.app import app
from twofold.cli.guard import Parameter, parameters_of

# Right values by parameter: every command that has it takes this one. A file is one of `samples`.
RIGHT = MappingProxyType(
    {
        "size": "256MiB",
        "guest": "16MiB",
        "workload": "stream",
        "guest_pages": "4K",
        "accesses": "50",
        "repeat": "1",
        "steps": "10",
    }
)
ARGUMENTS = MappingProxyType(
    {
        "audit path": "machine.twomachine",
        "replay path": "machine.journal",
        "run program": "stream",
        "simulate trace": "sample.twotrace",
        "curve source": "sample.twotrace",
        "walk address": "+0",
        "host snapshot file": "new.twohost",
        "trace convert trace": "sample.twotrace",
        "trace convert output": "new.twotrace",
        "trace info trace": "sample.twotrace",
        "trace capture command": "true",
    }
)
# A file that an option may name, for outputs to be kept from. Arguments are in the table above.
FILES = MappingProxyType(
    {
        "host": "sample.twohost",
        "cpu": "cpu.toml",
        "scenario": "scenario.toml",
        "program": "program.elf",
        "source": "sample.twotrace",
        "trace": "sample.twotrace",
        "name": "cpu.toml",
        "command": "sample.twotrace",
    }
)
INSTEAD_OF_HOST = {"size", "free", "fragmentation", "repeat"}
WRONG = MappingProxyType(
    {
        "empty": "",
        "wrong type": "many",
        "negative": "-5",
        "too large": "9" * 30,
        "not a number": "nan",
        "infinite": "inf",
        "negative zero": "-0",
        "underscore": "1_0",
        "plus": "+5",
        "other digits": "\u0663",
        "missing file": "missing.x",
        "in a missing folder": "missing/x",
        "folder": ".",
        "unreadable": "unreadable",
        "junk": "junk",
    }
)
RIGHT_AFTER_ALL = {"walk ADDRESS: plus"}  # an offset into the area
NO_FILE_TO_WRITE = {"empty", "in a missing folder", "folder", "pipe"}


@dataclass(frozen=True)
class Command:
    """A command, by the words that call it."""

    words: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    hints: dict[str, type]

    @property
    def name(self) -> str:
        return " ".join(self.words)

    def is_argument(self, parameter: Parameter) -> bool:
        return not parameter.spelling.startswith("-")

    def is_flag(self, parameter: Parameter) -> bool:
        return self.hints[parameter.name] is bool

    def right(self, parameter: Parameter) -> str | None:
        """Return a value that the parameter takes; None: it is left out."""
        if self.is_argument(parameter):
            return ARGUMENTS.get(f"{self.name} {parameter.name}")
        return RIGHT.get(parameter.name)

    def argv(self, **changed: str | None) -> tuple[str, ...]:
        """Return a command line that is right but for what is changed; None leaves a parameter out."""
        options: list[str] = []
        arguments: list[str] = []
        for each in self.parameters:
            value = changed[each.name] if each.name in changed else self.right(each)
            if value is None:
                continue
            if self.is_argument(each):
                arguments.append(value)
            else:
                options.append(f"{each.spelling}={value}")
        return (*self.words, *options, "--", *arguments)


def commands() -> list[Command]:
    """Return every command, those of groups too."""
    groups = [((), app), *(((group.name,), group.typer_instance) for group in app.registered_groups)]
    return [
        Command(
            (*words, command.name or command.callback.__name__.replace("_", "-")),
            parameters_of(command.callback),
            {name: plain(hint) for name, hint in get_type_hints(inspect.unwrap(command.callback)).items()},
        )
        for words, group in groups
        for command in group.registered_commands
    ]


def plain(hint: type) -> type:
    """Return a type without None."""
    left = [each for each in get_args(hint) if each is not type(None)]
    return left[0] if len(left) == 1 and type(None) in get_args(hint) else hint


def beside(command: Command, parameter: Parameter) -> dict[str, None]:
    """Return right values to leave out, so that a wrong one is what is refused."""
    return dict.fromkeys(INSTEAD_OF_HOST if parameter.name == "host" else ())


def wrong_lines():
    """Yield (name, command line, whether it may be right after all) for each parameter and kind of wrong value."""
    for command in commands():
        for parameter in command.parameters:
            place = f"{command.name} {parameter.spelling}"
            if command.is_flag(parameter):
                yield f"{place}: wrong type", command.argv(**{parameter.name: "many"}), False
                continue
            kinds = {**WRONG, "pipe": "pipe"} if parameter.info.writable else WRONG  # a pipe may well be read
            for kind, value in kinds.items():
                may_be_right = (f"{place}: {kind}" in RIGHT_AFTER_ALL) or (
                    bool(parameter.info.writable) and kind not in NO_FILE_TO_WRITE
                )
                line = command.argv(**{parameter.name: value}, **beside(command, parameter))
                yield f"{place}: {kind}", line, may_be_right
            for kind, value in own_inputs(command, parameter):
                line = command.argv(**{parameter.name: value}, **beside(command, parameter))
                yield f"{place}: {kind}", line, False


def own_inputs(command: Command, parameter: Parameter):
    """Yield the files that the command reads, for a parameter to name too where that is wrong."""
    for other in command.parameters:
        right = command.right(other)
        if other is not parameter and right is not None and right.startswith(("sample.", "machine.")):
            yield "its own input", right


def output_pairs():
    """Yield (name, command, output, its value, input or other output, its value) for each pair that must differ."""
    for command in commands():
        outputs = [each for each in command.parameters if each.info.writable]
        for output in outputs:
            for other in command.parameters:
                if other is output or command.is_flag(other):
                    continue
                reads = other.may_be_file is not None or command.hints[other.name] is Path
                file = FILES.get(other.name) or command.right(other) or "new.file"
                if other.info.writable or reads:
                    yield f"{command.name} {output.spelling} over {other.spelling}", command, output, other, file
