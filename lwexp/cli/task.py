"""A command's function as Hydra calls it: errors end the process with one line, jobs of a sweep run in their own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from lwexp import redaction
from lwexp.distributed import launch
from lwexp.errors import LwexpError
from lwexp.host.console import console
from lwexp.host.signals import STOP, held_back

if TYPE_CHECKING:
    from lwexp.experiment.folder import NewFolder


class Task:
    """`function(config)` as one job of Hydra's. Its own errors end the process: Hydra would add lines to them.

    In a multirun the other jobs continue, so errors are left to Hydra, which hands them to the sweeper.
    """

    def __init__(self, function: Callable[[Any], Any], *, trains: bool) -> None:
        """`trains`: the jobs of a multirun are trainings, which `sweep.worker` runs."""
        functools.update_wrapper(self, function)
        self.function, self.trains = function, trains
        self.new_folder: NewFolder | None = None  # set by the callback before Hydra writes anything

    def __enter__(self) -> Task:
        """Until the end of the block the folder that the callback sets belongs to this process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the folder, and remove one in which no run has started, however the command failed."""
        try:
            self._leave(failed=error is not None)
        except BaseException:  # a second signal, which came before signals were held back
            self._leave(failed=True)
            raise

    def _leave(self, *, failed: bool) -> None:
        with held_back(STOP):  # a second Ctrl-C waits for these milliseconds
            if self.new_folder is not None:
                if failed:
                    self.new_folder.remove_if_unused()
                self.new_folder.release()

    def __call__(self, config: Any) -> Any:
        """Run the job."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        if HydraConfig.get().mode == RunMode.MULTIRUN:
            if not self.trains:
                return self.function(config)
            from lwexp.sweep.worker import run_in_sweep

            return run_in_sweep(self.function, config)
        try:
            return self.function(config)
        except LwexpError as error:
            refuse(error)


def refuse(error: LwexpError) -> NoReturn:
    """End the process with the error's line and code; of several ranks only rank 0 prints it."""
    console.stop()
    if launch.is_rank_zero():
        print(redaction.redact(f"error: {error}"), file=sys.stderr)
    else:
        launch.wait_for_rank_zero()
    sys.exit(error.exit_code)
