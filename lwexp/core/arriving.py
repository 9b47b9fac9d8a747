"""Numbers on their way from a device to the host, which nothing waits for until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """A copy of a tensor on the host, which starts at once."""

    def __init__(self, tensor: Tensor) -> None:
        """Start the copy of `tensor`, of any shape."""
        on_gpu = tensor.device.type == "cuda"
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._tensor = host.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.current_stream(tensor.device).record_event() if on_gpu else None

    def read(self) -> Tensor:
        """The copy, as soon as it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor
