"""Twofold's own sources, parsed once for the architecture tests."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "twofold"


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    path: Path
    tree: ast.Module
    lines: int

    @property
    def name(self) -> str:
        """The dotted name, `twofold.p2m.table`; of a package's `__init__`, the package."""
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(part for part in parts if part != "__init__")

    @property
    def home(self) -> str:
        """The room that the module stands in: `p2m`, or `units` for a module of the top folder."""
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    @property
    def place(self) -> str:
        """The file as one would open it."""
        return str(self.path.relative_to(PACKAGE.parent))


@cache
def modules() -> tuple[Module, ...]:
    """Return every module but the public facade, which may import everything."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path != PACKAGE / "__init__.py" and "data" not in path.relative_to(PACKAGE).parts:
            found.append(Module(path, ast.parse(text), text.count("\n")))
    return tuple(found)


@dataclass(frozen=True)
class Import:
    """One name that a module imports, with the dotted module that it comes from."""

    by: Module
    line: int
    target: str  # a module for `import m` and `from package import m`, else the module before the name
    name: str  # what is taken from it; empty for a module
    level: int  # dots of a relative import

    @property
    def room(self) -> str:
        """The room of Twofold that it comes from; empty for other packages and for the facade."""
        package, _, rest = self.target.partition(".")
        return rest.partition(".")[0] if package == "twofold" else ""


@cache
def all_imports() -> dict[str, tuple[Import, ...]]:
    """Return the imports of every module, by its name."""
    return {module.name: tuple(_imports(module)) for module in modules()}


def imports(module: Module) -> tuple[Import, ...]:
    """Return every import of a module, nested ones too."""
    return all_imports()[module.name]


def _imports(module: Module) -> Iterator[Import]:
    names = {each.name for each in modules()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets, level = [(alias.name, "") for alias in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            stem, level = node.module or "", node.level
            targets = [
                (joined, "") if (joined := f"{stem}.{alias.name}") in names else (stem, alias.name)
                for alias in node.names
            ]
        else:
            continue
        for target, name in targets:
            yield Import(module, node.lineno, target, name, level)


@dataclass(frozen=True)
class Function:
    """One function or method, with what the size budget counts."""

    module: Module
    name: str  # with its classes: `P2M.map`
    node: ast.FunctionDef | ast.AsyncFunctionDef
    is_public: bool  # no underscore in its name or in a class around it, and not nested in a function

    @property
    def length(self) -> int:
        """Lines from `def` to the end, without the docstring."""
        lines = (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1
        first = self.node.body[0]
        if ast.get_docstring(self.node) is not None and len(self.node.body) > 1:
            lines -= (first.end_lineno or first.lineno) - first.lineno + 1
        return lines

    @property
    def parameters(self) -> int:
        """Parameters, `self` and `cls` aside."""
        given = self.node.args
        names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        return len([name for name in names if name not in {"self", "cls"}])


def functions() -> Iterator[Function]:
    """Yield every function of the package."""
    for module in modules():
        yield from _functions(module, module.tree, (), is_public=True)


def _functions(module: Module, node: ast.AST, around: tuple[str, ...], *, is_public: bool) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names, public = (*around, child.name), is_public and not child.name.startswith("_")
            is_class = isinstance(child, ast.ClassDef)
            if not is_class:
                yield Function(module, ".".join(names), child, public)
            yield from _functions(module, child, names, is_public=public and is_class)
        else:
            yield from _functions(module, child, around, is_public=is_public)
