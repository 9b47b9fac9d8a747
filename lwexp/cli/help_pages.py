"""What `--help` prints: a page for each command, with choices and meanings read from the files in conf/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lwexp.config import recipes
from lwexp.config.defaults import CONF, documented
from lwexp.errors import UnknownNameError

Page = Callable[[Sequence[str], "Path | None"], str]  # of topics and the user's --config-dir

_BUILT_IN = {"hydra/launcher": ["basic"], "recipe": recipes.names()}  # choices without a file
_COLUMN = 32  # in which meanings begin
_FLAGS = """\
--help <option or group> explains its keys, e.g. --help checkpoint, --help data; --version prints lwexp's version;
--cfg job prints the config that a command composes; --hydra-help explains Hydra's own options."""
_RUN = """\
lwexp.run: train one model, or with -m many; every group's learning rate at every step is recorded.
Usage: python -m lwexp.run [-m] [group=choice] [key=value]

Choices (group=choice; model also takes any timm name, optimizer any of torch.optim or timm)
{choices}

Options (key: default)
{options}

Examples
  python -m lwexp.run model=vit_tiny_patch16_224 decay=linear mult=0.95 policy=cosine policy.warmup_steps=50
  python -m lwexp.run 'lr_overrides={{fc: 0.01}}' 'freeze=[conv1,bn1]' data=image_folder data.path=photos
  python -m lwexp.run -m mult=0.9,1.0 hydra/launcher=joblib      a sweep, its jobs in parallel (seed=0,1,2: repeated)
  python -m lwexp.run hydra.run.dir=outputs/mine resume=auto     start, or resume what was interrupted there
  python -m lwexp.preview model=resnet18 grouping=per_parameter  the plan and its pictures, without training
  python -m lwexp.report; python -m lwexp.ui                     what the latest sweep shows; MLflow's page
{flags}"""
_PREVIEW = """\
lwexp.preview: print the plan of a run and draw its learning rates, without training and without weights.
Usage: python -m lwexp.preview [group=choice] [key=value]

It takes every option of lwexp.run, so a command can be tried here first. These shape the plan:
{choices}
{options}

These write the plan to a file, relative to the current folder, besides printing it:
{files}

Examples
  python -m lwexp.preview model=resnet18 decay=linear mult=0.9
  python -m lwexp.preview model=vit_tiny_patch16_224 grouping=depth_index policy=cosine preview.csv=plan.csv
  python -m lwexp.run --help                                     all options
{flags}"""
_FIND = """\
lwexp.find: suggest the base rate of a run by a range test: the loss while the rate rises at every optimizer step.
Usage: python -m lwexp.find [group=choice] [key=value]

It takes every option of lwexp.run and trains with its plan, optimizer and batches, at rates of its own: policies,
phases, events and gradual unfreezing are off. The network is not kept. Printed are the suggestions of four rules and
the overrides to train with; curves and pictures go to outputs/finds/ and to MLflow.

{options}

Examples
  python -m lwexp.find model=resnet18 decay=linear mult=0.9
  python -m lwexp.find model=vit_tiny_patch16_224 grouping=depth_index find.groups=true find.steps=50
  python -m lwexp.find from_run=outputs/runs/mine find.repeats=3
  python -m lwexp.run --help                                     all options
{flags}"""
_STUDY = """\
lwexp.study: compare arms, such as uniform and layer-wise rates, each at the base rate that is best for it.
Usage: python -m lwexp.study study=<name> [group=choice] [key=value]

Every arm tries the same base rates with the seed of the search; what is best on validation is trained again with fresh
seeds, whose test results are compared, paired by seed. The options of lwexp.run apply to all arms.

Choices (group=choice)
{choices}
A study of your own is a file like those in conf/study/: mine/study/ours.yaml, with --config-dir mine.

Options of a study (hydra.sweeper.<key>: default)
{options}

Examples
  python -m lwexp.study study=letters                            layer-wise rates or not, in four minutes
  python -m lwexp.study study=letters hydra/launcher=joblib      as many runs at once as fit here
  python -m lwexp.study study=letters +hydra.sweeper.arms.mine='grouping=depth_index mult=0.9'
  python -m lwexp.run sweep.resume=<folder>                      carry on after an interruption
  python -m lwexp.report <folder>/study.csv                      the report again
{flags}"""
_STUDY_FILE = "hydra/sweeper/study"
_PLAN_GROUPS = ("recipe", "model", "grouping", "decay", "policy")
_PLAN_OPTIONS = (
    "lr", "mult", "index_from", "freeze", "train", "freeze_mode", "lr_overrides", "lr_mults", "split_groups",
    "group_options", "lr_events", "policies", "phases", "unfreeze", "epochs", "max_steps",
)  # fmt: skip


