"""A run's own weights: exact round trips, files whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lwexp.errors import RunError
from lwexp.training.checkpoint.weights import load_weights, read_weights, save_weights
from tests.helpers.networks import Tied, conv_network, same_weights


def test_saved_weights_load_back_bit_for_bit(tmp_path: Path) -> None:
    model, other = conv_network(), conv_network(seed=1)
    save_weights(model.state_dict(), tmp_path / "w.safetensors")
    assert not same_weights(model, other)
    load_weights(other, read_weights(tmp_path / "w.safetensors"), tmp_path / "w.safetensors")
    assert same_weights(model, other)


def test_saving_makes_the_folder_and_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    for _ in range(2):  # the second replaces the first
        save_weights(conv_network().state_dict(), tmp_path / "new" / "w.safetensors")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_the_file_can_be_read_by_those_who_can_read_other_files(tmp_path: Path) -> None:
    save_weights(conv_network().state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_file_has_the_state_dicts_names_and_loads_strictly_with_safetensors_alone(tmp_path: Path) -> None:
    model = conv_network()
    save_weights(model.state_dict(), tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == model.state_dict().keys()
    conv_network(seed=1).load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)


def test_tied_viewed_and_transposed_tensors_round_trip_and_stay_tied(tmp_path: Path) -> None:
    model, other = Tied(0), Tied(1)
    save_weights(model.state_dict(), tmp_path / "w.safetensors")
    load_weights(other, read_weights(tmp_path / "w.safetensors"), tmp_path / "w.safetensors")
    assert same_weights(model, other)
    assert other.head.weight is other.embed.weight
    assert load_file(tmp_path / "w.safetensors")["part"].shape == (2, 2)


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(conv_network().state_dict(), path)
    before = path.read_bytes()

    def full(tensors: object, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lwexp.training.checkpoint.weights.save_file", full)
    with pytest.raises(RunError, match="No space left on device"):
        save_weights(conv_network(seed=1).state_dict(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_without_values_are_not_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = conv_network()
    with pytest.raises(RunError, match="meta device"):
        save_weights(model.state_dict(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("damage", ["missing", "corrupt", "other"])
def test_loading_a_runs_own_weights_fails_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.safetensors"
    if damage == "corrupt":
        path.write_bytes(b"\x01" * 50)
    if damage == "other":
        save_weights(conv_network(classes=3).state_dict(), path)
    with pytest.raises(RunError, match=r"cannot load .*w\.safetensors") as caught:
        load_weights(conv_network(), read_weights(path), path)
    assert "\n" not in str(caught.value)
