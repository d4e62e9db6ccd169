"""A property test that fails leaves a journal of its example, and says where."""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from journals import JournaledMachine, run_with_journal
from twofold.domain import DomainOptions, Machine, replay

FAST = settings(max_examples=30, stateful_step_count=15, database=None, phases=[Phase.generate, Phase.shrink])


class Guest(JournaledMachine):
    """A guest that may not come to own more than a limit, or so the test says."""

    limit = 1000

    @initialize()
    def create(self):
        self.machine = Machine("64MiB", journal=self.journal)
        self.domain = self.machine.create_domain("16MiB", options=DomainOptions(layout="flat"))

    def teardown(self):
        if hasattr(self, "machine"):
            self.end_journal()
            self.domain.destroy()
            self.machine.close()

    @rule(gfn=st.integers(0, 7))
    def populate(self, gfn):
        self.domain.memory.populate_physmap([gfn << 9], 9)

    @rule(gfn=st.integers(0, 4000))
    def remove(self, gfn):
        self.domain.memory.remove_from_physmap(gfn)

    @invariant()
    def it_keeps_to_the_limit(self):
        assert self.domain.memory.owned_frames <= self.limit


class ModestGuest(Guest):
    limit = 8 << 9


@pytest.mark.medium
def test_a_failing_state_machine_saves_the_journal_of_its_example_and_says_so(tmp_path):
    with pytest.raises(AssertionError) as caught:
        run_with_journal(Guest, FAST, tmp_path / "journals")
    (path,) = (tmp_path / "journals").iterdir()
    assert f"The journal of this example: twofold replay {path}" in caught.value.__notes__
    replayed = replay(path)
    with replayed.machine as machine:
        assert machine.domains[1].memory.owned_frames == 2 << 9, "the state that the invariant saw, before the teardown"
    assert replayed.operations == 3, "one domain and the two extents of the smallest example"
    assert replayed.is_closed


@pytest.mark.medium
def test_a_state_machine_that_holds_leaves_nothing(tmp_path):
    run_with_journal(ModestGuest, FAST, tmp_path)
    assert list(tmp_path.iterdir()) == []
