"""Names of metrics, params and tags as MLflow accepts them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from lwexp.tracking import safe_key, safe_keys

names = st.text(st.sampled_from("ab./ *?[]:\n\té\u0301\ud800-_") | st.characters(), max_size=300)


@given(names)
@example("../../etc/passwd")
@example("...")
@example("a" * 251)
@example("a" * 240 + "/" * 20 + "b" * 20)
def test_a_safe_key_is_accepted_by_mlflow_and_stays_as_it_is(name: str) -> None:
    key = safe_key(name)
    _validate_metric_name(key)  # raises
    assert 0 < len(key) <= MAX_ENTITY_KEY_LENGTH
    assert safe_key(key) == key


def test_mlflow_refuses_what_is_not_made_safe() -> None:
    for name in ("a*", "a[0]", "/a", "a//b", "..", "a/"):
        with pytest.raises(MlflowException):
            _validate_metric_name(name)


@given(st.lists(names, max_size=12))
@example(["a_", "a*", "a?"])
@example(["a" * 300, "a" * 301])
@example(["a*", "a?", safe_keys(["a*", "a?"])[0]])
def test_safe_keys_are_as_many_as_the_names(given_names: list[str]) -> None:
    keys = safe_keys(given_names)
    assert len(keys) == len(given_names)
    assert len(set(keys)) == len(set(given_names))
    for name, key in zip(given_names, keys, strict=True):
        _validate_metric_name(key)
        assert len(key) <= MAX_ENTITY_KEY_LENGTH
        if safe_key(name) == name:
            assert key == name


def test_common_names_of_parameters_stay_readable() -> None:
    names = ["lr/00_fc", "lr/61_conv1.weight", "train/loss"]
    assert safe_keys(names) == names
    assert safe_keys(["lr/03_blocks.*.norm1"]) == ["lr/03_blocks._.norm1"]
