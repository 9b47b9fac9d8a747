"""A config as the params of a run in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lwexp.config.keys import USER_KEYED, flatten


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """The resolved config with dotted keys; lists and mappings of the user's own keys as JSON.

    What MLflow shows elsewhere, a run's name, tags and notes, is not among them; of the recipe its name is.

    >>> flat_params({"lr": 0.1, "decay": {"name": "explicit", "rates": {"fc": 1.0}}, "notes": "tried again"})
    {'lr': '0.1', 'decay.name': 'explicit', 'decay.rates': '{"fc": 1.0}'}
    """
    recipe = values.get("recipe", {}).get("name")
    values = {key: value for key, value in values.items() if key not in ("name", "tags", "notes", "recipe")}
    values |= {} if recipe is None else {"recipe": recipe}
    return {
        key: json.dumps(value) if isinstance(value, (Mapping, list)) else str(value)
        for key, value in flatten(values, keep=USER_KEYED).items()
    }
