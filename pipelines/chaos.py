"""Kill a training's processes and check that it ends the same."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from pipelines.artifacts.history import FILE_NAME, OF_THE_MACHINE, read_history
from pipelines.artifacts.places import places, state_root
from pipelines.artifacts.shards import checked_manifest
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import check_stop, raise_on_stop
from pipelines.cluster.connect import connected, elsewhere
from pipelines.cluster.footprints import Footprints, grown
from pipelines.cluster.killing import ClusterProcesses, Killer, LocalProcesses, Process, Processes, What
from pipelines.cluster.storage import storage_root
from pipelines.recipes import load_recipe
from pipelines.storage import open_store
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_json
from seqgen.core.locks import Taken, held
from seqgen.settings import Recipe

EveryOption = Annotated[float, typer.Option("--every", min=0, help="Seconds of training between two kills.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Draws the victims.")]
WhatOption = Annotated[str, typer.Option("--what", help="Of worker, all (workers) and driver, with commas.")]
KillsOption = Annotated[int | None, typer.Option("--kills", min=1, help="At most; then it may end in peace.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Same as --set train.workers=N.")]
_EPOCH = re.compile(r"^epoch +(\d+)/")
_IN_VAIN = 3  # starts without a new epoch, after which it will not end
_WEIGHTS = "model/weights.safetensors"
_GRACE = 120.0
_RAY_ENDS = 15.0
_LOOK = 5.0  # seconds between two looks at what the processes hold
_START = 60.0  # seconds after which new workers are taken to train, though no epoch has ended


def chaos(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    every: EveryOption = 30,
    seed: SeedOption = 0,
    what: WhatOption = "worker,all,driver",
    kills: KillsOption = None,
) -> None:
    """Train the recipe twice, once undisturbed and once while processes are killed, and compare the models' bits.

    On the cluster of RAY_ADDRESS, else on one of this machine. Both trainings have places of their own, and touch
    no other run, model or registry. Ends with 1 if they differ.
    """
    raise_on_stop()
    among = _parsed(what)
    assignments = [*(settings or ()), *([f"train.workers={workers}"] if workers else ())]
    wanted = load_recipe(recipe, assignments)
    checked_manifest(wanted)
    arguments = [*(["--recipe", recipe] if recipe else []), *(f"--set={text}" for text in assignments)]
    command = [sys.executable, "-m", "pipelines.train", *arguments]
    with _places(wanted) as (calm, storm):
        print("undisturbed", flush=True)
        _Run(calm, command).to_the_end()
        print(f"disturbed: a kill every {every:g} s of training ({what}), seed {seed}", flush=True)
        with connected() if elsewhere() else contextlib.nullcontext():
            disturbed = _Run(storm, command)
            disturbed.killed_to_the_end(Killer(seed), among, every, kills)
        differences = [*compared(calm.train, storm.train), *_tracked(storm)]
    held = {place.root.name: grown(place.footprints) for place in (calm, storm)}
    report = {
        "seed": seed,
        "every": every,
        "kills": disturbed.kills,
        "starts": disturbed.starts,
        "differences": differences,
        "held": held,
    }
    write_json(storm.root.parent / "report.json", report)
    counts = Counter(kill["what"] for kill in disturbed.kills)
    print(
        f"{len(disturbed.kills)} kills ({', '.join(f'{kind} {count}' for kind, count in counts.items()) or 'none'}), "
        f"{disturbed.starts} starts; written: {storm.root.parent / 'report.json'}"
    )
    for training, kinds in held.items():
        for kind, (first, last) in sorted(kinds.items()):
            print(f"{training}: a {kind} held {first.text} first and {last.text} last")
    if differences:
        raise OperationalError(f"not the same: {'; '.join(differences)}")
    print(
        f"the same bits as undisturbed: weights {file_sha256(storm.train / _WEIGHTS)[:12]}; one run, no step twice"
    )


def _parsed(what: str) -> list[What]:
    found: list[What] = []
    for name in what.split(","):
        if name not in get_args(What):
            raise BadInput(f"--what {what}: {name!r} is none of {', '.join(get_args(What))}")
        found.append(name)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class Place:
    """Where one of the two trainings leaves everything: `root`, and the storage of its checkpoints."""

    root: Path
    storage: str
    recipe: str

    @property
    def train(self) -> Path:
        """What the training leaves."""
        return self.root / "artifacts" / self.recipe / "train"

    @property
    def footprints(self) -> Path:
        """What its processes held, in time."""
        return self.root / "footprints.csv"

    @property
    def tracking(self) -> str:
        """Its own tracking database."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def environment(self) -> dict[str, str]:
        """What the training's process sees."""
        return {
            **os.environ,
            "SEQGEN_ARTIFACTS": str(self.root / "artifacts"),
            "SEQGEN_STATE": str(self.root / "state"),
            "SEQGEN_STORAGE": self.storage,
            "MLFLOW_TRACKING_URI": self.tracking,
        }


