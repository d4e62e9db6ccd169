"""What a document may name, and whether it exists: paths, tests, modules, public names, commands.

`problem(text)` is None for what exists, and for what is no name of ours at all.
"""

import fnmatch
import re
import shlex
from functools import cache

import documents
import python_names

SUFFIXES = (".py", ".md", ".toml", ".c", ".S", ".inc", ".lock")
ENDINGS = "|".join(re.escape(suffix) for suffix in SUFFIXES)
TOPS = {path.partition("/")[0] for path in documents.files() if "/" in path}
BASES = ("", "src/", "src/twofold/", "docs/", "tests/")  # where a path may begin, beside the page's own folder
MADE = (".venv/", ".hypothesis/")  # folders that tools make
# Files of other projects.
ELSEWHERE = {
    "util/decode_packet_trace.py": "gem5's",
    "contrib/plugins/execlog.c": "QEMU's",
    "clients/drcachesim/tools/view.cpp": "DynamoRIO's",
    "src/cpu/exetrace.cc": "gem5's",
    "inc/trace_instruction.h": "ChampSim's",
}
# Options of other programs.
FOREIGN_OPTIONS = {"--debug-flags": "gem5's"}


def problem(text: str, folder: str = "") -> str | None:
    """Return what is wrong with a piece of code in a page of a folder, or None; the first kind that fits decides."""
    if re.fullmatch(r"make [\w-]+( .*)?", text):
        return of_make(text)
    if re.fullmatch(r"twofold( .*)?", text):
        return of_command(text)
    if re.fullmatch(r"--[a-z][\w-]*([ =].*)?", text):
        return of_option(text)
    if re.fullmatch(r"test_\w+", text):
        return of_test(text)
    if re.fullmatch(r"(?!/)[\w.*-]*[\w*-](/[\w.*-]+)+/?(::\w+)?", text) or re.fullmatch(rf"[\w-]+({ENDINGS})", text):
        return of_path(text, folder)
    return python_names.problem(text)


def of_path(text: str, folder: str) -> str | None:
    """Check a path, with `*` for what varies; a test may stand behind `::`. A bare file name may be anywhere."""
    path, _, test = text.rstrip("/").partition("::")
    is_ours = path.partition("/")[0] in TOPS or path.startswith(".") or path.endswith(SUFFIXES)
    if not is_ours or path in ELSEWHERE or path.startswith(MADE):
        return None
    if "/" not in path:
        found = any(each == path or each.endswith(f"/{path}") for each in documents.files())
    else:
        found = any(exists(place) for place in (resolve(folder, path), *(base + path for base in BASES)))
    if not found:
        return f"there is no {path}"
    return of_test(test) if test else None


def resolve(folder: str, path: str) -> str:
    """Return a path that is given from a folder as one from the root."""
    parts = folder.split("/") if folder else []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def exists(path: str) -> bool:
    """Return whether the repository has a file or folder of that name."""
    if "*" in path:
        return any(fnmatch.fnmatch(each, path) for each in documents.files() | documents.folders())
    return path in documents.files() or path in documents.folders()


@cache
def tests() -> frozenset[str]:
    """Return the name of every test, and of every file of tests."""
    found = set()
    for path in documents.files():
        if re.fullmatch(r"tests/.*/test_\w+\.py", path):
            text = (documents.ROOT / path).read_text(encoding="utf-8")
            found.add(path.rpartition("/")[2].removesuffix(".py"))
            found |= set(re.findall(r"^(?:    )?def (test_\w+)", text, re.MULTILINE))
    return frozenset(found)


def of_test(name: str) -> str | None:
    """Check the name of a test or of a file of tests."""
    return None if name in tests() else f"there is no test {name}"


def of_make(text: str) -> str | None:
    """Check that each target of a `make` command exists."""
    targets = re.findall(r"^([a-z][\w-]*):", (documents.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    asked = [word for word in shlex.split(text)[1:] if "=" not in word and not word.startswith("-")]
    missing = [target for target in asked if target not in targets]
    return f"make has no target {missing[0]}" if missing else None


@cache
def commands() -> dict[str, frozenset[str]]:
    """Return the options of every command, by its words."""
    from typer.main import get_command

    from twofold.cli.app import app

    found: dict[str, frozenset[str]] = {}

    def collect(command, words: tuple[str, ...]) -> None:
        options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        found[" ".join(words)] = frozenset(options | {"--help"})
        for name, below in getattr(command, "commands", {}).items():
            collect(below, (*words, name))

    collect(get_command(app), ())
    return found


def of_command(text: str) -> str | None:
    """Check that a command line of Twofold has a command that exists, and options that it knows."""
    words, command = text.partition(" -- ")[0].split()[1:], ""
    while words and f"{command} {words[0]}".strip() in commands():
        command = f"{command} {words.pop(0)}".strip()
    has_commands = any(each.startswith(f"{command} ".lstrip()) for each in commands() if each != command)
    if has_commands and words and re.fullmatch(r"[a-z]+", words[0]):
        return f"twofold {command} has no command {words[0]}"
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [option for option in given if option not in commands()[command]]
    return f"twofold {command} has no option {unknown[0]}" if unknown else None


def of_option(text: str) -> str | None:
    """Check that some command knows an option that stands alone."""
    option = re.split(r"[\s=]", text)[0]
    is_known = option in FOREIGN_OPTIONS or any(option in each for each in commands().values())
    return None if is_known else f"no command has the option {option}"
