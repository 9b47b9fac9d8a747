"""Mistakes that hypothesis makes under every key of the schema: each is refused by its key."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import settings as searched
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lwexp.config.compose import settings
from lwexp.errors import ConfigError, UnknownOptionError
from tests.cli.mistakes import CONF, MISTAKES, SMALL, assert_nothing_was_done
from tests.helpers.commands import RunHere

FILES = {
    path: OmegaConf.to_container(OmegaConf.load(path))
    for path in sorted(CONF.glob("*/*.yaml"))
    if path.parent.name != "study"  # no section of a run
}
# group -> its choices that need nothing more
CHOICES: dict[str, list[Any]] = {path.parent.name: [] for path in FILES}
for _path, _values in FILES.items():
    if "???" not in str(_values):
        CHOICES[_path.parent.name].append(_values)


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The default config as plain values, its groups read from their files."""
    root = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(root, dict)
    chosen = {group: "lstm" if group == "model" else name for entry in root.pop("defaults") if isinstance(entry, dict)
              for group, name in entry.items() if "hydra" not in group}  # fmt: skip
    del root["hydra"], chosen["recipe"], chosen["study"]  # the recipe has no file, a study is no section
    return {**root, **{group: FILES[CONF / group / f"{name}.yaml"] for group, name in chosen.items()}}


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of everything that is not a section."""
    sections = {"loss", "recipe", "unfreeze", "preview", *CHOICES}
    found = []
    for key, value in values.items():
        found += leaves(value, f"{key}.") if not prefix and key in sections else [f"{prefix}{key}"]
    return found


def changed(values: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    section, _, option = key.rpartition(".")
    return {**values, section: {**values[section], option: value}} if section else {**values, key: value}


def refusal(values: dict[str, Any]) -> ConfigError | None:
    """What `settings` says against `values`, if anything."""
    try:
        settings(OmegaConf.create(values))
    except ConfigError as error:
        return error
    return None


keys = st.text("abc", min_size=1, max_size=3)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5) | st.just("???"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)


def test_any_value_for_any_key_is_taken_or_refused_by_its_key(composed: dict[str, Any]) -> None:
    refused = 0

    @searched(max_examples=150, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal refused
        group = data.draw(st.sampled_from(sorted(CHOICES)))
        values = {**composed, group: data.draw(st.sampled_from(CHOICES[group]))}
        key = data.draw(st.sampled_from(leaves(values)))
        error = refusal(changed(values, key, data.draw(anything)))
        if error is not None:
            refused += 1
            section, _, option = key.rpartition(".")
            named = {key} | ({section} if option in ("name", "kind", "source") else set())
            assert any(error.key == name or error.key.startswith(f"{name}.") for name in named), (key, error)
            assert "\n" not in str(error)

    check()
    assert refused > 50, "the values are not wrong enough"


def mutated(draw: st.DrawFn, name: str, taken: Iterable[str]) -> str:
    """`name` with a letter doubled, omitted, or swapped with its neighbor; none of `taken`."""
    place = draw(st.integers(0, len(name) - 1))
    forms = [name[:place] + name[place] + name[place:], name[:place] + name[place + 1 :]]
    forms.append(name[:place] + name[place : place + 2][::-1] + name[place + 2 :])
    return draw(st.sampled_from([form for form in forms if form not in taken and form.isidentifier()] or [f"{name}x"]))


# What the choices without defaults need, so that nothing else is missing
NEEDED = {
    "data/custom": ["data._target_=mistaken.halves"],
    "data/image_folder": ["data.path=photos"],
    "data/images": ["data.path=labels.csv"],
    "data/text": ["data.path=notes.csv"],
    "data/torchvision": ["data.dataset=FakeData"],
    "decay/custom": ["decay._target_=mistaken.halves"],
    "grouping/by_name": ["grouping.patterns={all: '*'}"],
    "grouping/custom": ["grouping._target_=mistaken.one"],
    "model/custom": ["model._target_=mistaken.Net"],
    "model/timm": ["model.name=resnet18"],
    "policy/custom": ["policy._target_=mistaken.falls"],
    "policy/multistep": ["policy.milestones=[2]"],
    "policy/torch": ["policy.name=StepLR", "policy.options={step_size: 1}"],
    "weights/checkpoint": ["weights.path=other.safetensors"],
}
NUMBERS = {"max_steps", "clip_grad_norm", "unfreeze.every_epochs", "unfreeze.every_steps", "checkpoint.every_steps",
           "checkpoint.every_minutes", "policy.warmup_fraction", "policy.warmup_epochs", "policy.cycles",
           "policy.cycle_steps", "optimizer.adamw_lr", "data.train_size", "decay.every_epochs", "decay.every_steps",
           "decay.head_steps", "decay.max_scale", "decay.ratio", "decay.stem_factor", "decay.stem_lr",
           "eval_every_steps", "recipe.batch_size", "recipe.lr", "recipe.mult",
           "threads"}  # null by default  # fmt: skip
CHOSEN_FROM = {"freeze_mode", "precision", "nonfinite", "floor", "warmup", "convention", "mode", "decay_shape",
               "interval", "source", "order"}  # fmt: skip
STRUCTURES = ["[[{a: 1}]]", "{a: {b: [1]}}", "[[[0]]]"]
OPEN_MAPPINGS = ("model.config", "data.options", "loss.options", "policy.options")


@st.composite
def mistakes(draw: st.DrawFn, root: dict[str, Any]) -> tuple[list[str], str]:
    """Options with one mistake, and the key that it is under."""
    path = draw(st.sampled_from(sorted(FILES)))
    group, name = path.parent.name, path.stem
    needed = NEEDED.get(f"{group}/{name}", [])
    options = [*SMALL, *(["~model.hidden_size"] if group == "model" and name != "lstm" else []), f"{group}={name}"]
    if group == "data":
        options.remove("data.image_size=8")
    values = draw(st.sampled_from([{group: FILES[path]}] * 3 + [root]))
    key = draw(st.sampled_from([k for k in leaves(values) if not k.endswith("_target_")]))
    section, _, option = key.rpartition(".")
    kind = draw(st.sampled_from(["value", "value", "name", "choice", "event"]))
    if kind == "choice":
        others = {other.stem for other in FILES if other.parent.name == group}
        wrong = mutated(draw, name, others)
        return [*SMALL[:1], f"{group}={wrong}"], group
    if kind == "event":
        wrong = mutated(draw, draw(st.sampled_from(["step", "group", "lr"])), ["step", "group", "lr"])
        return [*SMALL, f"lr_events=[{{step: 1, group: 0, lr: 0.1, {wrong}: 1}}]"], f"lr_events.0.{wrong}"
    if kind == "name":
        siblings = values.get(section, values)
        wrong = ".".join(part for part in (section, mutated(draw, option, siblings)) if part)
        return [*options, *needed, f"{draw(st.sampled_from(['', '+', '++']))}{wrong}=1"], wrong
    if key in ("resume", "from_run"):  # nothing may be deleted beside them
        options, needed = [*SMALL], []
    known = values[section][option] if section in values else values[key]
    bad = list(STRUCTURES)
    if key in OPEN_MAPPINGS or isinstance(known, dict):
        bad = ["[[{a: 1}]]", "[[[0]]]", "5", "abc"]
    elif isinstance(known, bool):
        bad += ["5", "abc", "-1", "1.5", "null" if group != "optimizer" else "abc"]
    elif isinstance(known, (int, float)) or key in NUMBERS:
        bad += ["abc", "-1", "nan", "inf", "true", draw(st.text("abcxyz", min_size=2, max_size=8))]
        bad += ["1.5", "2.25"] if isinstance(known, int) else []
        bad.append(str(draw(st.integers(-(10**12), -1))))
    elif option in CHOSEN_FROM and key != "recipe.source":  # a citation
        bad += ["5", draw(st.text("qxyz", min_size=3, max_size=8))]
    elif known == "auto":  # true and false are no mistakes of all such keys
        bad += ["abc", "1.5"]
    elif isinstance(known, list):
        bad += ["abc", "5", "true"]
    else:
        bad += ["5", "1.5", "true"]
    return [*options, *needed, f"{key}={draw(st.sampled_from(bad))}"], key


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra composes twice for each command, from files read anew; here once, from files read once: saves minutes."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
    from hydra._internal.hydra import Hydra

    monkeypatch.setattr(Hydra, "get_mode", lambda self, *_, **__: None)  # as Hydra itself has it of a mistaken config
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        load = functools.lru_cache(maxsize=None)(source.load_config)
        monkeypatch.setattr(
            source, "load_config", lambda self, config_path, load=load: copy.deepcopy(load(self, config_path))
        )


@pytest.mark.parametrize(("first", "last"), [(0, 100), pytest.param(100, 300, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("materials", "read_once")
def test_generated_mistakes_are_told_by_the_command_in_one_line_with_their_key(
    first: int, last: int, composed: dict[str, Any], lwexp_here: RunHere, tmp_path: Path
) -> None:
    root = {key: value for key, value in composed.items() if key not in CHOICES}
    drawn: set[tuple[str, ...]] = set()  # the same ones in the same order, whatever part of them is tried

    @searched(max_examples=400, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(mistakes(root))
    def check(mistake: tuple[list[str], str]) -> None:
        options, key = mistake
        if tuple(options) in drawn or len(drawn) >= last:
            return
        drawn.add(tuple(options))
        if len(drawn) <= first:
            return
        outcome = lwexp_here("run", *options)
        section, _, option = key.rpartition(".")
        named = {key, section} if option in ("name", "kind", "source") else {key}
        keys = "|".join(re.escape(name) for name in named)
        assert outcome.code == 2, (options, outcome)
        assert re.fullmatch(rf"error: ({keys})(\.[^\n=]*)?=[^\n]*\n", outcome.err), (options, outcome.err)
        assert outcome.out == "", options

    check()
    assert_nothing_was_done(tmp_path)
    print(f"{last - first} generated mistakes and {len(MISTAKES)} written ones")
    assert len(drawn) == last


def test_value_of_a_wrong_type_is_refused_under_every_key(composed: dict[str, Any]) -> None:
    for key in leaves(composed):
        if key.startswith(("model.", "optimizer.")) and key not in ("model.source", "optimizer.name"):
            continue  # known to their classes only
        with pytest.raises(ConfigError) as caught:
            settings(OmegaConf.create(changed(composed, key, [[{"a": 1}]])))
        named = caught.value.key
        assert named == key or named.startswith(f"{key}.") or key == f"{named}.name", (key, str(caught.value))


def test_key_off_by_a_letter_is_refused_with_its_neighbour(composed: dict[str, Any]) -> None:
    for key in leaves(composed):
        if key.rpartition(".")[2] in ("name", "kind", "source") or key.startswith(("model.", "optimizer.")):
            continue  # known to their classes only
        section, _, option = key.rpartition(".")
        values = changed(composed, f"{section}.{option}s" if section else f"{option}s", 1)
        with pytest.raises(UnknownOptionError, match=rf"did you mean .*\b{option}\b") as caught:
            settings(OmegaConf.create(values))
        assert caught.value.key == f"{key}s"
