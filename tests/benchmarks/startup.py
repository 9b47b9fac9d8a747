"""Start-up of the commands against an empty Hydra application with the same config folder.

    python tests/benchmarks/startup.py [--repeats 15]

The application is a script of a dozen lines with an empty main, and with what it needs to compose the same config: a
copy of conf/, with a file for the default model, the two resolvers and the open sections. Processes of it and of
lwexp take turns. `wall`: milliseconds from start to end of the process, median (lowest to highest); `CPU`: user and
system time of the process and its children, median; `ratio`, `of lowest`: lwexp's median and lowest wall time
divided by the application's. Rows without a ratio have no counterpart.
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
from statistics import median

import lwexp.cli

APPLICATION = """
import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

OmegaConf.register_new_resolver("lwexp_folder", lambda: "runs")
OmegaConf.register_new_resolver("lwexp_unique", lambda: "0")
sections = OmegaConf.create({key: {} for key in SECTIONS})
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


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU time of one process, in seconds."""
    # lwexp's modules are compiled once as those of an installed package are, whatever the environment says
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=nowhere, stderr=nowhere)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    return wall, used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind (default: 15)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(lwexp.cli.CONF, folder / "conf")
        (folder / "conf" / "model" / "resnet18.yaml").write_text("source: timm\nname: resnet18\n")
        script = folder / "application.py"
        script.write_text(APPLICATION.replace("SECTIONS", repr(lwexp.cli._OPEN)))
        commands = {}
        for asked in ASKED:
            commands[f"Hydra {' '.join(asked)}"] = [sys.executable, str(script), *asked]
            commands[f"lwexp {' '.join(asked)}"] = [sys.executable, "-m", "lwexp.run", *asked]
        for arguments in ALONE:
            commands[f"python {' '.join(arguments)}"] = [sys.executable, *arguments]
        measured = {name: [] for name in commands}
        for turn in range(repeats + 1):
            for name, command in commands.items():
                found = timed(command, folder)
                if turn:  # the first of each fills the caches
                    measured[name].append(found)
    print("| command | wall ms | CPU ms | ratio | of lowest | of CPU |\n| --- | --- | --- | --- | --- | --- |")
    for name, found in measured.items():
        walls, used = [wall * 1000 for wall, _ in found], [cpu * 1000 for _, cpu in found]
        row = f"| {name} | {median(walls):.0f} ({min(walls):.0f}–{max(walls):.0f}) | {median(used):.0f} |"
        if name.startswith("lwexp "):
            walls0, used0 = zip(*measured[name.replace("lwexp", "Hydra", 1)], strict=True)
            row += f" {median(walls) / median(walls0) / 1000:.2f} | {min(walls) / min(walls0) / 1000:.2f} |"
            row += f" {median(used) / median(used0) / 1000:.2f} |"
        else:
            row += " | | |"
        print(row)


if __name__ == "__main__":
    main()
