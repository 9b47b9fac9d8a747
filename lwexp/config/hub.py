"""The Hugging Face hub: a name is a folder here, or in the cache, or on the hub, or refused in one line and at once.

`transformers` itself, without a network, tries each of several files for half a minute and answers in several lines.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwexp.errors import ConfigError
from lwexp.formatting import one_line

SECONDS = 10.0  # for the hub's first answer


@dataclass(frozen=True)
class HubEntry:
    """Where a name leads; `arguments` go to `from_pretrained` besides the name."""

    name: str
    arguments: dict[str, Any]


def find_on_hub(
    name: str, key: str, *, file: str = "config.json", revision: str | None = None, kind: str = "model"
) -> HubEntry:
    """Where `name` leads, by looking for its `file`; `key` is the option that gave it, `kind` model or dataset.

    Files in the cache are taken where the hub does not answer. Raises `ConfigError`.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return HubEntry(str(folder), {"local_files_only": True})
    if folder.exists():
        raise ConfigError(key, name, "is a file, not a folder")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(key, name, f"there is no such folder (looked for {folder.absolute()})")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        cached = isinstance(try_to_load_from_cache(name, file, revision=revision, repo_type=kind), str)
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise OSError("HF_HUB_OFFLINE is set")
        with quiet_hub():
            get_hf_file_metadata(hf_hub_url(name, file, revision=revision, repo_type=kind), timeout=SECONDS)
    except HFValidationError:
        raise ConfigError(key, name, "is neither a folder here nor a name that the hub could have") from None
    except GatedRepoError:
        raise ConfigError(key, name, "asks for access first, on its page of the hub") from None
    except RevisionNotFoundError:
        raise ConfigError("weights.tag", revision, f"no such revision of {name}") from None
    except RepositoryNotFoundError:
        raise ConfigError(key, name, f"is neither a folder here nor a {kind} on the hub") from None
    except EntryNotFoundError:
        if kind == "model":
            raise ConfigError(key, name, f"has no {file} on the hub, so transformers cannot build it") from None
    except Exception as error:  # no network, a proxy, a firewall, a server in trouble
        if not cached:
            where = "is neither a folder here nor in the cache, and the hub does not answer"
            raise ConfigError(key, name, f"{where} ({one_line(error, kind=True)})") from error
        return HubEntry(name, {"revision": revision, "local_files_only": True})
    return HubEntry(name, {"revision": revision})


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub's lines about each failed attempt: an error says in one line what the last one met."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the reports and progress bars of `transformers`, which say what lwexp says in a line of its own."""
    from transformers.utils import logging as exported

    reports: Any = exported  # without annotations
    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        with quiet_hub():
            yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()
