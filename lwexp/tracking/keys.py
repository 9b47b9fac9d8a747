"""Names of metrics, params and tags: those that lwexp reads back, and any name made acceptable to MLflow."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lwexp.redaction import redact_addresses

from .mlflow_internals import MAX_KEY, MAX_PARAM, MAX_TAG

NOTE_TAG = "mlflow.note.content"  # shown as the run's description
PARENT_TAG = "mlflow.parentRunId"
RUN_NAME_TAG = "mlflow.runName"  # setting it renames a run
ID_TAG, REASON_TAG = "lwexp.id", "lwexp.reason"
HEAD_RATE_TAG, STEM_RATE_TAG = "lwexp.lr.head", "lwexp.lr.stem"  # planned rates of the first and the last group
UNIFORM_TAG = "lwexp.lr.uniform"  # "true" if every part of the network trains at the base rate, by the plan
_REFUSED = re.compile(r"[^\w.\- ]")  # MLflow refuses a colon on Windows only


def safe_key(name: str) -> str:
    """`name` made acceptable to MLflow: no `*[]:` and the like, no part that reads as a path, at most 250 characters.

    An acceptable name is returned unchanged. See `safe_keys` for several names.

    >>> safe_key("lr/03_blocks.*.norm1[0]"), safe_key("/a//../b")
    ('lr/03_blocks._.norm1_0_', 'a/__/b')
    """
    key = "/".join(_safe_part(part.strip(" ")) for part in name.split("/") if part.strip(" ")) or "_"
    return key if len(key) <= MAX_KEY else _with_hash(key, name)


def safe_keys(names: Sequence[str]) -> list[str]:
    """`safe_key` of each of `names`, with a hash of the original name appended where two would be equal.

    >>> safe_keys(["a.b", "a*", "a?", "a*"])
    ['a.b', 'a__a4a87d31', 'a__5289f1df', 'a__a4a87d31']
    """
    distinct = dict.fromkeys(names)
    counts = Counter(safe_key(name) for name in distinct)
    taken = {name for name in distinct if safe_key(name) == name}
    keys: dict[str, str] = {}
    for name in distinct:
        key = safe_key(name)
        if key != name:
            salted = name
            if counts[key] > 1:
                key = _with_hash(key, salted)
            while key in taken:
                salted += "'"
                key = _with_hash(key, salted)
        keys[name] = key
        taken.add(key)
    return [keys[name] for name in names]


def free_key(name: str, taken: Collection[str]) -> str:
    """`safe_key` of `name`, with a hash of the name appended where it is one of `taken`."""
    key = plain = safe_key(name)
    while key in taken:
        key, name = _with_hash(plain, name), f"{name}'"
    return key


def cut(text: str, limit: int) -> str:
    """`text`, or its first `limit` characters with an ellipsis as the last of them."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def param_values(params: Mapping[str, Any]) -> dict[str, str]:
    """`params` made acceptable to MLflow: safe names, values other than text as JSON, long values cut.

    Redacts secrets in addresses, as does `tag_values`.
    """
    keys = safe_keys(list(params))
    values = [cut(redact_addresses(_text(value)), MAX_PARAM) for value in params.values()]
    return dict(zip(keys, values, strict=True))


def tag_values(tags: Mapping[str, str]) -> dict[str, str]:
    """`tags` made acceptable to MLflow: safe names, long values cut."""
    keys = safe_keys(list(tags))
    return {key: cut(redact_addresses(str(value)), MAX_TAG) for key, value in zip(keys, tags.values(), strict=True)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _safe_part(part: str) -> str:
    part = _REFUSED.sub("_", part)
    if part == "." or part.startswith(".."):
        part = re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), part)
    return part


def _with_hash(key: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{key[: MAX_KEY - 9].rstrip('/ ')}_{digest}"