@contextlib.contextmanager
def _places(recipe: Recipe) -> Iterator[tuple[Place, Place]]:
    """Fresh places for the two trainings, beside the recipe's own: where its shards can be read, these can, too.

    The checkpoints go to the usual storage, below a name of their own, and are removed if all went well.
    """
    own = places(recipe).root
    root, storage = own.parent / "chaos" / recipe.name, f"{storage_root()}/chaos-{recipe.name}"
    with _alone(recipe):
        _clear(storage)
        shutil.rmtree(root, ignore_errors=True)
        calm, storm = (Place(root / kind, f"{storage}/{kind}", recipe.name) for kind in ("calm", "storm"))
        for place in (calm, storm):
            products = place.train.parent
            products.mkdir(parents=True)
            for name in ("shards", "search"):
                if (own / name).exists():
                    (products / name).symlink_to(own / name)
        yield calm, storm
        _clear(storage)


@contextlib.contextmanager
def _alone(recipe: Recipe) -> Iterator[None]:
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(held(state_root() / "locks" / f"chaos-{recipe.name}.lock"))
        except Taken as taken:
            raise BadInput(f"another process does the same ({taken.holder}); wait for it") from None
        yield


def _clear(storage: str) -> None:
    store = open_store(storage)
    store.delete(store.list())
    if not storage.startswith("s3://"):
        shutil.rmtree(storage, ignore_errors=True)  # empty folders


