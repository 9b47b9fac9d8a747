"""A run as TensorBoard's event files: scalars, params and final status for the HParams page, pictures, the plan."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .journal import Rows
from .keys import NOTE_TAG

FOLDER = "tensorboard"  # in the run's folder


class TensorBoardWriter:
    """Writes one run to `<run folder>/tensorboard/<run name>`, by which TensorBoard names it."""

    def __init__(self, folder: Path, record: Mapping[str, Any], *, first: bool) -> None:
        """`record`: the journal's entry about the run; `first`: nothing of it was written before."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        name = "".join(c if c.isalnum() or c in " =.,-_" else "_" for c in record["run_name"])[:100].strip(" .")
        self.where = str(folder / FOLDER / (name or "run"))
        # with the process: two sessions within a second would have one name
        self._events = EventFileWriter(self.where, filename_suffix=f".{os.getpid()}")
        if first:
            params = {key: _number(value) for key, value in record["params"].items()}
            begin = record["time_ms"] / 1000
            self._add(hparams_pb(params, trial_id=record["id"], start_time_secs=begin), begin)
            self.tags(record["tags"])

    def rows(self, rows: Rows) -> None:
        """Write the metrics of a step."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        pairs = zip(rows.keys, rows.values, strict=True)
        values = [Summary.Value(tag=key, simple_value=value) for key, value in pairs]
        self._add(Summary(value=values), rows.time_ms / 1000, rows.step)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write the run's description, on the Text page."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        if NOTE_TAG in tags:
            self._add(text_pb("plan", tags[NOTE_TAG]), time.time())

    def image(self, name: str, path: Path) -> None:
        """Write a picture."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as picture:
            width, height = picture.size
        kept = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        self._add(Summary(value=[Summary.Value(tag=name, image=kept)]), time.time())

    def flush(self) -> None:
        """Write everything to the file."""
        self._events.flush()

    def close(self, status: str | None) -> None:
        """Close the file, with the run's status if it has ended."""
        if status is not None:
            self._add(_session_end(status), time.time())
        self._events.close()

    def _add(self, summary: Any, seconds: float, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._events.add_event(Event(wall_time=seconds, step=step, summary=summary))


def _session_end(status: str) -> Any:
    """The status for the HParams page; TensorBoard's own function for it needs TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    ended = api_pb2.Status.Value("STATUS_SUCCESS" if status == "FINISHED" else "STATUS_FAILURE")
    end = plugin_data_pb2.SessionEndInfo(status=ended, end_time_secs=time.time())
    kept = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=kept, tensor=metadata.NULL_TENSOR)])


def _number(value: str) -> float | str:
    """A param as a number where it is one, which TensorBoard can put on an axis."""
    try:
        return float(value)
    except ValueError:
        return value
