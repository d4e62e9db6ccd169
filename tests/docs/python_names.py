"""Names of Python in the documents: modules, public names, members of classes, keywords of calls.

`p2m.table` is a module of a room, `p2m.split` a method of what the documents call `p2m`; both are looked up. What
begins with a name that is not ours is left alone.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import tomllib
from functools import cache
from typing import Any

import documents

import twofold

# The names that documents give to objects, and their classes.
OBJECTS = {
    "arena": ("Arena",),
    "curve": ("Curve",),
    "domain": ("Domain",),
    "guest": ("Guest", "TraceGuest"),
    "heap": ("Heap",),
    "linear": ("LinearMapping",),
    "machine": ("Machine",),
    "mmu": ("Mmu",),
    "outcome": ("Outcome",),
    "p2m": ("P2M",),
    "stats": ("MmuStats",),
    "trace": ("Trace",),
}
MISSING = object()


def problem(text: str) -> str | None:
    """Return what is wrong with a piece of Python, or None."""
    try:
        expression = ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
    for node in ast.walk(expression):
        wrong = None
        if isinstance(node, ast.Attribute):
            wrong = chain_problem(chain(node))
        elif isinstance(node, ast.Call):
            wrong = call_problem(node)
        if wrong:
            return wrong
    return None


def chain(node: ast.expr) -> tuple[str, ...]:
    """Return the names of `a.b(...)[...].c` as (a, b, c); nothing where it begins with something else."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        before = chain(node.value)
        return (*before, node.attr) if before else ()
    if isinstance(node, ast.Call):
        return chain(node.func)
    return chain(node.value) if isinstance(node, ast.Subscript) else ()


def chain_problem(parts: tuple[str, ...]) -> str | None:
    """Return what is wrong with a dotted name, or None."""
    if not parts or is_module(parts) or ".".join(parts) in entry_points():
        return None
    owners, rest = start(parts)
    for name in rest:
        found = [member(owner, name) for owner in owners]
        if owners and all(each is MISSING for each in found):
            return f"{'.'.join(parts)}: there is no {name}"
        if not owners and name not in members_of_all():
            return f"{'.'.join(parts)}: nothing of ours has a {name}"
        owners = tuple(each for each in found if inspect.ismodule(each) or inspect.isclass(each))
    return None


def start(parts: tuple[str, ...]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Return what a dotted name begins with, and the names behind it; nothing of a name that is not ours."""
    first, *rest = parts
    if first in {"tf", "twofold"}:
        return (twofold,), tuple(rest)
    if first in OBJECTS or first in classes():
        return tuple(classes()[name] for name in OBJECTS.get(first, (first,))), tuple(rest)
    return (), ()


def is_module(parts: tuple[str, ...]) -> bool:
    """Return whether a dotted name is that of a room's module, or of something in one: `p2m.table`, `cli.app.main`."""
    parts = parts[1:] if parts[0] == "twofold" else parts
    for length in range(len(parts), 0, -1):
        path = "src/twofold/" + "/".join(parts[:length])
        if f"{path}.py" in documents.files() or f"{path}/__init__.py" in documents.files():
            left = parts[length:]
            module = importlib.import_module(".".join(("twofold", *parts[:length])))
            return not left or hasattr(module, left[0])
    return False


@cache
def entry_points() -> frozenset[str]:
    """Return the names under which packages of others can register something."""
    project = tomllib.loads((documents.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sources = [path for path in documents.files() if path.startswith("src/twofold/") and path.endswith(".py")]
    text = "".join((documents.ROOT / path).read_text(encoding="utf-8") for path in sources)
    return frozenset(project["entry-points"]) | set(re.findall(r'GROUP: Final = "(twofold\.\w+)"', text))


@cache
def classes() -> dict[str, type]:
    """Return the public classes of Twofold's rooms, and what the facade gives, by name."""
    found = {name: getattr(twofold, name) for name in twofold.__all__}
    for path in documents.files():
        if re.fullmatch(r"src/twofold/(\w+/)*[a-z]\w*\.py", path) and "/data/" not in path:
            module = importlib.import_module(path[4:-3].replace("/", "."))
            for name, thing in vars(module).items():
                if inspect.isclass(thing) and thing.__module__ == module.__name__ and not name.startswith("_"):
                    found.setdefault(name, thing)
    return {name: thing for name, thing in found.items() if inspect.isclass(thing)}


def member(owner: Any, name: str) -> Any:
    """Return a member of a module or class, the name itself where only instances have it, MISSING where none has."""
    if hasattr(owner, name):
        return getattr(owner, name)
    return name if inspect.isclass(owner) and name in instance_members(owner) else MISSING


@cache
def instance_members(owner: type) -> frozenset[str]:
    """Return what the instances of a class have: its fields, and what its methods store in `self`."""
    found = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    for base in owner.__mro__:
        found |= set(getattr(base, "__annotations__", {})) | set(getattr(base, "__slots__", ()))
        if base.__module__.startswith("twofold"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            found |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and chain(node.value) == ("self",)
            }
    return frozenset(found)


@cache
def members_of_all() -> frozenset[str]:
    """Return the members of all our classes."""
    return frozenset().union(*(set(dir(each)) | instance_members(each) for each in classes().values()))


def call_problem(node: ast.Call) -> str | None:
    """Return which keyword of a call its function does not know, or None."""
    parts = chain(node.func)
    owners, rest = start(parts) if parts else ((), ())
    if not owners or len(rest) > 1:
        return None
    functions = [getattr(owner, rest[0], None) if rest else owner for owner in owners]
    known = [inspect.signature(each).parameters for each in functions if callable(each)]
    if not known or any(p.kind is inspect.Parameter.VAR_KEYWORD for each in known for p in each.values()):
        return None
    wrong = [each.arg for each in node.keywords if each.arg and not any(each.arg in names for names in known)]
    return f"{'.'.join(parts)} has no parameter {wrong[0]}" if wrong else None
