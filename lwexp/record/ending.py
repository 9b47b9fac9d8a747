"""How a training ended, by the error that ended it."""

from __future__ import annotations

from lwexp.formatting import one_line
from lwexp.host.signals import Interrupted
from lwexp.tracking import Status


def end_of(error: BaseException | None) -> tuple[Status, str | None]:
    """The status of a training that ended with `error` and the reason; an interrupt means KILLED.

    >>> end_of(None), end_of(ValueError("no data")), end_of(KeyboardInterrupt()), end_of(SystemExit(0))
    (('FINISHED', None), ('FAILED', 'no data'), ('KILLED', 'interrupted'), ('FINISHED', None))
    """
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED", None
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        return "KILLED", "interrupted"
    return "FAILED", one_line(error, None)
