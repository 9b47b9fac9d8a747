"""The table framework × works of `lwexp/integrations/README.md`, from the results of its tests.

usage: python -m pytest -m "integrations or not slow" tests/integrations tests/distributed/test_sharded_plans.py \\
    -p tests.helpers.framework_table
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

CHECKS = ("groups and rates", "rates in its log", "mixed precision, clipping", "skipped steps", "plateau", "resume")
FRAMEWORKS = {  # package, what is needed, file of the tests, and for each check the test that shows it
    "Lightning": ("lightning", "`LayerwiseRates`", "test_lightning", {
        "groups and rates": "test_a_network_inside", "rates in its log": "test_the_callback_trains",
        "mixed precision, clipping": "test_mixed_precision", "skipped steps": "test_mixed_precision.*scaled",
        "plateau": "test_a_plateau", "resume": "test_a_resumed",
    }),
    "Hugging Face Trainer": ("transformers", "`LayerwiseTrainer`", "test_transformers", {
        "groups and rates": "test_every_rate", "rates in its log": "test_every_rate",
        "mixed precision, clipping": "test_mixed_precision", "plateau": "test_a_plateau", "resume": "test_a_resumed",
    }),
    "Accelerate": ("accelerate", "`prepare`", "test_accelerate", {
        "groups and rates": "test_the_schedule", "mixed precision, clipping": "test_overflowed",
        "skipped steps": "test_overflowed", "plateau": "test_a_plateau", "resume": "test_accumulated",
    }),
    "timm's script": ("timm", "`TimmScheduler`", "test_timm", {
        "groups and rates": "test_the_loop", "plateau": "test_a_plateau", "resume": "test_the_loop",
    }),
    "fastai": ("fastai", "`splitter`, `rates`, `PlanSchedule`", "test_fastai", {"groups and rates": ""}),
    "ignite": ("pytorch-ignite", "nothing", "test_ignite", {"groups and rates": ""}),
    "PEFT": ("peft", '`index_from="trained"`', "test_transformers", {"groups and rates": "test_adapters_of_peft"}),
    "DDP": ("torch", "nothing", "test_sharded_plans", {"groups and rates": r".*\[ddp"}),
    "ZeRO-1": ("torch", "nothing", "test_sharded_plans", {"groups and rates": r".*\[zero1"}),
    "FSDP2": ("torch", "nothing", "test_sharded_plans", {"groups and rates": r".*\[fsdp2"}),
    "FSDP1": ("torch", "nothing; registration order", "test_sharded_plans", {"groups and rates": ".*fsdp1"}),
}  # fmt: skip
_outcomes: dict[str, bool] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _outcomes[report.nodeid] = _outcomes.get(report.nodeid, True) and report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line("\n" + table())


def table() -> str:
    """In Markdown: yes, NO where a test failed or did not run, empty where there is none."""
    lines = [["framework", "needs", *CHECKS], ["---"] * (2 + len(CHECKS))]
    for name, (package, needs, file, tests) in FRAMEWORKS.items():
        cells = [_cell(f"{file}.py::{tests[check]}") if check in tests else "" for check in CHECKS]
        lines.append([f"{name} {_version(package)}", needs, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(pattern: str) -> str:
    found = [passed for test, passed in _outcomes.items() if re.search(pattern, test)]
    return "yes" if found and all(found) else "NO"


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "(not installed)"
