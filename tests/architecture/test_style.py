"""The house style that a machine can hold: sizes, docstrings, words, bit numbers, bare exceptions."""

import ast
import builtins
import re
import statistics
from types import ModuleType

import pytest
from source_tree import REPOSITORY, functions, modules

from twofold.formats import npt, x86

MODULE_MAX, MODULE_P90 = 700, 500
FUNCTION_MAX, KERNEL_MAX, FUNCTION_P90 = 80, 120, 40
PARAMETERS_MAX, TWIN_PARAMETERS_MAX = 6, 8
BARE_SHARE_MAX = 0.10
TWINS = {"spec", "kernels"}

# What may exceed the budget, and why. An entry that is no longer needed fails a test.
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS: dict[str, str] = {
    "MemoryOperations.exchange": "its own, and what each operation has: caller, place, start and preempt",
    "MemoryOperations.populate_physmap": "as exchange",
    "open_tables": "how a file is to be read, all but its path by keyword",
    "audit_file": "as open_tables",
    "replay": "what may be replayed, and what that may take, all but its path by keyword",
    "Machine.__init__": "what a machine is made with, all but its size by keyword",
    "change_one": "called for one entry at a time, so it takes its arrays apart: `formats.operands`",
    "walk_2d": "as change_one",
    "fill": "a step of change_one, as of what works in bulk",
    "fill_fresh": "as fill",
    "run_tlbs_of_block": "a step of one kernel, written into it",
}

REFUSED_NAMES = {"utils.py", "util.py", "core.py", "helpers.py", "common.py", "misc.py"}
UNFINISHED = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error"]) + r")\b")
# Where a number that is also a bit of an entry stands for something else, and what for.
OTHER_NUMBERS: dict[tuple[str, int], str] = {
    ("twofold.trace.answers", 63): "a 64-bit word is rotated by one",
}


def p90(numbers: list[int]) -> float:
    """Return the number that nine of ten do not exceed."""
    return statistics.quantiles(numbers, n=10, method="inclusive")[-1]


def test_modules_keep_their_size():
    long = {module.name: module.lines for module in modules() if module.lines > MODULE_MAX}
    assert long.keys() == LONG_MODULES.keys()
    assert p90([module.lines for module in modules() if module.tree.body]) <= MODULE_P90


def test_functions_keep_their_size():
    long = {
        each.name: each.length
        for each in functions()
        if each.length > (KERNEL_MAX if each.module.home in TWINS else FUNCTION_MAX)
    }
    assert long.keys() == LONG_FUNCTIONS.keys(), long
    assert p90([each.length for each in functions()]) <= FUNCTION_P90


def is_command(function):
    """Return whether a function is a subcommand, in the module of its name: its parameters are the options."""
    return function.module.home == "cli" and function.module.path.stem == function.name


def test_functions_take_few_parameters():
    many = {
        each.name: each.parameters
        for each in functions()
        if not is_command(each)
        and each.parameters > (TWIN_PARAMETERS_MAX if each.module.home in TWINS else PARAMETERS_MAX)
    }
    assert many.keys() == MANY_PARAMETERS.keys(), many


def test_every_public_name_has_a_docstring():
    missing = [module.place for module in modules() if module.tree.body and ast.get_docstring(module.tree) is None]
    missing += [
        f"{module.place}:{node.lineno}: class {node.name}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name[0] != "_" and ast.get_docstring(node) is None
    ]
    missing += [
        f"{each.module.place}:{each.node.lineno}: {each.name}"
        for each in functions()
        if each.is_public and ast.get_docstring(each.node) is None
    ]
    assert not missing, "\n".join(missing)


def test_package_inits_only_re_export():
    wrong = []
    for module in modules():
        if module.path.name != "__init__.py":
            continue
        for node in module.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            if not (is_docstring or is_all or isinstance(node, ast.Import | ast.ImportFrom)):
                wrong.append(f"{module.place}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_no_module_has_a_name_that_says_nothing():
    assert not [module.place for module in modules() if module.path.name in REFUSED_NAMES]


def test_nothing_is_left_unfinished():
    folders = ("src", "tests", "tools", "benchmarks", "examples", "docs")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*")]
    paths += [*REPOSITORY.glob("*.md"), REPOSITORY / "Makefile"]
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in sorted(paths)
        if path.suffix in {".py", ".pyi", ".md", ".c", ".h", ".toml", ".html", ".js", ".css"} or path.name == "Makefile"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_few_raises_use_a_bare_builtin_exception():
    raised = [
        ast.unparse(node.exc.func)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    bare = [name for name in raised if isinstance(getattr(builtins, name, None), type)]
    assert len(bare) <= BARE_SHARE_MAX * len(raised), bare


# -- bit numbers stand in formats only ----------------------------------------------------------------------------


def constants_of(module: ModuleType) -> dict[int, str]:
    """Return {number: name} of what a format module defines in capitals."""
    found = {value: name for name, value in vars(module).items() if name.isupper() and type(value) is int}
    return {value: name for value, name in found.items() if value not in {4096, 512}}  # a frame, and its entries


NAMES = constants_of(x86) | constants_of(npt)
FLAGS = {1 << bit for bit in range(2, 12)} & NAMES.keys()  # 1 and 2 are too common to mean an entry's bit
WIDE = {number for number in NAMES if number > 1 << 11}
POSITIONS = {npt.TYPE_SHIFT, x86.NO_EXECUTE.bit_length() - 1}
BITWISE = (ast.BitAnd, ast.BitOr, ast.BitXor)


def literal(node: ast.AST) -> int | None:
    """Return the number that a literal, or a type around a literal (`np.uint64(7)`), stands for."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and "int" in ast.unparse(node.func):
        return literal(node.args[0])
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def entry_bits(node: ast.AST) -> set[int]:
    """Return the numbers of this piece of source that spell a bit, mask or position of an entry."""
    if isinstance(node, ast.Constant):
        return {number for number in [literal(node)] if number in WIDE}
    if not isinstance(node, ast.BinOp):
        return set()
    left, right = literal(node.left), literal(node.right)
    if isinstance(node.op, ast.LShift) and left is not None and right is not None:
        return {left << right} & (FLAGS | WIDE)
    if isinstance(node.op, ast.LShift | ast.RShift):
        return {right} & POSITIONS if right is not None else set()
    if isinstance(node.op, BITWISE):
        return {number for number in (left, right) if number in FLAGS}
    return set()


def test_only_formats_know_bit_numbers():
    found = {
        (module.name, number): f"{module.place}:{node.lineno}: {number:#x} is {NAMES.get(number, 'a bit position')}"
        for module in modules()
        if module.home not in {"formats", "units"}
        for node in ast.walk(module.tree)
        for number in entry_bits(node)
    }
    wrong = [place for key, place in found.items() if key not in OTHER_NUMBERS]
    assert not wrong, "\n".join(wrong)
    assert OTHER_NUMBERS.keys() <= found.keys(), "an exception is no longer needed"


@pytest.mark.parametrize(
    "line", ["entry & 0x80", "x | np.uint64(4)", "1 << 63", "entry >> 52", "e & np.uint64(1 << 7)"]
)
def test_a_spelled_out_bit_is_noticed(line):
    assert any(entry_bits(node) for node in ast.walk(ast.parse(line)))


@pytest.mark.parametrize("line", ["gfn >> 9 & 511", "bytes_ >> 12", "1 << 20", "length << 3", "n & 1", "x * 128"])
def test_ordinary_numbers_pass(line):
    assert not any(entry_bits(node) for node in ast.walk(ast.parse(line)))
