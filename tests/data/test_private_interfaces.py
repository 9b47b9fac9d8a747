"""What lwexp.data uses of torch and torchvision beyond their public interface: a test fails by name if it changes."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_loader_keeps_its_iterator_and_workers_for_epoch_loader_close() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(2)), num_workers=1, persistent_workers=True)
    assert loader._iterator is None
    iterator = iter(loader)
    assert loader._iterator is iterator
    workers = iterator._workers  # type: ignore[attr-defined]
    assert [worker.is_alive() for worker in workers] == [True]
    iterator._shutdown_workers()  # type: ignore[attr-defined]
    assert [worker.is_alive() for worker in workers] == [False]


@pytest.mark.parametrize(("name", "attributes"), [
    ("PCAM", "self._FILES[self._split] self._base_folder self.h5py"),
    ("INaturalist", "self.index.append((dir_index,"),
    ("Omniglot", "self._flat_character_images self._characters"),
    ("SUN397", "self._image_files self._labels"),
    ("Food101", "self._labels"),
    ("Imagenette", "self._samples"),
    ("GTSRB", "self._samples"),
    ("FER2013", "self._samples"),
    ("StanfordCars", "self._samples"),
    ("RenderedSST2", "self._samples"),
])  # fmt: skip
def test_torchvision_keeps_labels_and_files_where_torchvision_labels_reads_them(name: str, attributes: str) -> None:
    source = inspect.getsource(getattr(datasets, name))
    lacking = [attribute for attribute in attributes.split() if attribute not in source]
    assert not lacking
