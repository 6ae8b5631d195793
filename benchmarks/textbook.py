"""DRAW, the paper's model and the quickstart's as a textbook writes them: an oracle, and the baseline of every figure.

Eager modules in a Python loop, nothing hoisted, nothing fused. Built from a seqgen model it has the same weights, so
that the same images and noise must give the same bound and gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqgen.models import SequentialModel
from seqgen.models.attention.gaussian import GaussianReader, GaussianWriter
from seqgen.models.attention.spatial_transformer import AffineReader, AffineWriter
from seqgen.models.canvases import GatedCanvas
from seqgen.models.contexts import MeanContext
from seqgen.models.layers import LstmCell
from seqgen.models.observations import ConvObservation
from seqgen.models.posteriors import EncoderPosterior, SharedPosterior
from seqgen.models.priors import StandardNormal
from seqgen.models.steps.sequential import SequentialStep
from seqgen.models.transitions import Lstm


def _linear(source: nn.Linear, rows: slice = slice(None)) -> nn.Linear:
    """A copy of some outputs of a linear map."""
    layer = nn.Linear(source.in_features, len(range(source.out_features)[rows]))
    with torch.no_grad():
        layer.weight.copy_(source.weight[rows])
        layer.bias.copy_(source.bias[rows])
    return layer


def _lstm(source: LstmCell) -> nn.LSTMCell:
    """PyTorch's cell with the same weights."""
    hidden = source.linear.out_features // 4
    inputs = source.linear.in_features - hidden
    cell = nn.LSTMCell(inputs, hidden)
    with torch.no_grad():
        cell.weight_ih.copy_(source.linear.weight[:, :inputs])
        cell.weight_hh.copy_(source.linear.weight[:, inputs:])
        cell.bias_ih.copy_(source.linear.bias)
        cell.bias_hh.zero_()
    return cell


def _kl(mean: Tensor, log_std: Tensor) -> Tensor:
    return 0.5 * (mean**2 + torch.exp(2 * log_std) - 1 - 2 * log_std).sum(1)


def _cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x) of every image."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))


def _start(model: SequentialModel) -> nn.ParameterDict:
    step, transition = _step(model), _transition(model)
    start = {"h0": transition.h0, "cell0": transition.cell0, "canvas0": step.canvas0}
    return nn.ParameterDict({name: value.detach().clone() for name, value in start.items()})


