"""What each slot of a model must do. A new kind is a class that does it, registered by name (seqgen.settings.register).

Every kind is made from its own settings and from the sizes that all slots of one model share. It is plain torch: it
knows nothing of steps that are compiled or computed again, of half precision, or of kernels. Shapes: B batch, T steps,
K latents, D size of h, Cc x H x W canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from seqgen.core.errors import BadInput
from seqgen.settings import register

__all__ = [
    "Attention",
    "Canvas",
    "Context",
    "Drawn",
    "Latents",
    "Make",
    "Memory",
    "Observation",
    "Posterior",
    "Prior",
    "Reader",
    "Sizes",
    "Step",
    "Transition",
    "Windows",
    "Writer",
    "register",
]

Make = Callable[..., Any]  # make(slot, *more) -> the kind that was chosen for a slot
Memory = tuple[Tensor, ...]  # what a recurrence keeps from step to step besides h, each [B,...]


class Sizes(NamedTuple):
    """What all slots of one model share; `mean` is the mean pixel of the training set, where a drawing starts."""

    height: int
    width: int
    steps: int
    latents: int
    hidden: int
    canvas_channels: int
    mean: float


class Reader(nn.Module):
    """Reads `features` numbers from an image: forward(prepared, h [B,D]) -> glimpse [B, features] (eqs. 4, 11).

    The posterior's reader may be `random`: it is given so many numbers more, uniform in [0,1), [B,random].
    """

    features: int
    random = 0

    def prepare(self, image: Tensor) -> Tensor:
        """What does not depend on h, from `image` [B,C,H,W]: computed once for all T steps."""
        return image

    def corners(self, prepared: Tensor, h: Tensor, *uniform: Tensor) -> Tensor | None:
        """The corners on the image, in pixels, of the J windows that `forward` reads through, [B,J,4,2] as (x, y).

        None if there is no window.
        """
        return None


class Writer(nn.Module):
    """Writes on the canvas, f_w: forward(h [B,D], x' [B,1,H,W] or None) -> [B,Cc,H,W] (sec. 3.2.3)."""

    def corners(self, h: Tensor, height: int, width: int) -> Tensor | None:
        """The corners of its J windows on the canvas in pixels, [B,J,4,2] as (x, y); None if there is no window."""
        return None


class Attention:
    """Slot `attention`: makes a model's readers and its writer."""

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        self.settings, self.sizes = settings, sizes

    def reader(self, channels: int) -> Reader:
        """What the posterior reads an image of `channels` with (eq. 11)."""
        raise NotImplementedError

    def context_reader(self) -> Reader:
        """What a context image x' [B,1,H,W] is read with (eq. 4)."""
        return self.reader(1)

    def writer(self) -> Writer:
        """What writes on the canvas."""
        raise NotImplementedError


class Context(nn.Module):
    """Slot `context`: forward(gathered, h_{t-1} [B,D]) -> the image x' [B,1,H,W] that is read at step t (eq. 4)."""

    fixed = False  # whether it is the same at every step

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__()

    def gather(self, contexts: Tensor) -> tuple[Tensor, ...]:
        """What does not depend on h, each [B,...], from `contexts` [B,N,H,W], N >= 1: once for all T steps."""
        raise NotImplementedError


class Canvas(nn.Module):
    """Slot `canvas`, f_c: forward(canvas, written), both [B,Cc,H,W] -> the next canvas (eq. 6)."""

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__()


class Transition(nn.Module):
    """Slot `transition`, f_h: forward(inputs, h, memory) -> the next h [B,D] and memory (eq. 5).

    `inputs` are z_t and, in a conditional model, v_t, [B,I_1], [B,I_2], ..., of `inputs` numbers together.
    """

    def __init__(self, settings: Any, sizes: Sizes, inputs: int) -> None:
        super().__init__()

    def start(self, batch: int) -> tuple[Tensor, Memory]:
        """h_0 [B,D] and the memory that goes with it."""
        raise NotImplementedError


class Prior(nn.Module):
    """Slot `prior`, p(z_t | .): forward(h_{t-1} [B,D], v_t [B,F] or None) -> its parameters, as the latents take them.

    `context` is F, the size of v_t, 0 in an unconditional model (eq. 3).
    """

    def __init__(self, settings: Any, sizes: Sizes, context: int, parameters: int) -> None:
        super().__init__()


class Posterior(nn.Module):
    """Slot `inference`, `q(z_t | z_{<t}, x)`: forward(glimpse [B,F], h_{t-1} [B,D], memory) -> [B, parameters], memory.

    The latents make of these numbers a distribution (eqs. 11-12).
    """

    def __init__(self, settings: Any, sizes: Sizes, glimpse: int, parameters: int) -> None:
        super().__init__()

    def start(self, h: Tensor) -> Memory:
        """The memory before the first step, for as many images as `h` [B,D] has; empty without a recurrence."""
        return ()


class Latents(nn.Module):
    """Slot `latent`: what z_t [B,K] is, and all that follows from it.

    q and p are tuples of tensors [B,K], of one step or stacked to [T,B,K]; what they mean is the latents' own affair.
    """

    size: int  # K, the numbers of one z_t
    parameters_of_q: int  # numbers from which `draw` makes q
    normal_noise = False  # whether the noise is N(0, I), and what is drawn from it differentiable in it

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__()

    def noise(self, steps: int, batch: int, generator: Generator) -> Tensor:
        """All that is random in the latents of a drawing: [T,B,K] on the generator's device."""
        raise NotImplementedError

    def draw(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """z [B,K] and q, from the posterior's `parameters` [B, parameters_of_q] and `noise` [B,K]."""
        raise NotImplementedError

    def draw_from_prior(self, p: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """z [B,K]."""
        raise NotImplementedError

    def prior_noise(self, p: tuple[Tensor, ...], z: Tensor) -> Tensor:
        """The noise from which `draw_from_prior` makes z; BadInput where z does not tell it."""
        raise BadInput(f"{type(self).__name__}: z does not tell its noise; take a model of Gaussian latents")

    def kl(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """KL[q || p], nats: [T,B]; where it has no closed form, log q(z) - log p(z), whose mean it is."""
        raise NotImplementedError

    def log_ratio(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """log p(z) - log q(z), nats: [T,B]."""
        raise NotImplementedError

    def score(self, z: Tensor, q: tuple[Tensor, ...]) -> Tensor | None:
        """log q of the parts of z that no gradient flows through, nats, [T,B]; None if there are none.

        z is held fixed in it: its gradient is that of the score function.
        """
        return None

    def distribution(self, parameters: tuple[Tensor, ...]) -> Distribution | None:
        """q, or p, over each of the K numbers as torch has it; None where it has none."""
        return None


class Observation(nn.Module):
    """Slot `observation`, p(x | f_o(c_T)): forward(canvas [B,Cc,H,W]) -> its parameters, images [B,_,H,W] (eq. 7)."""

    initial_canvas: float  # where c_0 starts
    pictures = "means of p(x | c)"  # what `mean` gives, for captions

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__()

    def log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x), nats: `x` [B,1,H,W] -> [B]."""
        raise NotImplementedError

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean image, [B,1,H,W], or what stands for it where it has no closed form."""
        raise NotImplementedError

    def beside_error(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x beside x - its mean (DRAW eq. 3): [B,2,H,W]."""
        raise NotImplementedError

    def distribution(self, parameters: Tensor) -> Distribution:
        """p(x | canvas) over events [1,H,W]."""
        raise NotImplementedError


class Windows(NamedTuple):
    """Where a step looked and wrote: corners [B,J,4,2] in pixels, None where there is no window or nothing was read."""

    read: Tensor | None
    write: Tensor | None
    context_read: Tensor | None


class Drawn(NamedTuple):
    """What one step leaves: z [B,K], and the parameters of the q (none under the prior) and p it was drawn from."""

    z: Tensor
    q: tuple[Tensor, ...]
    p: tuple[Tensor, ...]


class Step(nn.Module):
    """Slot `step`, one member's equations: forward(t, state, noise [B,N], observed) -> state, drawn.

    `state` is a named tuple of tensors (or of tuples of them) with a canvas, `drawn` is `Drawn`, `observed` what
    `observe` made of the images of a run. Of the model's settings, `config`, it takes those that are its own and sizes;
    `make(slot, *more)` gives it the kind that was chosen for one of its slots.
    """

    latents: Latents
    observation: Observation

    def __init__(self, config: Any, sizes: Sizes, make: Make) -> None:
        super().__init__()
        self.sizes = sizes

    def noise(self, steps: int, batch: int, generator: Generator) -> Tensor:
        """All that is random in a drawing, [T,B,N] on the generator's device: the latents' noise."""
        return self.latents.noise(steps, batch, generator)

    @property
    def normal_noise(self) -> bool:
        """Whether all its noise is N(0, I), and a drawing differentiable in it."""
        return self.latents.normal_noise

    def start(self, batch: int) -> Any:
        """The state before the first step."""
        raise NotImplementedError

    def observe(self, x: Tensor | None, context: Tensor | None) -> Any:
        """The images of a run, with what is read from them alike at every step done once; x is None under the prior.

        x itself, of a member that takes no context. Raises ValueError where one is missing or not wanted.
        """
        if context is not None:
            raise ValueError("an unconditional model takes no context images")
        return x

    def windows(self, before: Any, after: Any, noise: Tensor, observed: Any) -> Windows:
        """Where the step from `before` to `after` with `noise` [B,N] looked and wrote."""
        return Windows(None, None, None)
