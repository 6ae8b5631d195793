"""The composited VAE, CST-VAE (Huang & Murphy 2015, arXiv:1511.06362): an image is T layers, one upon another.

Step t adds the layer behind those of the steps before it. With one step, and a mask of ones, it is the paper's ST-VAE.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqgen import ops
from seqgen.models.attention.forms import SQUARE, pixels
from seqgen.models.contracts import Drawn, Make, Observation, Sizes, Step, Windows
from seqgen.models.latents import GaussianLatents
from seqgen.models.layers import Linear, WindowHead
from seqgen.models.observations import logit
from seqgen.settings import KindSettings

# A pose is (log size, x, y), x and y in [-1, 1] on the image. At 0, the canonical one, the sprite is in the middle and
# each of its pixels has the size of one of the image.
_POSE = 3


class State(NamedTuple):
    """What one step hands to the next: the layers so far, [B,2,H,W], and the pose [B,3] of the last.

    The canvas is the image so far and the transmittance, the share of what is behind that shows.
    """

    canvas: Tensor
    pose: Tensor


class CompositedStep(Step):
    """One layer: where it lies, a pose around the canonical one, and what it is, a content of K numbers, N(0, I).

    L, M = decoder(content), in (0, 1), both warped to the pose (L = M = 0 beyond the sprite);
    image += transmittance M L; transmittance *= 1 - M.
    q(pose) sees x beside the canvas, q(content | pose) what of both lies within the pose.
    """

    p_log_std: Tensor
    own_size: Tensor

    def __init__(self, config: Any, sizes: Sizes, make: Make) -> None:
        super().__init__(config, sizes, make)
        self.side, self.contents = config.sprite_size, sizes.latents
        hidden, pixels = sizes.hidden, self.side**2
        self.latents = GaussianLatents(KindSettings(), sizes._replace(latents=_POSE + self.contents))
        self.observation: Observation = make("observation")
        pose_log_std = [math.log(sd) for sd in (config.scale_sd, config.shift_sd, config.shift_sd)]
        p_log_std = torch.tensor([*pose_log_std, *self.contents * [0.0]])
        self.register_buffer("p_log_std", p_log_std, persistent=False)
        own_size = self.side / torch.tensor([sizes.width, sizes.height])
        self.register_buffer("own_size", own_size, persistent=False)
        self.pose = _pose_network(sizes, [log_std - 1 for log_std in pose_log_std])
        self.content = nn.Sequential(
            nn.Flatten(),
            *(Linear(3 * pixels, hidden), nn.ReLU()),
            *(Linear(hidden, hidden), nn.ReLU()),
            Linear(hidden, 2 * self.contents),
        )
        to_sprite = Linear(hidden, 2 * pixels)
        with torch.no_grad():  # a mask shows little at first, so that light reaches every layer
            to_sprite.bias[pixels:] = logit(sizes.mean)
        self.decoder = nn.Sequential(
            *(Linear(self.contents, hidden), nn.ReLU()), to_sprite, nn.Unflatten(1, (2, self.side, self.side))
        )

    def start(self, batch: int) -> State:
        """Nothing is in front of the background."""
        size = self.sizes.height, self.sizes.width
        dark, clear = self.own_size.new_zeros(batch, 1, *size), self.own_size.new_ones(batch, 1, *size)
        return State(torch.cat([dark, clear], 1), self.own_size.new_zeros(batch, _POSE))

    def forward(self, t: int, state: State, noise: Tensor, observed: Tensor | None) -> tuple[State, Drawn]:
        """The equations of one layer; they are the same at every t."""
        p = torch.zeros_like(noise), self.p_log_std.expand_as(noise)
        q: tuple[Tensor, ...] = ()
        if observed is None:
            z = self.latents.draw_from_prior(p, noise)
            pose, content = self._parts(z)
        else:
            of_pose, of_content = self._parts(noise)
            seen = torch.cat([observed, state.canvas], 1)
            pose, q_of_pose = self.latents.draw(self.pose(seen), of_pose)
            patch = ops.axis_aligned_sample(seen, self._from_sprite(pose), self.side, self.side)
            content, q_of_content = self.latents.draw(self.content(patch), of_content)
            z = torch.cat([pose, content], 1)
            q = tuple(torch.cat(both, 1) for both in zip(q_of_pose, q_of_content, strict=True))
        return State(self._behind(state.canvas, pose, content), pose), Drawn(z, q, p)

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Pose and content."""
        pose, content = z.split([_POSE, self.contents], 1)
        return pose, content

    def _behind(self, canvas: Tensor, pose: Tensor, content: Tensor) -> Tensor:
        """The canvas with one layer more, behind the others."""
        sprite = self.decoder(content).sigmoid()
        warped = ops.axis_aligned_sample(sprite, self._to_sprite(pose), self.sizes.height, self.sizes.width)
        layer, mask = warped.chunk(2, 1)
        image, transmittance = canvas.chunk(2, 1)
        return torch.cat([image + transmittance * mask * layer, transmittance * (1 - mask)], 1)

    def _from_sprite(self, pose: Tensor) -> Tensor:
        """The upright window [B,4] from the sprite's coordinates to the image's."""
        return torch.cat(self._box(pose), 1)

    def _to_sprite(self, pose: Tensor) -> Tensor:
        """Its inverse."""
        size, middle = self._box(pose)
        return torch.cat([1 / size, -middle / size], 1)

    def _box(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Half the sides of the sprite on the image and its middle, (x, y) in [-1, 1], [B,2] each."""
        return self.own_size * pose[:, :1].exp(), pose[:, 1:]

    def windows(self, before: State, after: State, noise: Tensor, observed: Tensor | None) -> Windows:
        """The sprite's border on the image, [B,1,4,2]; what lies within is what was read for its content."""
        size, middle = (part[:, None, None] for part in self._box(after.pose))
        points = SQUARE.to(size) * size + middle
        corners = pixels(points, self.sizes.height, self.sizes.width)
        return Windows(None if observed is None else corners, corners, None)


def _pose_network(sizes: Sizes, log_std: list[float]) -> nn.Module:
    """[B,3,H,W] -> mean and log sigma of the pose, [B,6]; near (0, `log_std`) at first.

    Coarse, but with its places kept to the end: where things are is what is asked.
    """
    places = math.ceil(sizes.height / 8) * math.ceil(sizes.width / 8)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=4, padding=2), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
        *(Linear(32 * places, sizes.hidden), nn.ReLU()),
        WindowHead(sizes.hidden, [*_POSE * [0.0], *log_std]),
    )
