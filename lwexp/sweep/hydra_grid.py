"""A grid for commands whose jobs leave nothing to resume: previews, one after another in this process, and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from lwexp import redaction
from lwexp.config.hydra_files import write_multirun_file
from lwexp.errors import LwexpError

from .merging import merge_unused
from .planning import Planner
from .points import expand, values_of, varying_keys

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

Compare = Callable[[Mapping[str, Any], Path], None]  # of what the jobs return, by name, and the sweep's folder


class PlainSweeper(Sweeper):
    """Every combination of values; points that differ only in options that they do not use are one job."""

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        """`params` are further overrides, by key; all jobs are one batch, whatever its size."""
        del max_batch_size
        self._params = [f"{key}={value}" for key, value in (params or {}).items()]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook. The task's function may have a function `compare`, which gets what all jobs return."""
        self._config, self._planner = config, Planner(config, hydra_context.config_loader)
        self._compare: Compare | None = getattr(task_function, "compare", None)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the jobs, then compare them. Raises the error of the first that failed."""
        overrides = self._planner.parse([*self._params, *self._planner.own_words(arguments)])
        jobs = expand(overrides)
        swept = {o.get_key_element().lstrip("+~") for o in overrides if o.is_sweep_override()}
        merged = merge_unused(jobs, swept, self._planner.config_of, "preview")
        for note in merged.notes():
            print(f"note: {redaction.redact(note)}")
        folder = Path(str(self._config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_multirun_file(self._config, folder)
        kept = [*merged.points]
        for job in kept:
            if isinstance(mistake := self._planner.config_of(job), LwexpError):
                raise mistake
        results = [*self._launcher.launch([self._planner.overrides_of(job) for job in kept], initial_job_idx=0)]
        found = [result.return_value for result in results]  # raises the error of a job
        if self._compare is not None and len(found) > 1:
            keys = varying_keys(kept)
            names = [" ".join(f"{key}={value}" for key, value in values_of(job, keys).items()) for job in kept]
            self._compare(dict(zip(names, found, strict=True)), folder)
        return results
