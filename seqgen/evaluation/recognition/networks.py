"""The two critics of samples: a prototypical network that recognises, an embedding in which drawings are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 28  # pixels of what a critic sees
FEATURES = 64  # 64 channels of one pixel: 28 -> 14 -> 7 -> 3 -> 1
_CHANNELS = 64
_AT_ONCE = 500  # images


class Conv4(nn.Module):
    """The encoder of Snell et al. 2017: forward(images [B,H,W], 0 to 1) -> features [B,64].

    Four blocks of a 3 x 3 convolution to 64 channels, batch norm, ReLU and 2 x 2 max-pooling, on 28 x 28 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for channels in (1, *[_CHANNELS] * 3):
            # What is largest before the ReLU is so after it: pooled first, a quarter is left to rectify.
            blocks += [nn.Conv2d(channels, _CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(_CHANNELS)]
            blocks += [nn.MaxPool2d(2), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster by a third

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(seen(images).unsqueeze(1).contiguous(memory_format=torch.channels_last)).flatten(1)


class Recogniser(nn.Module):
    """A prototypical network: forward(images [B,H,W]) -> features [B,64], of which the nearest is the same character.

    When it is asked, not trained, features are the mean over the image and the same moved by one pixel to each side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Conv4()

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return self.encoder(images)
        wide = functional.pad(seen(images), (1, 1, 1, 1))
        moved = [wide[:, y : y + SIDE, x : x + SIDE] for y, x in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
        return torch.stack([self.encoder(image) for image in moved]).mean(0)


class Embedding(nn.Module):
    """The space of SimCLR (Chen et al. 2020): Conv4, and in training the head that its loss sees.

    forward(images [B,H,W]) -> features [B,64], each standardised to mean 0 and standard deviation 1 over the drawings
    it was trained on (`standardise`), so that a distance has no arbitrary unit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Conv4()
        self.head = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES))
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        return (self.encoder(images) - self.mean) / self.deviation

    def project(self, images: Tensor) -> Tensor:
        """What the loss compares: [B,64] of length 1."""
        return functional.normalize(self.head(self.encoder(images)), dim=1)

    def standardise(self, images: Tensor) -> None:
        """Take each feature's unit from `images` uint8 [N,H,W]; one that never differs counts for nothing."""
        features = encode(self.encoder, images)
        deviation = features.std(0)
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.inf))


def seen(images: Tensor) -> Tensor:
    """`images` [B,H,W] as critics see them, [B,28,28]: other sizes are brought there by the mean over areas."""
    return images if images.shape[1:] == (SIDE, SIDE) else functional.adaptive_avg_pool2d(images, SIDE)


@torch.no_grad()
def encode(network: nn.Module, images: Tensor) -> Tensor:
    """The features of `images` uint8 [..., H,W] in {0, 1}, float32 [..., 64] on the CPU, in bounded memory."""
    network.eval()
    device = next(network.parameters()).device
    parts = images.flatten(0, -3).split(_AT_ONCE)
    features = torch.cat([network(part.to(device).float()).cpu() for part in parts])
    return features.unflatten(0, images.shape[:-2])
