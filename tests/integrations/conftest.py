"""The frameworks themselves (extra `integrations`): run with `-m integrations`."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("integrations")
            # The frameworks warn of each other and of torch; ours and those about the order of steps stay errors.
            for kept in ("default", "error::lwexp.errors.NoLayerwiseRatesWarning", "error:Detected call of `lr_sched"):
                item.add_marker(pytest.mark.filterwarnings(kept))
