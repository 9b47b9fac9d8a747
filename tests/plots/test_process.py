"""Plots drawn in a subprocess or in this process: the same files, and errors on one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from lwexp.errors import RunError
from lwexp.plots import process, rates
from tests.helpers.rate_tables import TABLES

PICTURES = ["rates_heatmap.png", "rates_by_depth.png", "rates_by_step.png"]


@pytest.mark.parametrize("in_process", [False, True])
def test_a_table_is_written_as_three_pictures_900_px_wide_at_100_dpi_and_a_page(
    tmp_path: Path, in_process: bool
) -> None:
    """By a subprocess or here, the same bytes."""
    table = TABLES["few odd names"]
    written = process.write_plots(table, tmp_path / "new" / "folder", in_process=in_process)
    assert [path.name for path in written] == [*PICTURES, "rates.html"]
    for path in written[:3]:
        assert imread(path).shape[1] == 1800
    assert written[3].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for path, same in zip(written, rates.write_plots(table, tmp_path), strict=True):
        assert path.read_bytes() == same.read_bytes()


@pytest.mark.parametrize("in_process", [False, True])
def test_plots_that_cannot_be_written_are_one_line(tmp_path: Path, in_process: bool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"\Athe plots of the plan cannot be drawn: .*file.*\Z"):
        process.write_plots(TABLES["few odd names"], tmp_path / "file", in_process=in_process)


@pytest.mark.parametrize("in_process", [False, True])
def test_a_subprocess_is_started_unless_drawn_in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: bool
) -> None:
    started = []

    def refuse(command: list[str], **_: object) -> None:
        started.append(command)
        raise OSError("no subprocess")

    monkeypatch.setattr(subprocess, "run", refuse)
    if in_process:
        process.write_plots(TABLES["one step"], tmp_path, in_process=True)
    else:
        with pytest.raises(OSError, match="no subprocess"):
            process.write_plots(TABLES["one step"], tmp_path)
    assert len(started) == (not in_process)


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = """
import sys, pathlib, numpy as np
from lwexp.plots.rate_table import RateTable
from lwexp.plots.rates import write_plots
write_plots(RateTable("", ["a"], [0], [False], np.ones((2, 1)), np.arange(2)), pathlib.Path(sys.argv[1]))
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
