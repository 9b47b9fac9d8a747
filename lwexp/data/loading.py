"""Loaders: the order of batches and their augmentation are pure functions of (seed, epoch)."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lwexp.distributed.batch_shard import WHOLE_BATCH, BatchShard
from lwexp.distributed.launch import read_launch
from lwexp.host.resources import usable_cores
from lwexp.host.signals import ignore_in_worker

from .balance import balanced_order
from .images import Batch, Inputs, SampleDataset
from .keys import SampleKey, order_seed
from .mixing import MixedKeys, Mixing, mixed_keys

if TYPE_CHECKING:
    from .source import Splits


Workers = int | Literal["auto"]


def worker_count(workers: Workers, dataset: SampleDataset, device: torch.device | str) -> int:
    """Number of DataLoader workers; "auto" picks the useful maximum.

    0 for data that are made faster than they are sent between processes, and on a single core. Otherwise one per core,
    at most 2 if the training itself needs the CPU, at most 8 with a GPU. The ranks on a machine share its cores.
    """
    if workers != "auto":
        return workers
    cores = usable_cores() // read_launch().local_size
    if not dataset.slow or cores <= 1:
        return 0
    return min(cores, 2 if torch.device(device).type == "cpu" else 8)


def workers_note(splits: Splits, device: torch.device | str) -> str:
    """What `data.workers=auto` chose, and why, on one line."""
    found: dict[str, list[str]] = {}
    for name, dataset in vars(splits).items():
        if dataset is not None:
            count = worker_count("auto", dataset, device)
            found.setdefault(f"{dataset.how}, {count or 'no'} worker{'' if count == 1 else 's'}", []).append(name)
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in found.items())


class EpochSampler(Sampler[list[SampleKey] | MixedKeys]):
    """Batches of sample keys; a key contains the epoch, so that workers know it."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int | None,
        shard: BatchShard = WHOLE_BATCH,
        balance: Tensor | None = None,
        mixes: bool = False,
    ) -> None:
        """With a `seed`: reshuffled every epoch, full batches only. Without: in order, all `count` samples.

        `balance`: the labels, int64 [count]: an epoch has as many samples, but all classes equally often. `mixes`:
        `Mixing` follows, which needs `MixedKeys`.

        Yields `shard` of each batch; of a last batch that is too small for all shards, its first sample.
        """
        self._count, self._batch_size, self._seed, self.shard = count, batch_size, seed, shard
        self._balance, self._mixes = balance, mixes
        self._epoch = self._start = 0

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of a full epoch."""
        return self._count // self._batch_size if self._seed is not None else -(-self._count // self._batch_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Let the next iteration be `epoch`, without its first `start_batch` batches."""
        self._epoch, self._start = epoch, start_batch

    def batch_sizes(self) -> list[int]:
        """Samples of each batch of the next iteration, all shards together."""
        starts = range(self._start * self._batch_size, self.batches_per_epoch * self._batch_size, self._batch_size)
        return [min(self._batch_size, self._count - start) for start in starts]

    def __len__(self) -> int:
        """Return the number of batches of the next iteration."""
        return max(0, self.batches_per_epoch - self._start)

    def __iter__(self) -> Iterator[list[SampleKey] | MixedKeys]:
        """Yield the batches of the epoch, from its start or from the batch that was set."""
        epoch, size = self._epoch, self._batch_size
        starts = range(self._start * size, self.batches_per_epoch * size, size)
        order: Sequence[int] = range(self._count)
        if self._seed is not None:
            generator = torch.Generator().manual_seed(order_seed(self._seed, epoch))
            if self._balance is not None:
                keys = balanced_order(self._balance, epoch, generator)
                return self._parts(keys[start : start + size] for start in starts)
            order = torch.randperm(self._count, generator=generator).tolist()
        return self._parts([SampleKey(epoch, index) for index in order[start : start + size]] for start in starts)

    def _parts(self, batches: Iterator[list[SampleKey]]) -> Iterator[list[SampleKey] | MixedKeys]:
        return batches if self.shard == WHOLE_BATCH and not self._mixes else map(self._own_shard, batches)

    def _own_shard(self, batch: list[SampleKey]) -> list[SampleKey] | MixedKeys:
        first, last = self.shard.bounds(len(batch))
        if first == last:
            first, last = 0, 1
        return mixed_keys(batch, first, last) if self._mixes else batch[first:last]


class _Prepared(NamedTuple):
    """A batch as a worker sends it: of decoded images the pixels, a quarter of the bytes of the model's input."""

    inputs: Inputs
    labels: Tensor
    keys: MixedKeys | None


