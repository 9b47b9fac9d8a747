"""Killed at any moment and resumed: the same rows, once each, in one MLflow run, and the same weights bit for bit."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.helpers.processes import WarmServer
from tests.system.faults import stores
from tests.system.faults.servers import MLflowServer
from tests.system.faults.stores import Database, Rows, SQLite
from tests.system.faults.training import TINY, Command, Launcher, delivery_processes, kill, until, weights

# What a training carries from step to step differs: random states, moments, running statistics, masks, a policy's
# memory, parts of a batch, processes that load ahead
KINDS: dict[str, tuple[str, ...]] = {
    "plain": TINY,
    "unfreezing": (*TINY, "unfreeze.every_steps=7", "optimizer=sgd", "optimizer.momentum=0.9"),
    "plateau": (*TINY, "policy=plateau", "~policy.warmup_steps", "policy.patience=0"),
    "accumulation": (*TINY, "accumulate=3", "batch_size=20", "clip_grad_norm=1.0"),
    "workers": (*TINY, "data.workers=2"),
    "norms": (
        *TINY,
        "model=test_resnet",
        "~model.hidden_size",
        "~model.dropout",
        "data.image_size=32",
        "batch_size=128",
    ),
}
CHECKPOINTS = (["checkpoint.every_steps=1"], ["checkpoint.every_steps=7"], ["checkpoint.every_steps=20"], [])
WAYS = ("auto", "folder", "id")  # what resume= is given


@dataclass(frozen=True)
class Undisturbed:
    """What a training leaves when nothing happens to it."""

    rows: Rows
    weights: dict[str, dict[str, bytes]]
    steps: int


@pytest.fixture(scope="module")
def undisturbed(
    warm_server: WarmServer | None, empty_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    """kind -> the training of that kind, run once and left alone."""
    known: dict[str, Undisturbed] = {}

    def of(kind: str) -> Undisturbed:
        if kind not in known:
            folder = tmp_path_factory.mktemp(f"undisturbed-{kind}")
            store = SQLite(Path(shutil.copy(empty_file, folder / "mlflow.db")))
            where = [f"tracking.uri={store.uri}", "tracking.experiment=undisturbed", f"hydra.run.dir={folder}/run"]
            Launcher(folder, warm_server)("run", *KINDS[kind], *where).succeeded()
            run = stores.only_run(store, "undisturbed")
            assert (run.status, run.repeated) == ("FINISHED", 0)
            steps = 1 + max(step for _, step in run.rows)
            known[kind] = Undisturbed(run.rows, weights(folder / "run"), steps)
        return known[kind]

    return of


@dataclass
class Victim:
    """One training that things happen to."""

    lwexp: Launcher
    database: Database
    uri: str
    experiment: str
    folder: Path
    options: tuple[str, ...]
    expected: Undisturbed

    def start(self, *more: str, **environment: object) -> Command:
        """The training, started or, with `resume=…` in `more`, resumed."""
        environment = {"FAULTS_STEP_TIMES": self.folder.with_suffix(".times"), **environment}
        return self.lwexp("run", *self.options, *self.where, *more, environment=environment)

    def steps(self) -> int:
        """Optimizer steps so far, those done again included."""
        path = self.folder.with_suffix(".times")
        return path.read_text().count("\n") if path.exists() else 0

    @property
    def where(self) -> list[str]:
        return [
            f"tracking.uri={self.uri}",
            f"tracking.experiment={self.experiment}",
            f"hydra.run.dir={self.folder}",
        ]

    def resume(self, way: str) -> Command:
        """Go on with it, as a cluster's requeued job or as a person does."""
        if way == "auto":
            return self.start("resume=auto")
        found = stores.runs(self.database, self.experiment)
        what = found[0].id if way == "id" and found else str(self.folder)
        return self.lwexp("run", f"resume={what}", f"tracking.uri={self.uri}")

    def sync(self) -> Command:
        return self.lwexp("sync", str(self.folder), f"tracking.uri={self.uri}")

    def check(self) -> stores.Run:
        """Nothing lost, nothing twice, FINISHED, one run, the same weights."""
        run = stores.only_run(self.database, self.experiment)
        assert run.missing(self.expected.rows) == []
        assert run.extra(self.expected.rows) == []
        assert (run.repeated, run.stale, run.status) == (0, [], "FINISHED")
        assert weights(self.folder) == self.expected.weights, "other weights than those of the undisturbed training"
        return run

    def check_part(self, steps: int) -> stores.Run:
        """The rows of the first `steps` steps and no wrong ones; closed."""
        run = stores.only_run(self.database, self.experiment)
        started = {place: value for place, value in self.expected.rows.items() if place[1] < steps}
        assert run.missing(started) == []
        assert run.extra(self.expected.rows) == []
        assert all(self.expected.rows[place] == value for place, value in run.rows.items())
        assert run.repeated == 0
        assert run.status in ("KILLED", "FAILED"), run.status
        return run


