"""Domains of every format live and die on one machine, every operation may fail at any time, and nothing is lost."""

import pytest
from hypothesis import Phase, settings
from machine_model import MachineModel

from journals import run_with_journal
from twofold.domain import replay

STEPS, LIVES = 50, 1000  # 50,000 steps
# A failing life is shown as it was: making it shorter takes longer than reading it.
UNSHORTENED = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])


@pytest.mark.slow
def test_a_machine_keeps_to_its_model_for_50000_steps():
    run_with_journal(MachineModel, settings(UNSHORTENED, max_examples=LIVES, stateful_step_count=STEPS))


class ReplayedModel(MachineModel):
    """The same, and each life is replayed from its journal."""

    def teardown(self):
        if hasattr(self, "machine"):
            digest = self.machine.digest()
            self.end_journal()
            replayed = replay(self.journal)
            replayed.machine.close()
            assert replayed.digest == digest
        super().teardown()


@pytest.mark.medium
def test_a_machine_keeps_to_its_model_and_replays_to_the_same_bytes():
    run_with_journal(ReplayedModel, settings(UNSHORTENED, max_examples=12, stateful_step_count=30))
