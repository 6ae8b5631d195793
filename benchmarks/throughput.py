"""Training, sampling and NLL against the textbook, memory and share of the peak: `python -m benchmarks.throughput`.

A row is one specification (benchmarks/specs.py) at one batch, precision and number of threads, eager or compiled.
Rows that were measured before with the same code stay in the table, and those of other instruction sets beside them
(SEQGEN_KERNELS says which is used). docs/performance.md says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import page, rows
from benchmarks.measure import (
    Action,
    in_fresh_process,
    in_turns,
    matmul_peak,
    peak_memory,
    products_of,
)
from benchmarks.rows import WHO, Row, Who
from benchmarks.specs import (
    SPECIFICATIONS,
    Specification,
    Workload,
    importance_noise,
    random_images,
    workload,
)
from benchmarks.steps import step_of
from pipelines.tracking.lineage import code_digest, git_commit
from seqgen import native
from seqgen.evaluation.bounds import HeldOut, importance_bounds
from seqgen.native.build import chosen
from seqgen.native.verdict import read_verdict
from seqgen.objectives import importance_weighted

SHEET = 400  # exemplars of one sheet
_BATCH = {"cpu": 100, "cuda": 1024}
_SECTION = {"cpu": "throughput", "cuda": "throughput-cuda"}
_CHECKED = 100  # images on which the importance-weighted bounds must agree
_AGREE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 1e-2}  # relative, as the precision rounds


@dataclass(frozen=True)
class Mode:
    """How to compute: on which device, in what precision, compiled or not, by how many threads.

    float32 is IEEE's throughout, tf32 lets a GPU round the factors of products to TensorFloat-32, bfloat16 is
    autocast as `train.precision=bfloat16` has it (the rest as float32).
    """

    device: str
    precision: str
    compiled: bool
    threads: int

    def enter(self) -> torch.device:
        """Set up this process and return the device."""
        torch.set_num_threads(self.threads)
        if self.device == "cpu":  # as `fit` has it; the textbook profits too
            native.keep_freed_memory()
        _allow_tf32(self.precision == "tf32")
        return torch.device(self.device)


def _allow_tf32(allowed: bool) -> None:
    """TensorFloat-32 in matrix products and convolutions, or not; concerns GPUs only."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def training_step(work: Workload, who: Who, mode: Mode) -> Callable[[], Tensor]:
    """One step on the workload's batch: forward, mean free energy (its value), backward, clip, Adam.

    seqgen's is that of seqgen/training/loop.py (fused Adam, `train.recompute`, compiled as `train.compile` has it),
    without its averaged weights and its look at the gradient's norm; the textbook's is eager, with Adam as
    torch.optim gives it.
    """
    train = work.recipe.train
    if who == "seqgen":
        work.model.recompute = train.recompute
        work.model.compile_step(mode.compiled)

    def bound() -> Tensor:
        if who == "seqgen":
            return work.model(work.x, work.context, work.noise).free_energy()
        return work.plain(work.x, work.noise, work.context)

    def loss() -> Tensor:
        with torch.autocast(work.x.device.type, torch.bfloat16, enabled=mode.precision == "bfloat16"):
            return bound().mean()

    module: nn.Module = work.model if who == "seqgen" else work.plain
    return step_of(loss, module.parameters(), train, fused=who == "seqgen")


def instructions_in_use(mode: Mode) -> str:
    """The instruction set of the kernels; "off" where torch computes everything."""
    instructions = chosen()
    if mode.device != "cpu" or mode.compiled or instructions is None or not native.loads():
        return "off"
    return instructions if read_verdict(instructions) else "off"


def check(work: Workload) -> None:
    """Raises AssertionError unless seqgen and the textbook give the same bounds in float32 (rtol 1e-4)."""
    x, context, noise = work.x, work.context, work.noise
    bound = work.model(x, context, noise).free_energy().detach()  # with gradients, as in training
    x, context = x[:_CHECKED], None if context is None else context[:_CHECKED]
    samples = importance_noise(work.model, len(x), 2, seed=1).to(x.device)
    with torch.no_grad():
        weighted = importance_weighted(work.model, x, context, 2, torch.Generator().manual_seed(1))
        pairs = {
            "free energy": (work.plain(work.x, noise, work.context), bound),
            "importance-weighted bound": (work.plain.importance_bound(x, samples, context), weighted),
        }
    for what, (theirs, ours) in pairs.items():
        _same(what, theirs, ours, _AGREE["float32"])


