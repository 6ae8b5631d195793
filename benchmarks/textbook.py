"""DRAW and the paper's model as a textbook writes them: the baseline of every speed figure, and an oracle.

Eager modules in a Python loop, nothing hoisted, nothing fused. Built from a seqgen model it has the same weights, so
that the same images and noise must give the same bound and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqgen.models.attention import AffineReader, AffineWriter, GaussianReader, GaussianWriter
from seqgen.models.canvas import GatedCanvas
from seqgen.models.generator import SequentialGenerator
from seqgen.models.posterior import EncoderPosterior, SharedPosterior
from seqgen.models.transition import LstmCell


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


def _start(model: SequentialGenerator) -> nn.ParameterDict:
    """The learned h_0, cell_0 and c_0."""
    names = ("h0", "cell0", "canvas0")
    return nn.ParameterDict({name: getattr(model, name).detach().clone() for name in names})


class TextbookDraw(nn.Module):
    """DRAW (Gregor et al. 2015): filter banks, error image, an encoder LSTM, an additive canvas of logits."""

    def __init__(self, model: SequentialGenerator) -> None:
        super().__init__()
        reader, writer, posterior = model.reader, model.writer, model.posterior
        assert isinstance(reader, GaussianReader)
        assert isinstance(writer, GaussianWriter)
        assert isinstance(posterior, EncoderPosterior)
        self.steps, self.latents = model.config.steps, model.config.latents
        self.height, self.width = model.height, model.width
        self.read_size, self.write_size = model.config.read_size, model.config.write_size
        self.read_head = _linear(reader.window.head)
        self.write_head = _linear(writer.window.head)
        self.patch = _linear(writer.sprite)
        self.encoder, self.decoder = _lstm(posterior.cell), _lstm(model.transition)  # type: ignore[arg-type]
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

    def forward(self, x: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """F of every image in nats, [B], from `x` [B,1,H,W] and `noise` [T,B,K]."""
        image, batch = x.squeeze(1), len(x)
        h, cell = self.start["h0"].expand(batch, -1), self.start["cell0"].expand(batch, -1)
        h_enc = cell_enc = torch.zeros(batch, self.encoder.hidden_size, device=x.device)
        canvas = self.start["canvas0"].view(1, 1, 1).expand(batch, self.height, self.width)
        kl = torch.zeros(batch, device=x.device)
        for t in range(self.steps):
            error = image - torch.sigmoid(canvas)
            r = torch.cat([self.read(image, h), self.read(error, h)], 1)
            h_enc, cell_enc = self.encoder(torch.cat([r, h], 1), (h_enc, cell_enc))
            mean, log_std = self.mean(h_enc), self.log_std(h_enc).clamp(-7, 3)
            z = mean + torch.exp(log_std) * noise[t]
            kl = kl + _kl(mean, log_std)
            h, cell = self.decoder(z, (h, cell))
            canvas = canvas + self.write(h)
        likelihood = F.binary_cross_entropy_with_logits(canvas, image, reduction="none")
        return kl + likelihood.sum((1, 2))


class TextbookSgm(nn.Module):
    """The paper's model: spatial transformers, a shared posterior, a CGRU canvas; given a context or not."""

    def __init__(self, model: SequentialGenerator) -> None:
        super().__init__()
        reader, writer, posterior, canvas = model.reader, model.writer, model.posterior, model.canvas
        assert isinstance(reader, AffineReader)
        assert isinstance(writer, AffineWriter)
        assert isinstance(posterior, SharedPosterior)
        assert isinstance(canvas, GatedCanvas)
        self.steps, self.channels = model.config.steps, model.config.canvas_channels
        self.height, self.width = model.height, model.width
        self.read_size, self.write_size = model.config.read_size, model.config.write_size
        self.read_head, self.write_head = _linear(reader.window), _linear(writer.window)
        self.sprite = _linear(writer.sprite)
        self.context_head = None
        if model.context_reader is not None:
            self.context_head = _linear(model.context_reader.window)  # type: ignore[arg-type]
        latents = model.config.latents
        self.inner = _linear(posterior.inner)
        self.mean = _linear(posterior.head, slice(0, latents))
        self.log_std = _linear(posterior.head, slice(latents, None))
        self.decoder = _lstm(model.transition)  # type: ignore[arg-type]
        channels = self.channels
        self.update, self.reset, self.candidate = (
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)
        )
        self.observation = nn.Conv2d(channels, 1, 1)
        with torch.no_grad():
            for conv, rows in ((self.update, slice(0, channels)), (self.reset, slice(channels, None))):
                conv.weight.copy_(canvas.gates.weight[rows])
                conv.bias.copy_(canvas.gates.bias[rows])  # type: ignore[union-attr, index]
            self.candidate.load_state_dict(canvas.candidate.state_dict())
            self.observation.load_state_dict(model.observation.conv.state_dict())  # type: ignore[union-attr]
        self.start = _start(model)

    def transform(self, image: Tensor, parameters: Tensor, height: int, width: int) -> Tensor:
        """ST(x, lambda) (Jaderberg et al. 2015)."""
        shape = [len(image), image.shape[1], height, width]
        grid = F.affine_grid(parameters.view(-1, 2, 3), shape, align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    def forward(self, x: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """F of every image in nats, [B], from `x`, `context` [B,1,H,W] and `noise` [T,B,K]."""
        batch, size = len(x), self.read_size
        h, cell = self.start["h0"].expand(batch, -1), self.start["cell0"].expand(batch, -1)
        canvas = self.start["canvas0"].view(1, -1, 1, 1).expand(batch, -1, self.height, self.width)
        kl = torch.zeros(batch, device=x.device)
        for t in range(self.steps):
            r = self.transform(x, self.read_head(h), size, size).flatten(1)
            inner = torch.tanh(self.inner(torch.cat([r, h], 1)))
            mean, log_std = self.mean(inner), self.log_std(inner).clamp(-7, 3)
            z = mean + torch.exp(log_std) * noise[t]
            kl = kl + _kl(mean, log_std)
            inputs = z
            if self.context_head is not None and context is not None:
                v = self.transform(context, self.context_head(h), size, size).flatten(1)
                inputs = torch.cat([z, v], 1)
            h, cell = self.decoder(inputs, (h, cell))
            sprite = self.sprite(h).view(-1, self.channels, self.write_size, self.write_size)
            s = canvas + self.transform(sprite, self.write_head(h), self.height, self.width)
            update, reset = torch.sigmoid(self.update(s)), torch.sigmoid(self.reset(s))
            canvas = update * s + (1 - update) * torch.tanh(self.candidate(reset * s))
        logits = self.observation(canvas)
        likelihood = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return kl + likelihood.sum((1, 2, 3))


def textbook(model: SequentialGenerator) -> TextbookDraw | TextbookSgm:
    """The textbook's model of the same kind, with copies of `model`'s weights."""
    return TextbookDraw(model) if isinstance(model.reader, GaussianReader) else TextbookSgm(model)