class _Batches(Dataset[_Prepared]):
    """Batches by their keys, so that samples are processed together where possible."""

    def __init__(self, dataset: SampleDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, keys: Sequence[SampleKey] | MixedKeys) -> _Prepared:
        mixed = keys if isinstance(keys, MixedKeys) else None
        return _Prepared(*self._dataset.prepare(mixed.keys if mixed else keys), mixed)  # type: ignore[arg-type]


def _as_it_is(batch: _Prepared) -> _Prepared:
    return batch


_open: weakref.WeakSet[EpochLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Runs before Python joins the workers, which ignore SIGTERM."""
    for loader in list(_open):
        loader.close()


class EpochLoader(DataLoader[Batch]):
    """A DataLoader of `EpochSampler`'s batches. `len` is the number of batches of the next iteration."""

    def __init__(
        self,
        dataset: SampleDataset,
        sampler: EpochSampler,
        workers: Workers,
        device: torch.device | str,
        channels_last: bool,
        mixing: Mixing | None = None,
    ) -> None:
        """`workers`: processes that prepare batches (0: none). Memory is pinned only for a CUDA `device`.

        `channels_last`: memory format of the images, whose shape stays [B, C, H, W]. `mixing`: of images and labels.
        """
        self.epoch_sampler, self.samples, self._mixing = sampler, dataset, mixing
        self._device, self._channels_last = torch.device(device), channels_last
        workers = worker_count(workers, dataset, device)
        super().__init__(
            _Batches(dataset),  # type: ignore[arg-type]  # an item becomes a batch in `_finish`
            batch_size=None,  # an item is a batch
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.device(device).type == "cuda",
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # typed for lists of samples
            worker_init_fn=ignore_in_worker,
            generator=torch.Generator(),  # otherwise each iterator draws from the global generator
        )
        _open.add(self)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # an iterator of torch's own class
        """Yield the batches of the epoch that was set; decoded images are on the device already."""
        return map(self._finish, super().__iter__())

    def _finish(self, prepared: Any) -> Batch:
        """A model's input from what a worker has sent, with labels on the CPU."""
        inputs, labels, keys = prepared
        if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8:  # then the GPU normalizes
            inputs = inputs.to(self._device, non_blocking=self._device.type == "cuda")
        inputs = self.samples.finish(inputs)
        if keys is not None and self._mixing is not None and isinstance(inputs, Tensor):
            inputs, labels = self._mixing(inputs, labels, keys)
        if self._channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, labels

    def close(self) -> None:
        """Stop the workers now; in a reference cycle with a traceback, torch would later wait 5 s for each.

        By private attributes of torch, tried with torch 2.14.
        """
        iterator: Any = getattr(self, "_iterator", None)
        self._iterator = None
        if iterator is not None:
            iterator._shutdown_workers()
            for worker in getattr(iterator, "_workers", ()):
                if worker.is_alive():  # hangs, and ignores torch's SIGTERM
                    worker.kill()

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Let the next iteration be `epoch`, from batch `start_batch` on."""
        self.epoch_sampler.set_epoch(epoch, start_batch)


def train_loader(
    dataset: SampleDataset,
    *,
    batch_size: int,
    seed: int,
    workers: Workers,
    device: torch.device | str,
    channels_last: bool = False,
    shard: BatchShard = WHOLE_BATCH,
    balance: Tensor | None = None,
    mixing: Mixing | None = None,
) -> EpochLoader:
    """Shuffled full batches, or `shard` of each, without a smaller last one. Call `set_epoch` before each epoch.

    `balance`: the labels, int64 [samples], if all classes shall be equally frequent; `mixing`: of images and labels.
    """
    sampler = EpochSampler(len(dataset), batch_size, seed, shard, balance, mixes=mixing is not None)
    return EpochLoader(dataset, sampler, workers, device, channels_last, mixing)


def eval_loader(
    dataset: SampleDataset,
    *,
    batch_size: int,
    workers: Workers,
    device: torch.device | str,
    channels_last: bool = False,
    shard: BatchShard = WHOLE_BATCH,
) -> EpochLoader:
    """Batches of all samples in order, or `shard` of each."""
    return EpochLoader(dataset, EpochSampler(len(dataset), batch_size, None, shard), workers, device, channels_last)


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move `batch` to `device`; asynchronously for CUDA, from the loaders' pinned memory."""
    inputs, labels = batch
    how: dict[str, Any] = {"device": device, "non_blocking": torch.device(device).type == "cuda"}
    if isinstance(inputs, dict):
        return {name: tensor.to(**how) for name, tensor in inputs.items()}, labels.to(**how)
    return inputs.to(**how), labels.to(**how)


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call `model` with `inputs`: a dict as keyword arguments, a tensor as the only argument."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)
