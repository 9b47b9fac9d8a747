"""`--help` and `--version` of every command, and `python -m` with what is no command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lwexp.__main__ import COMMANDS
from lwexp.cli.help_pages import preview_page, run_page
from lwexp.config.defaults import documented
from lwexp.errors import UnknownNameError
from lwexp.formatting import version_line
from tests.helpers.commands import ROOT


def module(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m …` in a new interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_python_m_lwexp_lists_the_commands(tmp_path: Path) -> None:
    done = module("lwexp", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[2] for line in done.stdout.splitlines()] == [f"lwexp.{name}" for name in COMMANDS]


@pytest.mark.parametrize("name", [
    "lwexp.core.plan", "lwexp.cli.app", "lwexp.core", "lwexp.experiment.job", "lwexp.trian", "lwexp.errors",
])  # fmt: skip
def test_a_module_that_is_no_command_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    done = module(name, "mult=0.9", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: python -m {name}: is not a command; [^\n]*lwexp\.\w+[^\n]*\n", done.stderr)


def test_a_word_after_python_m_lwexp_is_answered_with_the_nearest_command(tmp_path: Path) -> None:
    done = module("lwexp", "run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: python -m lwexp run: is not a command; did you mean lwexp.run")


@pytest.mark.parametrize("command", ["lwexp", *(f"lwexp.{name}" for name in COMMANDS)])
def test_version_is_that_of_lwexp(command: str, tmp_path: Path) -> None:
    done = module(command, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{version_line()}\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_the_commands_own_and_short(command: str, tmp_path: Path) -> None:
    done = module(f"lwexp.{command}", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 90
    assert re.search(rf"lwexp[.-]{command}\b", lines[0])
    assert not any(re.search(rf"lwexp[.-]{name}\b", lines[0]) for name in COMMANDS if name != command)
    assert not list(tmp_path.iterdir())


def test_help_ends_quietly_where_its_reader_stops_reading(tmp_path: Path) -> None:
    """As in `lwexp-run --help | head -1`."""
    command = [sys.executable, "-m", "lwexp.run", "--help"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_every_option_in_the_config_has_a_meaning() -> None:
    """`--help` shows the comment beside each key."""
    assert [key for key, (_, meaning) in documented().items() if not meaning] == []


def test_the_meaning_of_each_option_is_in_the_help() -> None:
    page = run_page()
    for key, (_, meaning) in documented().items():
        if "." not in key:
            assert re.search(rf"^{key}: .*{re.escape(meaning)}", page, flags=re.MULTILINE), key
        else:
            assert f"{key}: " in (explained := run_page([key.partition(".")[0]]))
            assert meaning in explained


@pytest.mark.parametrize(("command", "options"), [
    ("ui", ["uri", "experiment", "timeout"]), ("sync", ["uri", "timeout", "flush_timeout"]),
    ("report", ["uri", "experiment", "timeout"]),
])  # fmt: skip
def test_tracking_options_of_plain_commands_have_their_meaning(
    command: str, options: list[str], tmp_path: Path
) -> None:
    out = module(f"lwexp.{command}", "--help", cwd=tmp_path).stdout
    for option in options:
        assert re.search(rf"^  tracking\.{option}=… +{re.escape(documented('tracking/mlflow')[option][1])}$", out, re.M)


def test_the_help_of_a_preview_has_its_files_and_no_training_options() -> None:
    page = preview_page()
    assert re.search(r"^preview\.csv: ", page, flags=re.MULTILINE)
    assert not re.search(r"^(checkpoint|batch_size|hydra/launcher): ", page, flags=re.MULTILINE)


def test_help_of_a_group_shows_its_files_and_a_mistyped_topic_its_nearest() -> None:
    assert "data=torchvision" in run_page(["data"])
    with pytest.raises(UnknownNameError, match=r"--help=chekpoint: no such option or group; did you mean checkpoint"):
        run_page(["chekpoint"])


def test_choices_of_ones_own_are_in_the_help(tmp_path: Path) -> None:
    (tmp_path / "decay").mkdir()
    (tmp_path / "decay" / "steep.yaml").touch()
    assert re.search(r"^decay: .*, steep.*$", run_page((), tmp_path), flags=re.MULTILINE)
