"""Which run `resume` means, and what cannot go with it."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from lwexp.config.schema import MLflowConfig
from lwexp.tracking import run_status
from lwexp.tracking.store import connect
from tests.experiment.resumed_runs import RUN, composed, one_line, only_run, written
from tests.helpers.commands import RunHere

ID = "0123456789abcdef0123456789abcdef"


def test_the_command_that_an_interrupted_run_prints_goes_on_in_its_folder(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path
) -> None:
    stop_after(2)
    outcome = lwexp_here("run", *RUN)
    assert outcome.code == 130
    folder = only_run(tmp_path)
    assert run_status(folder) == "KILLED"
    (told,) = re.findall(r"resume with: (.*)", outcome.out)
    assert told == f"python -m lwexp.run resume=outputs/runs/{folder.name}"
    hydra = {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    log = (folder / "lwexp.log").read_text(encoding="utf-8")
    stop_after(None)

    outcome = lwexp_here("run", *shlex.split(told)[3:])
    assert outcome.code == 0, outcome.err
    assert only_run(tmp_path) == folder
    assert run_status(folder) == "FINISHED"
    assert hydra == {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    assert (folder / "lwexp.log").read_text(encoding="utf-8").startswith(log)
    assert (folder / "model.safetensors").is_file()


def test_a_run_is_found_by_path_id_and_beginning_of_the_id(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "outputs" / "runs" / "one it's", {"lr": 0.5})
    other = written(tmp_path / "outputs" / "sweeps" / "a" / "0", {"lr": 0.25})
    for place, id_ in ((folder, ID), (other, "012345" + "f" * 26)):
        (place / "delivery.json").write_text(json.dumps({"run_id": id_}), encoding="utf-8")
    monkeypatch.setattr("lwexp.tracking.has_run", lambda folder: True)
    for value in ("outputs/runs/one it's", str(folder), ID, ID.upper(), ID[:7]):
        found = composed(lwexp_here, "tracking=none", f"resume={value}")
        assert (found["lr"], found["resume"]) == (0.5, str(folder))
    assert composed(lwexp_here, "tracking=none", f"resume={ID}", "resume=012345ff")["lr"] == 0.25, "the last one counts"
    line = one_line(lwexp_here("run", "tracking=none", "resume=012345", "--cfg", "job"))
    assert line == f"resume=012345: could be {ID} or 012345{'f' * 26}; give more digits"


def test_a_run_that_is_not_below_outputs_is_found_through_the_store(lwexp_here: RunHere, tmp_path: Path) -> None:
    folder = written(tmp_path / "elsewhere", {"lr": 0.5})
    config = MLflowConfig(
        name="mlflow", uri="sqlite:///my.db", experiment="x", timeout=8.0, flush_timeout=8.0, rates_every=1
    )
    client, _ = connect(config, tmp_path)
    runs = [client.create_run("0", tags={"lwexp.folder": str(place)}) for place in (folder, tmp_path / "gone")]
    here, gone = (run.info.run_id for run in runs)
    for value in (here, here[:12]):
        assert composed(lwexp_here, "tracking.uri=sqlite:///my.db", f"resume={value}")["lr"] == 0.5
    line = one_line(lwexp_here("run", "tracking.uri=sqlite:///my.db", f"resume={gone}"))
    assert f"{tmp_path / 'gone'} is not on this machine" in line
    line = one_line(lwexp_here("run", f"resume={here}"))
    assert "no run of that id is below outputs/ or in the tracking store" in line
    assert not (tmp_path / "outputs").exists(), "asking makes no store"


def test_what_is_no_run_is_refused_with_the_newest_runs(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("d", "a", "c", "b")):
        folder = written(tmp_path / "outputs" / "runs" / name, {"lr": 0.5})
        os.utime(folder / "config.yaml", (1e9 - age, 1e9 - age))
    monkeypatch.setattr("lwexp.tracking.has_run", lambda folder: folder.name in "abcd")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    newest = "the newest runs are outputs/runs/d, outputs/runs/a, outputs/runs/c"
    for value, why in {
        "outputs/runs/e": "no such folder, and no MLflow run id",
        "empty": "holds no run",
        "file": "is a file; give the run's folder",
        "01234": "no such folder, and no MLflow run id",
        "0123456": "no run of that id is below outputs/",
    }.items():
        line = one_line(lwexp_here("run", "tracking=none", f"resume={value}"))
        assert line.startswith(f"resume={value}: {why}")
        assert line.endswith(newest)
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 4


@pytest.mark.parametrize(("arguments", "line"), [
    (["-m"], "resume=outputs/runs/one: is one run, and -m starts many; resume=auto resumes each job's own"),
    (["hydra.mode=MULTIRUN"], "resume=outputs/runs/one: is one run, and -m starts many; resume=auto resumes .*"),
    (["~unfreeze"], "~unfreeze=null: nothing can be deleted from the config of a resumed run"),
    (["hydra.run.dir=x"], "hydra.run.dir=x: a run is resumed in its own folder"),
    (["polcy=cosine"], "polcy=cosine: unknown option; did you mean policy, policies\\?"),
    (["policy=cosin"], "policy=cosin: no such choice; did you mean cosine\\?"),
    (["lr=-1"], "lr=-1.*: should be greater than 0"),
])  # fmt: skip
def test_what_cannot_go_with_resume_is_refused(
    arguments: list[str], line: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    folder = written(tmp_path / "outputs" / "runs" / "one", {"lr": 0.5})
    assert re.fullmatch(line, one_line(lwexp_here("run", "resume=outputs/runs/one", *arguments)))
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
