"""A run of Weights & Biases: metrics over the optimizer step, params as its config, pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwexp.errors import RunError
from lwexp.redaction import redact

from .journal import Rows
from .keys import NOTE_TAG

_STEP = "step"  # W&B's own step must never fall, which rows of a resumed run and of tests may


class WandbWriter:
    """Writes one run, of the id that the journal has; offline to `<run folder>/wandb`, for `wandb sync`."""

    def __init__(self, folder: Path, record: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """`record`: the journal's entry about the run; `options`: the config's `tracking.wandb`."""
        import wandb

        mode: Any = options.get("mode") or os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=options["project"],
                entity=options.get("entity"),
                id=record["id"],
                name=record["run_name"],
                config=dict(record["params"]),
                notes=record["tags"].get(NOTE_TAG),
                group=Path(os.path.abspath(folder / record["parent"])).name if record["parent"] else None,  # noqa: PTH100
                dir=folder,
                mode=mode,
                resume="allow",
                reinit="create_new",  # one process writes several runs
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True,
                    init_timeout=30,
                ),
            )  # fmt: skip
        except (wandb.Error, OSError) as error:
            why = f"{redact(str(error))}; tracking.wandb.mode=offline keeps the run in its folder"
            raise RunError(why) from None
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        self.where = self._run.url or f"wandb sync {Path(self._run.dir).parent}"

    def rows(self, rows: Rows) -> None:
        """Write the metrics of a step."""
        self._run.log({**dict(zip(rows.keys, rows.values, strict=True)), _STEP: rows.step})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write lwexp's tags to the config, and the description to the notes."""
        own = {key: value for key, value in tags.items() if key.startswith("lwexp.")}
        self._run.config.update(own, allow_val_change=True)
        if NOTE_TAG in tags:
            self._run.notes = tags[NOTE_TAG]

    def image(self, name: str, path: Path) -> None:
        """Write a picture."""
        self._run.log({name: self._wandb.Image(str(path))})

    def flush(self) -> None:
        """Do nothing: W&B's own process has each row once it is logged, and outlives this one."""

    def close(self, status: str | None) -> None:
        """End the session."""
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


def _logged_in() -> bool:
    """Whether W&B has a key of this user."""
    import wandb

    return bool(wandb.api.api_key)