def _same(what: str, theirs: Any, ours: Any, rtol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0, msg=partial("{}: {}".format, what))


def fresh_steps(specification: Specification, batch: int, who: Who, mode: Mode) -> Row:
    """For a process of its own: wall seconds and loss of its very first training step, and the memory of two.

    Memory (bytes above those before the first step: activations, gradients, Adam's moments) is None where it
    would be the compiler's own.
    """
    device = mode.enter()
    step = training_step(workload(specification, batch, device), who, mode)
    first: Row = {}

    def two_steps() -> None:
        began = time.perf_counter()
        first["loss"] = float(step())
        first["first_step_seconds"] = time.perf_counter() - began
        step()

    memory = peak_memory(two_steps, device)
    compilers = mode.compiled and who == "seqgen" and device.type == "cpu"
    return {**first, "peak_bytes": None if compilers else memory}


def compared(actions: dict[Who, tuple[Action, float]], rounds: int, device: torch.device) -> Row:
    """Images a second of both by their medians, and seqgen's as a multiple of the textbook's.

    An action comes with the images that it counts for.
    """
    seconds = in_turns({who: action for who, (action, _) in actions.items()}, rounds, device)
    row: Row = {}
    for who, (_, images) in actions.items():
        median = statistics.median(seconds[who])
        row[who] = {
            "images": images,
            "median_seconds": median,
            "images_per_second": images / median,
            "best_images_per_second": images / min(seconds[who]),
            "seconds": seconds[who],
        }
    row["ratio"] = row["seqgen"]["images_per_second"] / row["textbook"]["images_per_second"]
    return row


def sampling(work: Workload, rounds: int) -> Row:
    """A sheet of SHEET exemplars, each with a context of its own if the model is conditional."""
    device = work.x.device
    noise = work.model.noise(SHEET, torch.Generator(device))
    context = None if work.context is None else random_images(work.recipe, SHEET).to(device)

    def draw() -> None:
        with torch.no_grad():
            work.model.sample(noise, context)

    return compared(
        {"textbook": (lambda: work.plain.sample(noise, context), SHEET), "seqgen": (draw, SHEET)},
        rounds,
        device,
    )