@dataclass
class _Run:
    """A training, started with the same command as often as it takes."""

    place: Place
    command: list[str]
    footprints: Footprints = field(init=False)
    starts: int = 0
    epoch: int = 0
    heard: float = 0.0  # when an epoch ended last
    kills: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.footprints = Footprints(self.place.footprints)

    def to_the_end(self) -> None:
        """Let it train. Raises OperationalError if it does not end well."""
        with self._started() as process:
            while process.poll() is None:
                check_stop()
                time.sleep(0.2)
        if process.returncode:
            raise OperationalError(f"undisturbed, it ended with code {process.returncode}; see above")

    def killed_to_the_end(self, killer: Killer, among: list[What], every: float, most: int | None) -> None:
        """Kill one of `among` every so many seconds of training, and start it again until it ends well."""
        before, in_vain = 0, 0
        while True:
            with self._started() as process:
                found: Processes = (ClusterProcesses if elsewhere() else LocalProcesses)(process.pid)
                self._kill_until_it_ends(process, found, killer, among, every, most)
            if process.returncode == 0:
                return
            in_vain = in_vain + 1 if self.epoch == before else 0
            before = self.epoch
            if in_vain == _IN_VAIN:
                raise OperationalError(
                    f"no epoch more in {_IN_VAIN} starts, the last of which ended with code {process.returncode}; "
                    "kill less often (--every), or see above"
                )

    def _kill_until_it_ends(
        self,
        process: subprocess.Popen[str],
        found: Processes,
        killer: Killer,
        among: list[What],
        every: float,
        most: int | None,
    ) -> None:
        seen: list[Process] = []
        since, due = 0.0, 0.0
        while process.poll() is None:
            check_stop()
            time.sleep(0.2)
            if most is not None and len(self.kills) >= most:
                continue
            workers, now = found.workers(), time.monotonic()
            if workers != seen:  # new ones: they start, and train from the first epoch they end on
                seen, since, due = workers, now, now + _START + every
            elif self.heard > since:
                due = min(due, self.heard + every)
            if workers and now >= due:
                what = killer.choose(among)
                pids = [victim.pid for victim in killer.kill(found, what)]
                self.kills.append({"what": what, "pids": pids, "epoch": self.epoch, "time": time.time()})
                print(f"killed {what} (pid {', '.join(map(str, pids))}) after epoch {self.epoch}", flush=True)
                seen = []

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        """The training's process, which is gone with all that it started when the block ends."""
        import psutil

        self.starts += 1
        process = subprocess.Popen(
            self.command,
            env=self.place.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        printer = threading.Thread(target=self._print, args=(process,), daemon=True)
        printer.start()
        family: dict[int, psutil.Process] = {}
        watching = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, family, watching), daemon=True)
        watcher.start()
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            watching.set()
            watcher.join()
            # The Ray of a killed driver ends by itself; two agents of it take a minute or two.
            for each in psutil.wait_procs(family.values(), timeout=_RAY_ENDS)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.kill()
            process.wait()
            printer.join(10)

    def _print(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if "(raylet)" in line:  # Ray's long words on every death
                continue
            print(f"  {line}", end="", flush=True)
            if found := _EPOCH.match(line):
                self.epoch, self.heard = max(self.epoch, int(found[1])), time.monotonic()

    def _watch(self, pid: int, family: dict[int, Any], done: threading.Event) -> None:
        """Remember all that a process starts: after its death nobody can tell; and look at what they hold."""
        import psutil

        looked = time.monotonic()
        while not done.wait(1):
            with contextlib.suppress(psutil.Error):
                driver = psutil.Process(pid)
                children = driver.children(recursive=True)
                for child in children:
                    family.setdefault(child.pid, child)
                if time.monotonic() - looked >= _LOOK:
                    looked = time.monotonic()
                    self.footprints.take([driver, *children])


def compared(one: Path, other: Path) -> list[str]:
    """In what two trainings' products differ: weights, and every epoch's metrics but its times."""
    found = []
    sums = [file_sha256(each / _WEIGHTS) for each in (one, other)]
    if sums[0] != sums[1]:
        found.append(f"weights {sums[0][:12]} and {sums[1][:12]}")
    rows = [
        [
            {key: value for key, value in row.items() if key not in OF_THE_MACHINE}
            for row in read_history(each / FILE_NAME)
        ]
        for each in (one, other)
    ]
    if rows[0] != rows[1]:
        pairs = zip(*rows, strict=False)
        number = next(
            (index for index, (a, b) in enumerate(pairs, start=1) if a != b), min(map(len, rows)) + 1
        )
        found.append(f"history, from row {number} on ({len(rows[0])} and {len(rows[1])} rows)")
    return found


def _tracked(place: Place) -> list[str]:
    """What is wrong with what was tracked: there must be one finished run, and no step of a metric twice."""
    from pipelines.tracking.server import connect

    client = connect(place.tracking)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments)
    if len(found) != 1 or found[0].info.status != "FINISHED":
        return [
            f"{len(found)} runs ({', '.join(run.info.status for run in found)}), where there should be one, FINISHED"
        ]
    (only,) = found
    problems = []
    for name in only.data.metrics:
        steps = [entry.step for entry in client.get_metric_history(only.info.run_id, name)]
        if len(steps) != len(set(steps)):
            problems.append(f"metric {name} has a step twice")
    return problems


if __name__ == "__main__":
    run(chaos)
