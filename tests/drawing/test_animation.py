"""The animation: every step a frame, crisp, the windows where they are, the same bytes, never too large."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from seqgen.data.batches import generator_at
from seqgen.drawing import animation
from seqgen.drawing.galleries import tiles
from seqgen.drawing.pictures import FRAME, WRITE
from seqgen.evaluation.bounds import HeldOut, first_of_each, subset
from seqgen.models import SequentialModel, build
from seqgen.settings import ModelConfig

SIDE = 12


def model(attention: str = "gaussian", steps: int = 3) -> SequentialModel:
    torch.manual_seed(0)
    sizes = {} if attention == "full" else {"read_size": 3, "write_size": 3}
    config = ModelConfig(
        steps=steps,
        latents=2,
        hidden=8,
        attention=attention,
        canvas="additive",
        conditional=True,
        **sizes,
    )
    return build(config, SIDE, SIDE, 0.3).eval()


def held_out() -> HeldOut:
    x = torch.randint(0, 2, (60, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    return HeldOut(x, x.roll(20, 0), torch.arange(60) % 20)


def frames(content: bytes) -> list[tuple[np.ndarray, int]]:
    """Every frame as RGB, and for how many milliseconds it is shown."""
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.info["loop"]) == ("GIF", 0)
        result = []
        for number in range(picture.n_frames):
            picture.seek(number)
            result.append((np.asarray(picture.convert("RGB")).astype(int), picture.info["duration"]))
    return result


def has(frame: np.ndarray, colour: tuple[int, int, int], count: int = 1) -> bool:
    return int((frame == np.array(colour)).all(-1).sum()) >= count


def test_every_step_is_a_frame_with_its_windows_and_the_last_is_the_drawing_alone():
    network, data = model(), held_out()
    content = animation.animation(network, data, "a set", 0)
    assert content == animation.animation(network, data, "a set", 0)
    assert content != animation.animation(network, data, "a set", 1)
    shown = frames(content)
    assert [duration for _, duration in shown] == [500, 500, 500, 3000]
    below_legend = 95
    assert all(has(frame[below_legend:], WRITE, 200) for frame, _ in shown[:-1])
    assert not has(shown[-1][0][below_legend:], WRITE)
    assert all(has(frame, FRAME, 1000) for frame, _ in shown)

    first = first_of_each(data.concepts)
    context = data.x[first[subset(20, 10, 0, "exemplars")]].float()
    noise = network.noise(40, generator_at(torch.device("cpu"), 0, "animation"))
    trace = network.trace(noise, None, context.repeat(4, 1, 1, 1))
    last, side = shown[-1][0], 84
    (row, column), *_ = np.argwhere(
        (last == FRAME).all(-1)
    )  # the frame's corner, 4 pixels from the first tile
    for number, image in enumerate(tiles(context)):
        left = column + 4 + 88 * number
        assert (last[row + 4 : row + 4 + side, left : left + side] == np.asarray(image)).all()
    for number, image in enumerate(tiles(trace.canvas[-1])):
        top, left = row + 4 + 10 + 88 * (1 + number // 10), column + 4 + 88 * (number % 10)
        error = last[top : top + side, left : left + side] - np.asarray(image).astype(int)
        assert np.abs(error).max() <= 6  # the palette has 32 levels of grey


def test_without_windows_there_is_none_in_the_picture():
    shown = frames(animation.animation(model("full"), held_out(), "a set", 0))
    assert len(shown) == 3  # the last step and the drawing alone look the same, and are one frame
    assert not any(has(frame, WRITE) for frame, _ in shown)


def test_of_many_steps_twenty_are_shown_and_no_more_than_fit(monkeypatch):
    network, data = model(steps=30), held_out()
    whole = animation.animation(network, data, "a set", 0, columns=3)
    assert len(frames(whole)) == 21
    assert sum(duration for _, duration in frames(whole)) == 20 * 200 + 3000
    monkeypatch.setattr(animation, "LIMIT", len(whole) - 1)
    fewer = animation.animation(network, data, "a set", 0, columns=3)
    assert len(fewer) < len(whole)
    rows = 84 + 4
    assert frames(fewer)[0][0].shape[0] == frames(whole)[0][0].shape[0] - 2 * rows
