"""`lwexp.track`: the record alone, for a training loop that is not lwexp's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.core.plan_table import PlanTable
from lwexp.core.scheduler import PlanScheduler
from lwexp.errors import ConfigError, RunError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from .live import Record


def track(
    plan: PlanTable | PlanScheduler,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    experiment: str | None = None,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    resume: str | Path | None = None,
    uri: str | None = None,
    flush_timeout: float | None = None,
) -> Record:
    """The record of a training in MLflow: every group's rate at every step, and what else is logged.

        with lwexp.track(scheduler, params={"batch_size": 64}) as record:
            for batch in loader:
                ...
                optimizer.step()
                record.step({"train/loss": loss})
                scheduler.step()

    `plan` is the plan, with the `optimizer` (any, or several) whose groups have its parameters; or the scheduler that
    `plan.scheduler` has returned, which knows both. Rates are read from the optimizer at each `record.step`.

    Everything is written to a journal in `folder` (default: a new one in outputs/runs) at once, and delivered to the
    store by another process, as in a run: a store that is down stops nothing, a process that is killed loses nothing,
    and `python -m lwexp.sync` delivers what is left. The run ends FINISHED, FAILED by an exception or KILLED by Ctrl-C.

    `uri`, `experiment`, `name`, `params` and `tags` are those of the MLflow run; MLFLOW_TRACKING_URI,
    MLFLOW_EXPERIMENT_NAME and MLFLOW_RUN_ID count where they are not given. `resume` is the folder whose run continues,
    or "auto": continue the run in `folder` if there is one. Where several processes train, rank 0 keeps the record, and
    those of the others do nothing.

    The end waits for the store, until it has not answered for `flush_timeout` seconds (60).

    Without `with`: `record = lwexp.track(...).start()`, and `record.end()`. Raises `ConfigError` for a mistake,
    `RunError` where MLflow is not installed.
    """
    if not _is_installed("mlflow"):
        raise RunError("lwexp.track needs MLflow, which is not installed: pip install mlflow")
    from .describe import plan_name
    from .live import Record
    from .metrics import as_mapping, as_texts
    from .place import place_of, store_config
    from .rates import OptimizerRates

    scheduler = plan if isinstance(plan, PlanScheduler) else None
    table = scheduler.schedule.plan if scheduler is not None else plan
    if not isinstance(table, PlanTable):
        raise ConfigError("plan", type(plan).__name__, "must be a plan, or a scheduler that plan.scheduler has made")
    return Record(
        table,
        scheduler,
        OptimizerRates(table, scheduler.optimizer if optimizer is None and scheduler is not None else optimizer),
        place_of(folder, resume),
        store_config(uri, experiment, flush_timeout),
        name=name or plan_name(table),
        params=as_mapping("params", params),
        tags=as_texts("tags", tags),
    )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