def nll(work: Workload, rounds: int) -> Row:
    """The importance-weighted bound with k = evaluate.importance_samples; images are whole ones, with all k samples.

    seqgen evaluates whole images. The textbook evaluates its batch with one sample at a time; it is given about
    as many (image, sample) pairs, and k of them count as one image.
    """
    k, batch = work.recipe.evaluate.importance_samples, len(work.x)
    images = max(1, 8 * batch // k)
    evaluations = max(1, round(images * k / batch))
    context = None if work.context is None else random_images(work.recipe, images).to(torch.uint8)
    x, concepts = random_images(work.recipe, images).to(torch.uint8), torch.zeros(images, dtype=torch.int64)
    held_out = HeldOut(x, context, concepts)

    def plainly() -> None:
        weights = []
        for _ in range(evaluations):
            noise = torch.randn(work.noise.shape, device=work.noise.device)
            weights.append(work.plain.log_weight(work.x, noise, work.context))
        torch.stack(weights).logsumexp(0).cpu()

    actions: dict[Who, tuple[Action, float]] = {
        "textbook": (plainly, evaluations * batch / k),
        "seqgen": (lambda: importance_bounds(work.model, held_out, k, seed=0), images),
    }
    return {"k": k, **compared(actions, rounds, work.x.device)}


def measure(name: str, specification: Specification, batch: int, mode: Mode, rounds: int) -> Row:
    """One row. Sampling and NLL are seqgen's in float32 and eager, so only with a mode that is."""
    device = mode.enter()
    instructions = instructions_in_use(mode)
    say(
        f"{name}: batch {batch}, {mode.precision}{', compiled' if mode.compiled else ''}, kernels {instructions}"
    )
    row: Row = {
        "name": name,
        "recipe": specification.recipe,
        "settings": list(specification.settings),
        "batch": batch,
        "precision": mode.precision,
        "compiled": mode.compiled,
        "threads": mode.threads,
        "instructions": instructions,
        "rounds": rounds,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32 if device.type == "cuda" else None,
        "command": page.command(),
        "machine": page.machine(device),
        "commit": git_commit(),
        "code": code_digest(),
    }
    row["fresh"] = {who: in_fresh_process(fresh_steps, specification, batch, who, mode) for who in WHO}
    theirs, ours = (row["fresh"][who]["loss"] for who in WHO)
    _same("loss of the first step", theirs, ours, _AGREE[mode.precision])

    work = workload(specification, batch, device)
    _allow_tf32(False)
    check(work)
    mode.enter()
    say("  the same bounds; products")
    dtype = torch.bfloat16 if mode.precision == "bfloat16" else torch.float32
    row["peak"] = {mode.precision: matmul_peak(device, dtype, batch, 10 * rounds)}
    if mode.precision == "bfloat16":
        row["peak"]["float32"] = matmul_peak(device, torch.float32, batch, 10 * rounds)
    peak = max(row["peak"][mode.precision].values())
    flops, alone = products_of(training_step(work, "textbook", mode), 3 * rounds, device)
    if not mode.compiled and mode.precision != "bfloat16":
        say("  sampling")
        row["sampling"] = sampling(work, rounds)
        say("  NLL")
        row["nll"] = nll(work, rounds)
    say("  training")
    steps: dict[Who, tuple[Action, float]] = {who: (training_step(work, who, mode), batch) for who in WHO}
    row["training"] = compared(steps, rounds, device)
    for who in WHO:
        seconds = row["training"][who]["median_seconds"]
        row["training"][who] |= {
            "gflops": 1e-9 * flops / seconds,
            "share_of_peak": 1e-9 * flops / seconds / peak,
            "share_of_products_alone": alone / seconds,
        }
    row["training"] |= {"flops": flops, "products_alone_seconds": alone}
    if mode.compiled:
        first = row["fresh"]["seqgen"]["first_step_seconds"]
        row["compile_seconds"] = first - row["training"]["seqgen"]["median_seconds"]
    say(f"  training {row['training']['ratio']:.2f} times the textbook's")
    return row


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line names; every finished row is stored at once."""
    options = _options(arguments)
    section = _SECTION[options.device]
    if options.publish:
        rows.store(rows.read(options.publish), section, None)
        return
    mode, batch = mode_of(options)
    path = (options.out or page.RESULTS) / f"{section}.json"
    table = [row for row in rows.read(path) if row["code"] == code_digest()]
    for name in options.only:
        row = measure(name, SPECIFICATIONS[name], batch, mode, options.rounds)
        table = rows.merged(table, [row])
        rows.store(table, section, options.out)
    print(rows.tables(table))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SPECIFICATIONS), default=list(SPECIFICATIONS))
    add_mode(parser)
    parser.add_argument("--rounds", type=_positive, default=10, help="timings of which the median is taken")
    parser.add_argument("--out", type=Path, help="write there, and leave docs/performance.md alone")
    parser.add_argument("--publish", type=Path, help="measure nothing; publish this file, written with --out")
    return parser.parse_args(arguments)


def add_mode(parser: argparse.ArgumentParser) -> None:
    """The options that say how to compute."""
    parser.add_argument("--device", choices=list(_SECTION), default="cpu")
    parser.add_argument("--batch", type=_positive, help=f"images of a step; default {_BATCH}")
    parser.add_argument("--threads", type=_positive, help="default: 1 on a CPU, so that figures are a core's")
    parser.add_argument("--precision", choices=list(_AGREE), default="float32")
    parser.add_argument("--compile", action="store_true", help="seqgen's training as with train.compile=true")


def mode_of(options: argparse.Namespace) -> tuple[Mode, int]:
    """What the options of `add_mode` say, and the batch."""
    threads = options.threads or (1 if options.device == "cpu" else torch.get_num_threads())
    mode = Mode(options.device, options.precision, options.compile, threads)
    return mode, options.batch or _BATCH[options.device]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return number


if __name__ == "__main__":
    main()
