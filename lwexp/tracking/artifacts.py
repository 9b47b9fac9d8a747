"""Artifacts: which files of a run's folder may be sent, and what a failed attempt to send one means.

A run's folder may come from somebody else, and its journal may name any path: only what lies inside the folder is sent.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lwexp.redaction import redact_addresses

_COPIES = "artifacts"  # folder in the run's folder for files from elsewhere
_RETRIED = {408, 425, 429}  # of the statuses 4xx: the request itself is fine


class RefusedError(Exception):
    """An artifact that must not be sent, or that its store refuses for good."""


def artifact_path(folder: Path, name: str, place: str | None) -> Path:
    """The artifact `name` of the run in `folder`. Raises `RefusedError` unless it lies in the folder with all it holds.

    `place`: the folder of the run's artifacts that it is for.
    Links are followed: a file or folder that is a link to another place is refused, as are files with a further name
    elsewhere (hard links), pipes and devices. Raises `FileNotFoundError` for one that does not exist.
    """
    if place is not None and (".." in Path(place).parts or Path(place).is_absolute()):
        raise RefusedError(f"{place} is not a folder of the run's artifacts")
    root, path = Path(os.path.realpath(folder)), folder / name
    real = Path(os.path.realpath(path, strict=True))
    if real == root or not real.is_relative_to(root):
        raise RefusedError("it is not inside the run's folder")
    for file in _files(real):
        target = Path(os.path.realpath(file))
        if not target.is_relative_to(root):
            raise RefusedError(f"{file.name} is a link to a place outside of the run's folder")
        found = target.stat()
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(f"{file.name} is neither a file nor a folder")
        if found.st_nlink > _names_below(root)[found.st_dev, found.st_ino]:
            raise RefusedError(
                f"{file.name} is a hard link to a file outside of the run's folder; replace it by a copy"
            )
    return path


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in _files(path) if file.is_file())


def files_of(path: Path, place: str | None) -> list[tuple[Path, str | None]]:
    """The files of an artifact, each with the folder of the run's artifacts that it is for: `place` and below.

    A store that fails often takes them one by one, and a folder at once never.
    """
    if not path.is_dir():
        return [(path, place)]
    found = []
    for file in sorted(_files(path)):
        below = Path(place or "", file.parent.relative_to(path)).as_posix()
        found.append((file, None if below == "." else below))
    return found


def copied_into(folder: Path, path: Path, place: str | None) -> Path:
    """`path`, or a copy of it in the run's `folder` where it lies elsewhere; `place` as in `Tracker.artifact`."""
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if real.is_relative_to(root) and real != root:
        return path
    parts = [part for part in Path(place or "").parts if part not in ("..", os.sep)]
    copy = folder.joinpath(_COPIES, *parts, path.name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, copy, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, copy)
    return copy


def check_destination(artifact_uri: str, allowed: Path | None) -> None:
    """Raise `RefusedError` unless the store keeps the run's artifacts itself.

    A store that the caller has not named could send them to any place that this machine can write: those below
    `allowed`, or, with None, those that the server takes, are accepted.
    """
    scheme = urlsplit(artifact_uri).scheme
    if allowed is None:
        own = scheme == "mlflow-artifacts"
    else:
        path = unquote(urlsplit(artifact_uri).path) if scheme == "file" else artifact_uri
        own = scheme in ("", "file") and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(allowed))
    if not own:
        why = f"the store would put it into {redact_addresses(artifact_uri)}"
        raise RefusedError(f"{why}; tracking.uri=… with the store's address allows that")


def is_refusal(error: BaseException) -> bool:
    """Whether the artifact's store answered that the request is wrong, so that another attempt will not help."""
    cause: BaseException | None = error
    while cause is not None:
        if (status := _status(cause)) is not None:
            return 400 <= status < 500 and status not in _RETRIED
        cause = cause.__cause__ or cause.__context__
    return False


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of requests, botocore, or the clients of Azure and Google; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status_code", None)
        found = found or getattr(error, "code", None)
    return found if isinstance(found, int) and 100 <= found < 600 else None


def _files(path: Path) -> Iterator[Path]:
    """`path` if it is no folder, else all in it that is none; links to folders count as files."""
    if not path.is_dir():
        yield path
    for root, folders, files in os.walk(path):
        yield from (Path(root, name) for name in [*files, *folders] if name in files or Path(root, name).is_symlink())


def _names_below(root: Path) -> Counter[tuple[int, int]]:
    """How many names each file has in `root`."""
    counts: Counter[tuple[int, int]] = Counter()
    for folder, _, files in os.walk(root):
        for name in files:
            found = os.lstat(Path(folder, name))
            counts[found.st_dev, found.st_ino] += 1
    return counts