def run_page(topics: Sequence[str] = (), folder: Path | None = None) -> str:
    """The page of `lwexp.run`, or what is known about `topics`; `folder` may hold more choices."""
    if topics:
        return _explain(topics)
    keys = [key for key in documented() if "." not in key]
    return _RUN.format(choices=_choices(_groups(folder), folder), options=_options(keys), flags=_FLAGS)


def preview_page(topics: Sequence[str] = (), folder: Path | None = None) -> str:
    """The page of `lwexp.preview`, as `run_page`."""
    if topics:
        return _explain(topics)
    return _PREVIEW.format(
        choices=_choices(_PLAN_GROUPS, folder), options=_options(_PLAN_OPTIONS),
        files=_options(["preview.csv", "preview.json"]), flags=_FLAGS,
    )  # fmt: skip


def find_page(topics: Sequence[str] = (), folder: Path | None = None) -> str:
    """The page of `lwexp.find`, as `run_page`."""
    if topics:
        return _explain(topics)
    return _FIND.format(options=_options([key for key in documented() if key.startswith("find.")]), flags=_FLAGS)


def study_page(topics: Sequence[str] = (), folder: Path | None = None) -> str:
    """The page of `lwexp.study`, as `run_page`."""
    if topics:
        return _explain(topics)
    options = _options([key for key in documented(_STUDY_FILE) if not key.startswith("_")], _STUDY_FILE)
    return _STUDY.format(choices=_choices(["study"], folder), options=options, flags=_FLAGS)


def _groups(folder: Path | None) -> list[str]:
    folders = [CONF] if folder is None else [CONF, folder]
    found = {str(path.parent.relative_to(root)) for root in folders for path in root.rglob("*.yaml")} - {"."}
    return sorted({"recipe", *found}, key=lambda group: ("/" in group, group))


def _choices(groups: Sequence[str], folder: Path | None) -> str:
    lines = []
    for group in groups:
        files = [path for root in (CONF, folder) if root is not None for path in (root / group).glob("*.yaml")]
        lines.append(f"{group}: {', '.join(sorted({*(path.stem for path in files), *_BUILT_IN.get(group, [])}))}")
    return "\n".join(lines)


def _options(keys: Sequence[str], choice: str | None = None) -> str:
    """A line for each key of config.yaml, or of the file of a `choice`: its default and its meaning.

    Of a section its keys in place of the default.
    """
    known = documented(choice)
    lines = []
    for key in keys:
        value, meaning = known[key]
        inner = ", ".join(name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == key)
        lines.append(f"{f'{key}: {value}':<{_COLUMN}} {meaning}{f' ({inner})' if inner else ''}".rstrip())
    return "\n".join(lines)


def _explain(topics: Sequence[str]) -> str:
    """The keys of each topic: an option of config.yaml with all below it, or the files of a group."""
    known, groups, parts = documented(), _groups(None), []
    for topic in topics:
        if topic == "recipe":
            keys = [key for key in known if f"{key}.".startswith("recipe.")]
            parts += [_options(keys) + "\n", *recipes.pages()]
        elif topic in groups:
            files = sorted((CONF / topic).glob("*.yaml"))
            parts += [f"{topic}={path.stem}\n{path.read_text(encoding='utf-8')}" for path in files]
        elif topic in known:
            parts.append(_options([key for key in known if key == topic or key.startswith(f"{topic}.")]))
        else:
            raise UnknownNameError("--help", topic, [*known, *groups], "no such option or group")
    return "\n".join(parts)