class Textbook(nn.Module):
    """What all have in common: three things to do with T steps. One step under q leaves (z, mean, log sigma)."""

    height: int
    width: int
    start: nn.ParameterDict

    def first(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """h_0, cell_0 and c_0 for a batch."""
        canvas = self.start["canvas0"].view(1, -1, 1, 1).expand(batch, -1, self.height, self.width)
        return self.start["h0"].expand(batch, -1), self.start["cell0"].expand(batch, -1), canvas

    def infer(
        self, x: Tensor, noise: Tensor, context: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """The T steps under the posterior of `x` [B,1,H,W], and the logits [B,1,H,W]."""
        raise NotImplementedError

    def generate(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Logits [B,1,H,W] from `z` [T,B,K]."""
        raise NotImplementedError

    def forward(self, x: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """F of every image in nats, [B], from `x`, `context` [B,1,H,W] and `noise` [T,B,K]."""
        steps, logits = self.infer(x, noise, context)
        kl = torch.zeros(len(x), device=x.device)
        for _, mean, log_std in steps:
            kl = kl + _kl(mean, log_std)
        return kl + _cross_entropy(logits, x)

    @torch.no_grad()
    def log_weight(self, x: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | z) + log p(z) - log q(z | x) at one posterior sample of every image, [B] in nats."""
        steps, logits = self.infer(x, noise, context)
        log_ratio = torch.zeros(len(x), device=x.device)
        for epsilon, (z, _, log_std) in zip(noise, steps, strict=True):
            log_ratio = log_ratio + (0.5 * (epsilon**2 - z**2) + log_std).sum(1)
        return log_ratio - _cross_entropy(logits, x)

    def importance_bound(self, x: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """L_k of every image, [B] in nats, one sample at a time; `noise` is [k,T,B,K]."""
        weights = torch.stack([self.log_weight(x, part, context) for part in noise])
        return weights.logsumexp(0) - math.log(len(noise))

    @torch.no_grad()
    def sample(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Means of p(x | z) [B,1,H,W] with z = `noise` [T,B,K] from the prior."""
        return torch.sigmoid(self.generate(noise, context))


class TextbookDraw(Textbook):
    """DRAW (Gregor et al. 2015): filter banks, error image, an encoder LSTM, an additive canvas of logits."""

    def __init__(self, model: SequentialModel) -> None:
        super().__init__()
        step = _step(model)
        reader, writer, posterior = step.reader, step.writer, step.posterior
        assert isinstance(reader, GaussianReader)
        assert isinstance(writer, GaussianWriter)
        assert isinstance(posterior, EncoderPosterior)
        self.steps, self.latents = model.config.steps, model.config.latents
        self.height, self.width = model.sizes.height, model.sizes.width
        self.read_size, self.write_size = model.config.read_size, model.config.write_size
        self.read_head = _linear(reader.window.head)
        self.write_head = _linear(writer.window.head)
        self.patch = _linear(writer.sprite)
        self.encoder, self.decoder = _lstm(posterior.cell), _lstm(_transition(model).cell)
        self.mean = _linear(posterior.head, slice(0, self.latents))
        self.log_std = _linear(posterior.head, slice(self.latents, None))
        self.start = _start(model)

    def filter_bank(self, parameters: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """F_X [B,P,W], F_Y [B,P,H] and gamma [B,1] (DRAW eqs. 19-26)."""
        g_x, g_y, log_variance, log_stride, log_gamma = parameters.chunk(5, 1)
        g_x = (self.width + 1) / 2 * (g_x + 1)
        g_y = (self.height + 1) / 2 * (g_y + 1)
        stride = (max(self.width, self.height) - 1) / (size - 1) * torch.exp(log_stride)
        steps = torch.arange(size, dtype=parameters.dtype, device=parameters.device) - (size - 1) / 2
        mu_x = (g_x + steps * stride).unsqueeze(2)
        mu_y = (g_y + steps * stride).unsqueeze(2)
        columns = torch.arange(1, self.width + 1, dtype=parameters.dtype, device=parameters.device)
        rows = torch.arange(1, self.height + 1, dtype=parameters.dtype, device=parameters.device)
        variance = torch.exp(log_variance).unsqueeze(2)
        f_x = torch.exp(-((columns - mu_x) ** 2) / (2 * variance))
        f_y = torch.exp(-((rows - mu_y) ** 2) / (2 * variance))
        f_x = f_x / (f_x.sum(2, keepdim=True) + 1e-8)
        f_y = f_y / (f_y.sum(2, keepdim=True) + 1e-8)
        return f_x, f_y, torch.exp(log_gamma)

    def read(self, image: Tensor, h: Tensor) -> Tensor:
        """gamma F_Y x F_X^T, [B,P*P] (DRAW eq. 27)."""
        f_x, f_y, gamma = self.filter_bank(self.read_head(h), self.read_size)
        return gamma * torch.bmm(torch.bmm(f_y, image), f_x.transpose(1, 2)).flatten(1)

    def write(self, h: Tensor) -> Tensor:
        """F_Y^T w F_X / gamma, [B,H,W] (DRAW eq. 29)."""
        patch = self.patch(h).view(-1, self.write_size, self.write_size)
        f_x, f_y, gamma = self.filter_bank(self.write_head(h), self.write_size)
        return torch.bmm(torch.bmm(f_y.transpose(1, 2), patch), f_x) / gamma.unsqueeze(2)

    def infer(
        self, x: Tensor, noise: Tensor, context: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """See the base."""
        image = x.squeeze(1)
        h, cell, canvas = self.first(len(x))
        canvas = canvas.squeeze(1)
        h_enc = cell_enc = torch.zeros(len(x), self.encoder.hidden_size, device=x.device)
        steps = []
        for t in range(self.steps):
            error = image - torch.sigmoid(canvas)
            r = torch.cat([self.read(image, h), self.read(error, h)], 1)
            h_enc, cell_enc = self.encoder(torch.cat([r, h], 1), (h_enc, cell_enc))
            mean, log_std = self.mean(h_enc), self.log_std(h_enc).clamp(-7, 3)
            z = mean + torch.exp(log_std) * noise[t]
            steps.append((z, mean, log_std))
            h, cell = self.decoder(z, (h, cell))
            canvas = canvas + self.write(h)
        return steps, canvas.unsqueeze(1)

    def generate(self, z: Tensor, context: Tensor | None) -> Tensor:
        """See the base."""
        h, cell, canvas = self.first(z.shape[1])
        canvas = canvas.squeeze(1)
        for t in range(self.steps):
            h, cell = self.decoder(z[t], (h, cell))
            canvas = canvas + self.write(h)
        return canvas.unsqueeze(1)


class _Transformers(Textbook):
    """What both models with spatial transformers have in common; given contexts or not."""

    def __init__(self, model: SequentialModel) -> None:
        super().__init__()
        step, config = _step(model), model.config
        reader, writer, observation = step.reader, step.writer, step.observation
        assert isinstance(reader, AffineReader)
        assert isinstance(writer, AffineWriter)
        assert isinstance(observation, ConvObservation)
        assert isinstance(step.prior, StandardNormal)
        self.steps, self.channels = config.steps, config.canvas_channels
        self.height, self.width = model.sizes.height, model.sizes.width
        self.read_size, self.write_size, self.samples = config.read_size, config.write_size, config.samples
        self.read_head, self.write_head = _linear(reader.window), _linear(writer.window)
        self.sprite = _linear(writer.sprite)
        self.context_head, self.infer_from_context = None, config.infer_from_context
        if step.context_reader is not None:
            assert isinstance(step.context_reader, AffineReader)
            assert isinstance(step.context, MeanContext)
            self.context_head = _linear(step.context_reader.window)
        self.bends = writer.copy is not None
        if writer.copy is not None:
            self.displacement, self.gate = _linear(writer.copy.displacement), _linear(writer.copy.gate)
            self.grid = config.copy_grid
        self.decoder = _lstm(_transition(model).cell)
        self.observation = nn.Conv2d(self.channels, 1, 1)
        self.observation.load_state_dict(observation.conv.state_dict())
        self.start = _start(model)
        self.gated = isinstance(step.canvas, GatedCanvas)
        if isinstance(step.canvas, GatedCanvas):
            channels = self.channels
            self.update, self.reset, self.candidate = (
                nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)
            )
            with torch.no_grad():
                for conv, rows in ((self.update, slice(0, channels)), (self.reset, slice(channels, None))):
                    conv.weight.copy_(step.canvas.gates.weight[rows])
                    conv.bias.copy_(step.canvas.gates.bias[rows])  # type: ignore[union-attr, index]
                self.candidate.load_state_dict(step.canvas.candidate.state_dict())

    def transform(self, image: Tensor, parameters: Tensor, height: int, width: int) -> Tensor:
        """ST(x, lambda) (Jaderberg et al. 2015)."""
        shape = [len(image), image.shape[1], height, width]
        grid = F.affine_grid(parameters.view(-1, 2, 3), shape, align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    def glimpse(self, image: Tensor, parameters: Tensor) -> Tensor:
        """What is read of `image` [B,C,H,W], each number the mean of its samples: [B,C*P*P]."""
        side = self.read_size * self.samples
        fine = self.transform(image, parameters, side, side)
        return F.avg_pool2d(fine, self.samples).flatten(1) if self.samples > 1 else fine.flatten(1)

    def read_context(self, context: Tensor | None, h: Tensor) -> Tensor | None:
        """v_t, the mean of the glimpses of the contexts [B,N,H,W] one by one, zero of none: [B,P*P]."""
        if self.context_head is None or context is None:
            return None
        parameters = self.context_head(h)
        seen = [self.glimpse(image.unsqueeze(1), parameters) for image in context.unbind(1)]
        return torch.stack(seen).mean(0) if seen else h.new_zeros(len(h), self.read_size**2)

    def bend(self, context: Tensor, h: Tensor) -> Tensor:
        """The mean of the contexts [B,N,H,W], each bent by a grid of displacements; gated by channel."""
        field = self.displacement(h).view(-1, 2, self.grid, self.grid)
        field = F.interpolate(field, (self.height, self.width), mode="bilinear", align_corners=True)
        still = torch.eye(2, 3, device=h.device).expand(len(h), 2, 3)
        points = F.affine_grid(still, [len(h), 1, self.height, self.width], align_corners=False)
        points = points + field.permute(0, 2, 3, 1)
        bent = [F.grid_sample(image.unsqueeze(1), points, align_corners=False) for image in context.unbind(1)]
        return self.gate(h).view(-1, self.channels, 1, 1) * torch.stack(bent).mean(0)

    def read(self, image: Tensor, h: Tensor, v: Tensor | None) -> Tensor:
        """What the posterior sees: the glimpse, and v_t where it is shown."""
        r = self.glimpse(image, self.read_head(h))
        return torch.cat([r, v], 1) if self.infer_from_context and v is not None else r

    def join(self, canvas: Tensor, written: Tensor) -> Tensor:
        """c + w or CGRU(c + w)."""
        s = canvas + written
        if not self.gated:
            return s
        update, reset = torch.sigmoid(self.update(s)), torch.sigmoid(self.reset(s))
        return update * s + (1 - update) * torch.tanh(self.candidate(reset * s))

    def draw(
        self, z: Tensor, v: Tensor | None, context: Tensor | None, h: Tensor, cell: Tensor, canvas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next h, cell and canvas from z_t [B,K], v_t and the contexts."""
        h, cell = self.decoder(z if v is None else torch.cat([z, v], 1), (h, cell))
        sprite = self.sprite(h).view(-1, self.channels, self.write_size, self.write_size)
        written = self.transform(sprite, self.write_head(h), self.height, self.width)
        if self.bends and context is not None and context.shape[1]:
            written = written + self.bend(context, h)
        return h, cell, self.join(canvas, written)

    def generate(self, z: Tensor, context: Tensor | None) -> Tensor:
        """See the base."""
        h, cell, canvas = self.first(z.shape[1])
        for t in range(self.steps):
            h, cell, canvas = self.draw(z[t], self.read_context(context, h), context, h, cell, canvas)
        return self.observation(canvas)


class TextbookSgm(_Transformers):
    """The paper's model: a shared posterior."""

    def __init__(self, model: SequentialModel) -> None:
        super().__init__(model)
        posterior = _step(model).posterior
        assert isinstance(posterior, SharedPosterior)
        latents = model.config.latents
        self.inner = _linear(posterior.inner)
        self.mean = _linear(posterior.head, slice(0, latents))
        self.log_std = _linear(posterior.head, slice(latents, None))

    def infer(
        self, x: Tensor, noise: Tensor, context: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """See the base."""
        h, cell, canvas = self.first(len(x))
        steps = []
        for t in range(self.steps):
            v = self.read_context(context, h)
            inner = torch.tanh(self.inner(torch.cat([self.read(x, h, v), h], 1)))
            mean, log_std = self.mean(inner), self.log_std(inner).clamp(-7, 3)
            z = mean + torch.exp(log_std) * noise[t]
            steps.append((z, mean, log_std))
            h, cell, canvas = self.draw(z, v, context, h, cell, canvas)
        return steps, self.observation(canvas)


class TextbookTransformerDraw(_Transformers):
    """DRAW with spatial transformers, as quickstart and one-shot train it: error image, an encoder LSTM."""

    def __init__(self, model: SequentialModel) -> None:
        super().__init__(model)
        posterior = _step(model).posterior
        assert isinstance(posterior, EncoderPosterior)
        latents = model.config.latents
        self.encoder = _lstm(posterior.cell)
        self.mean = _linear(posterior.head, slice(0, latents))
        self.log_std = _linear(posterior.head, slice(latents, None))

    def infer(
        self, x: Tensor, noise: Tensor, context: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """See the base."""
        h, cell, canvas = self.first(len(x))
        h_enc = cell_enc = torch.zeros(len(x), self.encoder.hidden_size, device=x.device)
        steps = []
        for t in range(self.steps):
            error = x - torch.sigmoid(self.observation(canvas))
            v = self.read_context(context, h)
            r = self.read(torch.cat([x, error], 1), h, v)
            h_enc, cell_enc = self.encoder(torch.cat([r, h], 1), (h_enc, cell_enc))
            mean, log_std = self.mean(h_enc), self.log_std(h_enc).clamp(-7, 3)
            z = mean + torch.exp(log_std) * noise[t]
            steps.append((z, mean, log_std))
            h, cell, canvas = self.draw(z, v, context, h, cell, canvas)
        return steps, self.observation(canvas)


def textbook(model: SequentialModel) -> Textbook:
    """The textbook's model of the same kind, with copies of `model`'s weights."""
    step = _step(model)
    if isinstance(step.reader, GaussianReader):
        return TextbookDraw(model)
    return (
        TextbookSgm(model) if isinstance(step.posterior, SharedPosterior) else TextbookTransformerDraw(model)
    )


def _step(model: SequentialModel) -> SequentialStep:
    assert isinstance(model.step, SequentialStep)
    return model.step


def _transition(model: SequentialModel) -> Lstm:
    transition = _step(model).transition
    assert isinstance(transition, Lstm)
    return transition
