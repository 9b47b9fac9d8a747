"""Start-up of the commands against an empty Hydra application with the same config folder.

    python tests/benchmarks/startup.py [--repeats 15]

The application is a script of a dozen lines with an empty main and what it needs to compose the same config: a copy of
conf/ with a file for the default model, the two resolvers and the open sections. All commands take turns, each in a
process of its own; medians with quartiles. `wall`: from start to end of the process; `CPU`: user and system time.
Ratios are lwexp's to the application's asked the same, round by round; `of lowest` compares the two fastest processes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import cell, interleave, machine, ratio, spread, table

from lwexp.config.defaults import CONF

APPLICATION = """
import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

OmegaConf.register_new_resolver("lwexp_folder", lambda: "runs")
OmegaConf.register_new_resolver("lwexp_sweeps", lambda: "sweeps")
OmegaConf.register_new_resolver("lwexp_unique", lambda: "0")
sections = OmegaConf.create({key: {} for key in (
    "model", "grouping", "decay", "policy", "optimizer", "data", "weights", "tracking", "lr_overrides", "loss"
)})
for key in sections:
    OmegaConf.set_struct(sections[key], False)
ConfigStore.instance().store(name="sections", node=sections)

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config):
    pass

main()
"""
ASKED = (["--help"], ["--cfg", "job"], ["grouping=top_modle"], ["multt=0.9"])
ALONE = (
    ["-m", "lwexp.preview", "--help"], ["-m", "lwexp.ui", "--help"], ["-m", "lwexp.sync", "--help"],
    ["-c", "import lwexp"], ["-c", "pass"],
)  # fmt: skip


class Contestant:
    """A command, as a process of its own each time; `cpu` gathers user and system seconds of it and its children."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.folder, self.cpu = [sys.executable, *command], folder, list[float]()
        # lwexp's modules are compiled once, as those of an installed package are, whatever the environment says
        self.environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def __call__(self) -> float:
        """Seconds from start to end."""
        started, nowhere = time.perf_counter(), subprocess.DEVNULL
        process = subprocess.Popen(self.command, cwd=self.folder, env=self.environment, stdout=nowhere, stderr=nowhere)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu.append(used.ru_utime + used.ru_stime)
        return wall


def contestants(folder: Path) -> dict[str, Contestant]:
    """All commands by name, `Hydra …` beside `lwexp …`; the application and its config are written to `folder`."""
    shutil.copytree(CONF, folder / "conf")
    (folder / "conf" / "model" / "resnet18.yaml").write_text("source: timm\nname: resnet18\n", encoding="utf-8")
    script = folder / "application.py"
    script.write_text(APPLICATION, encoding="utf-8")
    commands = {f"python {' '.join(arguments)}": arguments for arguments in ALONE}
    for asked in ASKED:
        commands[f"Hydra {' '.join(asked)}"] = [str(script), *asked]
        commands[f"lwexp {' '.join(asked)}"] = ["-m", "lwexp.run", *asked]
    return {name: Contestant(command, folder) for name, command in commands.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind (default: 15)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as made:
        taking_part = contestants(Path(made))
        for contestant in taking_part.values():  # fills the caches
            contestant()
            contestant.cpu.clear()
        walls = interleave(taking_part, repeats)
    rows = []
    for name, contestant in taking_part.items():
        row = [name, cell(spread([1000 * seconds for seconds in walls[name]]), 0)]
        row += [cell(spread([1000 * seconds for seconds in contestant.cpu]), 0)]
        reference = name.replace("lwexp", "Hydra", 1)
        if name.startswith("lwexp"):
            row += [cell(ratio(walls[name], walls[reference])), f"{min(walls[name]) / min(walls[reference]):.2f}"]
            row += [cell(ratio(contestant.cpu, taking_part[reference].cpu))]
        rows.append([*row, *[""] * (6 - len(row))])
    print(machine())
    print(table(["command", "wall, ms", "CPU, ms", "wall ratio", "of lowest", "CPU ratio"], rows))


if __name__ == "__main__":
    main()
