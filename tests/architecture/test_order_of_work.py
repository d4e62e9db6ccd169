"""The order of work is written once: who may say that memory is unmapped, and who may free it."""

import ast

import pytest
from source_tree import modules

LEDGER = "twofold.machine.ledger"
BEGUN = "twofold.machine.begun"  # makes of them what the tables say
# Calls by name: which modules make them, and what for.
MAY_CALL = {
    "Unmapped": {
        LEDGER: "parts of what a P2M gave out",
        "twofold.p2m.changes": "after a flush",
        "twofold.p2m.table": "after a flush",
    },
    "never_mapped": {
        "twofold.domain.special": "a page that was made for nothing",
        "twofold.domain.teardown": "the table pool",
        "twofold.p2m.linear": "the monitor's tables",
        "twofold.p2m.table": "a P2M that maps nothing at all",
    },
    "free_runs": {
        LEDGER: "memory that was released",
        "twofold.machine.heap": "its own",
        "twofold.domain.exchange": "allocated and not taken",
        "twofold.domain.populate": "allocated and not taken",
        "twofold.p2m.pool": "allocated and not taken",
        BEGUN: "what was cut",
    },
    "clear_runs": {LEDGER: "the M2P comes after the flush", BEGUN: "what was cut"},
    "set_runs": {LEDGER: "the M2P comes last", BEGUN: "what was cut"},
    "assign": {LEDGER: "the owner comes first", "twofold.machine.frames": "its own", BEGUN: "what was cut"},
}


def calls_of(name: str) -> set[str]:
    """Return the modules that call a function or method of a name."""
    return {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and name in {getattr(node.func, "attr", ""), getattr(node.func, "id", "")}
        and not module.name.startswith("twofold.spec")
    }


@pytest.mark.parametrize("name", MAY_CALL)
def test_only_those_who_follow_the_order_of_work_make_its_steps(name):
    assert calls_of(name) == MAY_CALL[name].keys()
