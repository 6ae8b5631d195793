"""Bits-back coding (Townsend, Bird & Barber 2019) with a model's Gaussian latents.

One batch on a stack of bits: pop z_1, ..., z_T, each under q(z_t | z_{<t}, x), push x under p(x | z), push z under the
prior. Its length grows by log q(z | x) - log p(z) - log p(x | z), on average the free energy F (eq. 8). The decoder
walks back: pop z under the prior, pop x, push z_T, ..., z_1 under q.

z_t is the centre of a bucket in the prior's noise, z = mean_p + sigma_p e (`buckets`), so that the prior is fair bits
whether it is learned or not. Both sides must compute the same floats: both call the same functions, on batches of the
same size, on one thread.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import constriction
import numpy as np
import torch
from torch import Tensor

import seqgen
from seqgen import native
from seqgen.compression import buckets
from seqgen.compression.buckets import BITS, Stack
from seqgen.compression.container import Header, check, pack, unpack
from seqgen.core.errors import BadInput, NumericalError, OperationalError
from seqgen.core.files import canonical_json
from seqgen.models import SequentialModel
from seqgen.models.autoregression import AutoregressivePixels
from seqgen.models.latents import GaussianLatents
from seqgen.models.observations import BernoulliObservation
from seqgen.models.steps.layers import LayersStep
from seqgen.models.steps.sequential import SequentialStep
from seqgen.ops.operation import OPERATIONS

BATCH = 100
Advance = Callable[[int], None]
# What says which z is taken at step t, given mean and sigma of q in the prior's noise: its noise, all [B,K].
Choose = Callable[[int, Tensor, Tensor], Tensor]


def encode(
    model: SequentialModel, images: Tensor, *, batch: int = BATCH, advance: Advance | None = None
) -> bytes:
    """Compress `images` [N,1,H,W] in {0, 1} with an unconditional model, in float32 on the CPU.

    The first z takes bits that are not there yet: random ones, of which those that are used stand in the file. A batch
    is one image at first and at most `batch`, never larger than the bits so far can pay for, so that they stay few.
    Raises BadInput for a model that cannot and for images that do not fit it, NumericalError if p(x | z) is not finite.
    """
    _check_model(model)
    height, width = model.sizes.height, model.sizes.width
    if images.shape[1:] != (1, height, width) or not ((images == 0) | (images == 1)).all():
        raise BadInput(
            f"images {list(images.shape)}: the model compresses [N, 1, {height}, {width}] of zeros and ones"
        )
    with _exact():
        initial = _initial_words(model)
        stack = constriction.stream.stack.AnsCoder(initial)
        untouched = len(initial)
        done = 0
        while done < len(images):
            affordable = 32 * (stack.num_words() - untouched) // _bits_an_image(model)
            x = images[done : done + min(batch, max(1, affordable))].float()
            untouched = min(untouched, _push_images(stack, model, x))
            stack.encode_reverse(len(x) - 1, _sizes(batch))
            done += len(x)
            if advance:
                advance(len(x))
        header = Header(
            seqgen=seqgen.__version__,
            model=_digest(model),
            height=height,
            width=width,
            count=len(images),
            batch=batch,
            initial_words=len(initial) - untouched,
            floats=_floats(model, batch),
        )
        return pack(header, stack.get_compressed()[untouched:])


def decode(model: SequentialModel, content: bytes, advance: Advance | None = None) -> Tensor:
    """The images that `encode` was given, uint8 [N,1,H,W].

    Raises BadInput for a file of another model, another torch or another machine's floats, OperationalError for one
    that was altered, and where the bits that are left are not those that were there at first.
    """
    _check_model(model)
    header, words = unpack(content)
    with _exact():
        check(header, _digest(model), _floats(model, header.batch))
        stack = constriction.stream.stack.AnsCoder(words)
        batches: list[Tensor] = []
        missing = header.count
        while missing > 0:
            size = stack.decode(_sizes(header.batch)) + 1
            batches.insert(0, _pop_images(stack, model, size).byte())
            missing -= size
            if advance:
                advance(size)
        initial = _initial_words(model)
        if missing or not np.array_equal(
            stack.get_compressed(), initial[len(initial) - header.initial_words :]
        ):
            raise OperationalError(
                "compressed images: decoding does not end with the bits that encoding began with, "
                "so the images are wrong; decode where they were encoded"
            )
    empty = torch.zeros(0, 1, header.height, header.width, dtype=torch.uint8)
    return torch.cat([empty, *batches])


def _push_images(stack: Stack, model: SequentialModel, x: Tensor) -> int:
    """Push a batch [B,1,H,W]; how many words at the bottom of the stack it left alone."""
    chosen: list[Tensor] = []

    def draw(_: int, mean: Tensor, std: Tensor) -> Tensor:
        chosen.append(buckets.pop(stack, mean, std))
        return buckets.centres(chosen[-1])

    _walk(model, x, draw)
    untouched = max(0, stack.num_words() - 2)  # the two on top are the coder's state
    bucket = torch.stack(chosen)
    buckets.push_pixels(stack, x, _probability(model, bucket))
    buckets.push_under_prior(stack, bucket)
    return untouched


def _pop_images(stack: Stack, model: SequentialModel, size: int) -> Tensor:
    """Undo `_push_images` of `size` images."""
    bucket = buckets.pop_from_prior(stack, model.config.steps, size, model.config.latents)
    x = buckets.pop_pixels(stack, _probability(model, bucket))
    posterior: list[tuple[Tensor, Tensor]] = []

    def follow(t: int, mean: Tensor, std: Tensor) -> Tensor:
        posterior.append((mean, std))
        return buckets.centres(bucket[t])

    _walk(model, x, follow)
    for of_step, (mean, std) in zip(reversed(bucket), reversed(posterior), strict=True):
        buckets.push(stack, of_step, mean, std)
    return x


def _walk(model: SequentialModel, x: Tensor, choose: Choose) -> None:
    """Walk through the steps with the posterior of x, at each z_t what `choose` says.

    A step draws z = mean + sigma noise: it is asked twice, without noise for q and p, then with the noise that gives z.
    """
    step, latents = model.step, model.step.latents
    observed, state = step.observe(x, None), step.start(len(x))
    silence = x.new_zeros(len(x), model.config.latents)
    for t in range(model.config.steps):
        _, drawn = step(t, state, silence, observed)
        mean, log_std = drawn.q
        prior_mean, prior_log_std = drawn.p or (silence, silence)
        of_noise = (mean - prior_mean).double() / prior_log_std.double().exp()
        noise = choose(t, of_noise, (log_std - prior_log_std).double().exp())
        z = latents.draw_from_prior(drawn.p, noise)
        state, _ = step(t, state, (z - mean) / log_std.exp(), observed)


def _probability(model: SequentialModel, bucket: Tensor) -> Tensor:
    """p(x = 1 | z) of every pixel, [B,1,H,W], from the buckets [T,B,K].

    Encoder and decoder both run the model as the prior does, so that it is the same to the last bit.
    """
    probability = model.decode(buckets.centres(bucket)).mean
    if not probability.isfinite().all():
        raise NumericalError("p(x | z) is not finite; train again")
    return probability


def _check_model(model: SequentialModel) -> None:
    step = model.step
    if not (
        isinstance(step, SequentialStep | LayersStep)
        and isinstance(step.latents, GaussianLatents)
        and isinstance(step.observation, BernoulliObservation)
        and not isinstance(step.observation, AutoregressivePixels)
    ):
        raise BadInput(
            "compression needs the sequential step or layers, Gaussian latents and independent Bernoulli pixels; this "
            f"model has {type(step).__name__}, {type(step.latents).__name__} and {type(step.observation).__name__}"
        )
    if model.noise(1, torch.Generator()).shape[2] != step.latents.size:
        raise BadInput("model.attention=random: compression codes no random windows; take another attention")
    if model.config.conditional:
        raise BadInput(
            "model.conditional=true: compression does not code contexts; take an unconditional model"
        )
    weights = next(model.parameters())
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        raise BadInput(
            f"compression computes in float32 on the CPU; this model is {weights.dtype} on {weights.device}"
        )


def _initial_words(model: SequentialModel) -> np.ndarray:
    """Random bits for the first image, twice what its z takes on average, uint32; the same for all."""
    words = np.random.PCG64(0).random_raw(_bits_an_image(model) // 32 + 32).view(np.uint32)
    words[-1] |= 1  # no word on top is zero
    return words


def _bits_an_image(model: SequentialModel) -> int:
    """More than the z of an image take from the stack on average: KL[q || p] less is popped than is pushed."""
    return model.config.steps * model.config.latents * BITS


def _sizes(batch: int) -> Any:
    """Sizes of batches less 1, all alike, below `batch`; of one size only there is no such distribution."""
    return constriction.stream.model.Uniform(max(batch, 2))


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """One thread, as sums depend on their number; no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _digest(model: SequentialModel) -> str:
    """Of settings, sizes and weights: 16 hexadecimal digits."""
    digest = hashlib.sha256(canonical_json(model.config.model_dump(mode="json")).encode())
    digest.update(canonical_json(model.sizes).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _floats(model: SequentialModel, batch: int) -> dict[str, Any]:
    """What the floats of this process depend on, and a digest of q and p for one and for `batch` random images."""
    digest = hashlib.sha256()

    def look(_: int, mean: Tensor, std: Tensor) -> Tensor:
        digest.update(mean.numpy().tobytes() + std.numpy().tobytes())
        return torch.zeros(mean.shape)

    generator = torch.Generator().manual_seed(0)
    for size in (1, batch):
        x = torch.rand(size, 1, model.sizes.height, model.sizes.width, generator=generator).round()
        _walk(model, x, look)
        digest.update(model.decode(model.noise(size, generator)).mean.numpy().tobytes())
    return {
        "torch": torch.__version__,
        "constriction": version("constriction"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": sorted(name for name in OPERATIONS if native.available(name)),
        "threads": torch.get_num_threads(),
        "digest": digest.hexdigest()[:16],
    }
