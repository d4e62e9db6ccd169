"""State machines that leave the journal of a failing example behind, to be replayed: `twofold replay FILE`."""

from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

JOURNALS = Path(__file__).parents[1] / ".hypothesis" / "journals"


class JournaledMachine(RuleBasedStateMachine):
    """A state machine whose `self.machine` is made with `journal=self.journal`."""

    journal: Path | None = None

    def end_journal(self) -> None:
        """Let the journal end here: what a teardown does is no part of an example."""
        if self.machine.journal is not None:
            self.machine.journal.close()


def run_with_journal(model: type[JournaledMachine], how: settings, folder: Path = JOURNALS) -> None:
    """Run a state machine; when it fails, the journal of the example that is shown stays, and the failure names it.

    Hypothesis runs the example that it shows last, and each example begins its journal anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.__module__}.{model.__qualname__}.journal"
    recorded = type(model.__name__, (model,), {"journal": path, "__module__": model.__module__})
    try:
        run_state_machine_as_test(recorded, settings=how)
    except BaseException as error:
        error.add_note(f"The journal of this example: twofold replay {path}")
        raise
    path.unlink(missing_ok=True)
