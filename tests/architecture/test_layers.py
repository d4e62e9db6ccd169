"""The layers of Twofold: one list is the architecture, and every import must point downward in it."""

from collections.abc import Iterator

import pytest
from source_tree import Module, imports, modules

LAYERS = (
    "units errors drafts files memory registry version start streams",
    "formats",
    "spec kernels",
    "machine freemaps",
    "p2m mmu dumps",
    "paging",
    "domain",
    "trace",
    "guest hosts",
    "study",
    "report",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
WITHIN_A_LAYER = {
    ("units", "errors"),  # sizes that cannot be read raise errors of ours
    ("files", "drafts"),  # a file is written whole by way of a draft
    ("files", "errors"),  # and files that cannot
    ("files", "units"),  # a file too large says how large
    ("memory", "errors"),  # a limit that is passed
    ("memory", "units"),  # and says by how much
    ("registry", "errors"),  # and names that nobody has registered
    ("machine", "freemaps"),  # a machine starts from a map, and its heap tells blocks by the same rules
    ("dumps", "p2m"),  # tables out of a file are looked up and audited as a P2M's are
}

CALL_KERNELS = {"machine", "p2m", "mmu", "dumps", "paging", "domain", "guest", "trace", "study"}
REPORT_READS = {
    "units",
    "errors",
    "files",
    "study",
    "domain.Built",
    "domain.Replayed",
    "guest.NestedStep",
    "dumps.Audited",
}  # results, how to print
CLI_LEAVES_ALONE = {"formats", "spec", "kernels"}


def internal_imports(module: Module) -> Iterator[tuple[str, str]]:
    """Yield (place, room) for everything of Twofold that a module imports from another room."""
    for each in imports(module):
        if each.room not in {"", module.home}:
            yield f"{module.place}:{each.line}", each.room


def test_every_room_has_a_place_among_the_layers():
    assert {module.home for module in modules()} <= set(RANK)


def test_every_import_points_downward():
    wrong = [
        f"{place}: {module.home} imports {room}"
        for module in modules()
        for place, room in internal_imports(module)
        if RANK[room] >= RANK[module.home] and (module.home, room) not in WITHIN_A_LAYER
    ]
    assert not wrong, "\n".join(wrong)


def test_errors_know_nothing_of_units():
    (errors,) = (module for module in modules() if module.home == "errors")
    assert list(internal_imports(errors)) == []


def test_imports_are_absolute_and_pass_by_the_facade():
    wrong = [
        f"{module.place}:{each.line}"
        for module in modules()
        for each in imports(module)
        if each.level or each.target == "twofold"
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("twin", "other"), [("spec", "kernels"), ("kernels", "spec")])
def test_twins_do_not_know_each_other(twin, other):
    wrong = [
        place
        for module in modules()
        if module.home == twin
        for place, room in internal_imports(module)
        if room == other
    ]
    assert not wrong


def test_only_the_rooms_that_own_data_call_kernels():
    wrong = [
        place
        for module in modules()
        for place, room in internal_imports(module)
        if room == "kernels" and module.home not in CALL_KERNELS
    ]
    assert not wrong


def test_the_report_reads_results_and_computes_nothing():
    wrong = [
        f"{module.place}:{each.line}: {each.target}.{each.name}"
        for module in modules()
        if module.home == "report"
        for each in imports(module)
        if each.target.startswith("twofold.")
        and not {each.room, f"{each.room}.{each.name}"} & (REPORT_READS | {"report"})
    ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_leaves_bits_and_loops_alone():
    wrong = [
        f"{place}: {room}"
        for module in modules()
        if module.home == "cli"
        for place, room in internal_imports(module)
        if room in CLI_LEAVES_ALONE
    ]
    assert not wrong


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return every module that one comes to by imports, itself only where they lead back."""
    found: set[str] = set()
    left = [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def test_no_module_is_part_of_an_import_cycle():
    """Imports inside functions and for type checkers count: what they close is a circle to read, if not to load."""
    names = {module.name for module in modules()}
    graph = {module.name: {each.target for each in imports(module)} & names - {module.name} for module in modules()}
    reached = {name: reachable(graph, name) for name in graph}
    circles = {tuple(sorted(each for each in reached[name] if name in reached[each])) for name in graph} - {()}
    assert not circles, "\n".join(" <-> ".join(circle) for circle in sorted(circles))


def test_a_circle_is_noticed_wherever_it_closes():
    assert reachable({"a": {"b"}, "b": {"c"}, "c": {"b"}}, "a") == {"b", "c"}
    assert reachable({"a": {"b"}, "b": {"c"}, "c": {"b"}}, "b") == {"b", "c"}
    assert "a" not in reachable({"a": {"b"}, "b": set()}, "a")