MakeVictim = Callable[..., Victim]


@pytest.fixture
def victim(
    lwexp: Launcher, file_store: SQLite, undisturbed: Callable[[str], Undisturbed], tmp_path: Path
) -> MakeVictim:
    """A training of a kind, in the test's own SQLite file or at the server that is given."""

    def make(
        kind: str, name: str = "victim", *more: str, server: MLflowServer | None = None, database: Database = file_store
    ) -> Victim:
        uri = server.url if server is not None else file_store.uri
        options = (*KINDS[kind], *more)
        return Victim(lwexp, database, uri, f"{tmp_path.name}-{name}", tmp_path / name, options, undisturbed(kind))

    return make


def delivery_of(folder: Path) -> int:
    """The delivery process of the run, once there is one."""
    found = until(lambda: delivery_processes(folder), 40, "a delivery process")
    return int(found[0])


# --------------------------------------------------------------------------------------------------- one of each kind


@pytest.mark.parametrize(("kind", "step", "way"), [
    ("plain", 31, "auto"),
    pytest.param("unfreezing", 18, "folder", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_training_killed_and_resumed(victim: MakeVictim, kind: str, step: int, way: str) -> None:
    one = victim(kind, "one", "checkpoint.every_steps=7")
    assert one.start(FAULTS_KILL_AT=step).wait() == -9
    one.resume(way).succeeded()
    one.check()


@pytest.mark.slow
def test_a_training_killed_before_its_first_checkpoint_restarts_in_the_same_run(victim: MakeVictim) -> None:
    one = victim("plain")
    assert one.start(FAULTS_KILL_AT=5).wait() == -9
    one.resume("auto").succeeded()
    one.check()


@pytest.mark.slow
def test_commands_of_a_shell_that_share_nothing_go_on_too(victim: MakeVictim, lwexp_cold: Launcher) -> None:
    one = replace(victim("plain", "one", "checkpoint.every_steps=7"), lwexp=lwexp_cold)
    assert one.start(FAULTS_KILL_AT=20).wait() == -9
    one.resume("folder").succeeded()
    one.check()


@pytest.mark.slow
def test_a_killed_delivery_process_has_a_successor(victim: MakeVictim) -> None:
    one = victim("plain")
    command = one.start(FAULTS_STEP_SECONDS=0.1)
    first = delivery_of(one.folder)
    time.sleep(0.5)
    kill(first)
    command.succeeded()
    one.check()


def test_both_killed_then_delivered_then_resumed(victim: MakeVictim) -> None:
    one = victim("plain", "one", "checkpoint.every_steps=7")
    command = one.start(FAULTS_STEP_SECONDS=0.1)
    until(lambda: one.steps() > 10, 40, "some steps")
    kill(delivery_of(one.folder))
    command.kill()
    one.sync().succeeded()
    before = one.check_part(one.steps() - 1)
    one.resume("auto").succeeded()
    assert one.check().id == before.id


def test_resume_of_a_finished_run_delivers_what_is_left_and_trains_no_more(victim: MakeVictim) -> None:
    one = victim("plain")
    options = [each for each in one.where if not each.startswith("tracking.uri")]
    away = ["tracking.uri=http://127.0.0.1:9", "tracking.flush_timeout=1"]  # nothing listens at the port of "discard"
    one.lwexp("run", *one.options, *options, *away).succeeded()
    model = (one.folder / "model.safetensors").stat().st_mtime_ns
    resumed = one.start("resume=auto").succeeded()
    assert len(resumed.text.strip().splitlines()) <= 5, "it says that the run had finished, and not much else"
    assert (one.folder / "model.safetensors").stat().st_mtime_ns == model
    one.check()


# ----------------------------------------------------------------------------------------------------------- in numbers


def moments(seed: int, count: int = 20) -> list[tuple[int, random.Random, str, list[str], str]]:
    """(number, its own random numbers, kind, checkpoint options, way to resume), so that all of each occur."""
    kinds = list(KINDS)
    return [
        (i, random.Random(1000 * seed + i), kinds[i % len(kinds)], CHECKPOINTS[i % 4], WAYS[i % 3])
        for i in range(count)
    ]


def line(number: int, kind: str, what: str, checks: Callable[[], object], before: str = "") -> str:
    """A line of the table of what happened; the error where something was wrong."""
    try:
        checks()
    except AssertionError as error:
        return f"{number:2d} {kind:12s} {what:60s} WRONG: {' '.join(str(error).split())[:300]}"
    return f"{number:2d} {kind:12s} {what:60s} whole"


def conclude(title: str, lines: list[str]) -> None:
    print("\n" + "\n".join([title, *lines]))
    wrong = [line for line in lines if not line.endswith("whole")]
    print(f"{len(lines) - len(wrong)} of {len(lines)} whole: no row lost, none twice, FINISHED, weights bit-identical")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_a_training_killed_at_20_random_steps(victim: MakeVictim, sqlite_server: tuple[MLflowServer, Database]) -> None:
    server, database = sqlite_server
    lines = []
    for number, chance, kind, checkpoints, way in moments(1):
        there = {"server": server, "database": database} if number % 2 else {}
        one = victim(kind, f"n{number}", *checkpoints, **there)
        step, after = chance.randint(1, one.expected.steps), chance.uniform(0, 0.05)
        rest = chance.choice([0.0, 0.0, chance.uniform(0, 6)])

        def happen(
            one: Victim = one, step: int = step, after: float = after, rest: float = rest, way: str = way
        ) -> None:
            assert one.start(FAULTS_KILL_AT=step, FAULTS_KILL_AFTER=after).wait() == -9
            time.sleep(rest)
            one.resume(way).succeeded()
            one.check()

        what = f"killed {after:.3f} s after step {step}, resumed ({way}) {rest:.1f} s later, {checkpoints}"
        lines.append(line(number, kind, what, happen))
    conclude("training process killed", lines)


@pytest.mark.slow
def test_a_delivery_process_killed_at_20_random_moments(
    victim: MakeVictim, sqlite_server: tuple[MLflowServer, Database]
) -> None:
    server, database = sqlite_server
    lines = []
    for number, chance, kind, checkpoints, _ in moments(2):
        there = {"server": server, "database": database} if number % 2 else {}
        one = victim(kind, f"n{number}", *checkpoints, **there)
        after = chance.uniform(0, 7)

        def happen(one: Victim = one, after: float = after) -> None:
            command = one.start(FAULTS_STEP_SECONDS=0.08)
            first = delivery_of(one.folder)
            time.sleep(after)
            kill(first)
            command.succeeded()
            one.sync().succeeded()
            one.check()

        lines.append(line(number, kind, f"killed {after:.2f} s after its start", happen))
    conclude("delivery process killed", lines)


@pytest.mark.slow
def test_both_killed_at_20_random_moments(victim: MakeVictim, sqlite_server: tuple[MLflowServer, Database]) -> None:
    server, database = sqlite_server
    lines = []
    for number, chance, kind, checkpoints, way in moments(3):
        there = {"server": server, "database": database} if number % 2 else {}
        one = victim(kind, f"n{number}", *checkpoints, **there)
        after, between, first = chance.uniform(0, 6), chance.uniform(0, 0.5), chance.choice(["training", "delivery"])
        synced = chance.random() < 0.5

        def happen(
            one: Victim = one, after: float = after, between: float = between, first: str = first,
            synced: bool = synced, way: str = way,
        ) -> None:  # fmt: skip
            command = one.start(FAULTS_STEP_SECONDS=0.08)
            delivery = delivery_of(one.folder)
            time.sleep(after)
            if first == "training":
                command.kill()
                time.sleep(between)
                kill(delivery)
            else:
                kill(delivery)
                time.sleep(between)
                command.kill()
                for successor in delivery_processes(one.folder):
                    kill(successor)
            if synced and command.code != 0:
                one.sync().succeeded()
                one.check_part(one.steps() - 1)
            one.resume(way).succeeded()
            one.check()

        what = f"{first} {after:.2f} s after the start, the other {between:.2f} s later, {'sync, ' * synced}{way}"
        lines.append(line(number, kind, what, happen))
    conclude("both killed", lines)


@pytest.mark.slow
def test_killed_again_and_again_until_it_is_done(victim: MakeVictim) -> None:
    for kind in ("plain", "norms", "accumulation"):
        one = victim(kind, kind, "checkpoint.every_steps=3")
        chance, times = random.Random(kind), 0
        while (code := one.start("resume=auto", FAULTS_KILL_AT=chance.randint(4, 12)).wait()) == -9:
            times += 1
            assert times < 40
        assert code == 0
        assert times >= 3
        print(f"\n{kind}: killed {times} times")
        one.check()
