"""Forms of windows, several at once, and those that follow the error or chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgen import ops
from seqgen.models import build, load_model, save_model
from seqgen.models.attention.error import ErrorReader
from seqgen.models.attention.forms import AxisAlignedForm, Form, SimilarityForm
from seqgen.models.attention.gaussian import GaussianReader, GaussianWriter
from seqgen.models.attention.randomised import RandomReader
from seqgen.models.attention.spatial_transformer import AffineReader, AffineWriter
from seqgen.models.contracts import Sizes
from seqgen.settings import ModelConfig
from seqgen.settings.catalogue import window_places
from tests.double_loop import bilinear_double_loop

HIDDEN = 6
KINDS = [
    {"attention": "similarity"},
    {"attention": "axis-aligned"},
    {"attention": "spatial-transformer", "windows": 2},
    {"attention": "gaussian", "windows": 2},
    {"attention": "error", "error_image": True},
    {"attention": "random"},
]


def sizes(height: int, width: int, channels: int = 1) -> Sizes:
    return Sizes(height, width, 1, 1, HIDDEN, channels, 0.5)


def loud(module):
    """With windows that differ from image to image and from each other."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "window" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def similar(numbers: list[float], height: int, width: int) -> np.ndarray:
    """Pixels turned by the angle and scaled about the middle, then shifted, as a matrix of coordinates in [-1,1]."""
    scale, angle, shift_x, shift_y = numbers
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    half = np.diag([width / 2, height / 2])
    return np.column_stack([np.linalg.inv(half) @ turn @ half, [shift_x, shift_y]])


def upright(numbers: list[float], height: int, width: int) -> np.ndarray:
    scale_x, scale_y, shift_x, shift_y = numbers
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y]])


@pytest.mark.parametrize(("form", "matrix"), [(SimilarityForm, similar), (AxisAlignedForm, upright)])
def test_reading_and_writing_are_the_double_sum_at_the_forms_matrix(form, matrix):
    torch.manual_seed(0)
    of, h, image = sizes(8, 11), torch.randn(3, HIDDEN), torch.rand(3, 1, 8, 11)
    reader, writer = loud(AffineReader(of, form(of), 4, 1)), loud(AffineWriter(of, form(of), 5))
    with torch.no_grad():
        glimpses, windows = reader(image, h).view(3, 4, 4), reader.window(h).double()
        written, places = writer(h)[:, 0], writer.window(h).double()
        sprites = writer.sprite(h).view(3, 5, 5).numpy()
    for n in range(3):
        read = bilinear_double_loop(image[n, 0].numpy(), matrix(windows[n].tolist(), 8, 11), 4, 4)
        np.testing.assert_allclose(glimpses[n], read, atol=1e-5)
        wrote = bilinear_double_loop(sprites[n], matrix(places[n].tolist(), 8, 11), 8, 11)
        np.testing.assert_allclose(written[n], wrote, atol=1e-5)


def results(read, *inputs: Tensor) -> list[Tensor]:
    """What is read, and the gradients of `inputs`."""
    leaves = [part.clone().requires_grad_() for part in inputs]
    out = read(*leaves)
    torch.manual_seed(1)
    out.backward(torch.randn_like(out))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("windows", ["the whole image", "anywhere", "far outside"])
@pytest.mark.parametrize(("image", "to"), [((5, 1, 28, 28), 12), ((5, 4, 12, 12), 28), ((5, 2, 8, 8), 8)])
def test_the_two_products_are_the_general_path_and_have_its_gradient(windows: str, image: tuple, to: int):
    torch.manual_seed(0)
    window = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(5, 1).double()  # on which points lie on pixels
    if windows != "the whole image":
        window += 0.4 * torch.randn(5, 4)
    if windows == "far outside":
        window[:, 2:] += 9
    x = torch.randn(image).double()
    products = results(lambda x, w: ops.axis_aligned_sample(x, w, to, to), x, window)
    general = results(lambda x, w: ops.affine_sample(x, ops.axis_aligned_matrix(w), to, to), x, window)
    for one, other in zip(products, general, strict=True):
        torch.testing.assert_close(one, other)


def test_a_similarity_reaches_only_what_an_affine_map_does_and_starts_as_it():
    of, h, image = sizes(9, 9), torch.zeros(2, HIDDEN), torch.rand(2, 1, 9, 9)
    same = [AffineReader(of, form(of), 5, 1)(image, h) for form in (Form, SimilarityForm, AxisAlignedForm)]
    torch.testing.assert_close(same[1], same[0])
    torch.testing.assert_close(same[2], same[0])


def of_one(several, one, window: int, count: int):
    """`one`, a reader or writer of one window, with the weights of that window of `several`."""
    weights = {
        name: part if name.startswith("copy") else part.chunk(count)[window]
        for name, part in several.state_dict().items()
    }
    one.load_state_dict(weights)
    return one


@pytest.mark.parametrize("form", [Form, SimilarityForm, AxisAlignedForm, None], ids=str)
def test_several_windows_are_glimpses_side_by_side_and_a_sum_of_sprites(form):
    torch.manual_seed(0)
    of, h, image = sizes(9, 9, 2), torch.randn(4, HIDDEN), torch.rand(4, 2, 9, 9)

    def reader(count: int):
        if form is None:
            return GaussianReader(of, 3, 2, count)
        return AffineReader(of, form(of), 3, 2, samples=2, windows=count)

    def writer(count: int):
        return GaussianWriter(of, 4, count) if form is None else AffineWriter(of, form(of), 4, count)

    read, write = loud(reader(3)), loud(writer(3))
    glimpses = [of_one(read, reader(1), each, 3)(image, h) for each in range(3)]
    assert read.features == 3 * 2 * 9
    torch.testing.assert_close(read(image, h), torch.cat(glimpses, 1))
    sprites = [of_one(write, writer(1), each, 3)(h) for each in range(3)]
    torch.testing.assert_close(write(h), sum(sprites))
    looked = [of_one(read, reader(1), each, 3).corners(image, h) for each in range(3)]
    torch.testing.assert_close(read.corners(image, h), torch.cat(looked, 1))
    wrote = [of_one(write, writer(1), each, 3).corners(h, 9, 9) for each in range(3)]
    torch.testing.assert_close(write.corners(h, 9, 9), torch.cat(wrote, 1))


@pytest.mark.parametrize(("size", "side"), [(28, 12), (28, 28), (10, 4), (9, 1), (13, 7), (52, 12)])
def test_the_grid_of_windows_covers_the_image_half_a_window_apart(size: int, side: int):
    places = window_places(size, side)
    assert (places[0], places[-1]) == (0, size - side)
    apart = np.diff(places)
    assert (apart > 0).all()
    assert (apart <= max(1, side // 2)).all()


def test_the_error_is_read_pixel_for_pixel_where_it_is_largest():
    x = torch.zeros(2, 1, 12, 12)
    x[0, 0, 8:11, 1:3] = 1  # below, to the left
    x[1, 0, 2:5, 7:9] = 1
    shown = torch.zeros_like(x)
    reader, h = ErrorReader(sizes(12, 12), 4), torch.zeros(2, HIDDEN)
    beside = torch.cat([x, x - shown], 1)
    crops = torch.stack([beside[0, :, 8:12, 0:4], beside[1, :, 2:6, 6:10]])
    torch.testing.assert_close(reader(beside, h).view(2, 2, 4, 4), crops)
    corners = torch.tensor([[[0.0, 8], [4, 8], [4, 12], [0, 12]], [[6, 2], [10, 2], [10, 6], [6, 6]]])
    torch.testing.assert_close(reader.corners(beside, h)[:, 0], corners)
    shown[1] = x[1]
    shown[1, 0, 11, 11] = 0.5  # what should not be there is an error too
    drawn = torch.cat([x, x - shown], 1)
    torch.testing.assert_close(reader(drawn, h).view(2, 2, 4, 4)[1], drawn[1, :, 8:12, 8:12])


@pytest.mark.parametrize("count", [1, 3])
def test_the_worst_windows_are_those_of_a_plain_loop(count: int):
    torch.manual_seed(0)
    beside = torch.rand(20, 2, 11, 14) - 0.5
    reader = ErrorReader(sizes(11, 14), 5, windows=count)
    read = reader(beside, torch.zeros(20, HIDDEN)).view(20, count, 2, 5, 5)
    for n in range(20):
        sums = [
            beside[n, 1, top : top + 5, left : left + 5].abs().sum()
            for top in window_places(11, 5)
            for left in window_places(14, 5)
        ]
        worst = torch.stack(sorted(sums, reverse=True)[:count])
        torch.testing.assert_close(read[n, :, 1].abs().sum((1, 2)), worst, atol=1e-3, rtol=0)


@torch.no_grad()
def test_of_windows_that_are_equally_wrong_the_first_is_read():
    beside = torch.full((1, 2, 12, 12), 0.1)
    corners = ErrorReader(sizes(12, 12), 4).corners(beside, torch.zeros(1, HIDDEN))
    torch.testing.assert_close(corners[0, 0, 0], torch.zeros(2))


def test_error_attention_without_an_error_or_with_more_windows_than_places_is_refused():
    with pytest.raises(ValueError, match="it needs error_image=true"):
        ModelConfig(attention="error")
    section = ModelConfig(attention="error", error_image=True, read_size=12, windows=17)
    assert list(section.problems(28)) == ["windows=17: at read_size=12 attention=error has 16 places"]
    assert not list(section.model_copy(update={"windows": 16}).problems(28))


def test_random_windows_lie_inside_at_every_scale_and_place():
    reader = RandomReader(sizes(10, 10), 4, 1, windows=2)
    uniform = torch.rand(4000, 6, generator=torch.Generator().manual_seed(0))
    uniform[0], uniform[1] = 0, 1 - 2**-24
    image, h = torch.zeros(4000, 1, 10, 10), torch.zeros(4000, HIDDEN)
    corners = reader.corners(image, h, uniform).flatten(0, 1)
    first, last = corners[:, 0], corners[:, 2]
    assert first.min() > -1e-5
    assert last.max() < 10 + 1e-5
    side = last - first
    torch.testing.assert_close(side[:, 0], side[:, 1])
    # s is uniform in [P/H, 1], and the place uniform among those that its scale leaves.
    scale = (side[:, 0] / 10 - 0.4) / 0.6
    place = first / (10 - side).clamp(min=1e-6)
    for share in (scale, place[:, 0], place[:, 1]):
        counts = torch.histc(share, 10, 0, 1)
        assert ((counts - 800).abs() < 4 * math.sqrt(800)).all()
    assert abs(torch.corrcoef(torch.stack([scale, place[:, 0], place[:, 1]])) - torch.eye(3)).max() < 0.05


def small(**choices) -> ModelConfig:
    return ModelConfig(steps=3, latents=2, hidden=12, read_size=4, write_size=4, **choices)


def test_a_random_reader_is_moved_by_the_noise_alone_and_the_prior_by_none_of_it():
    torch.manual_seed(0)
    model = build(small(attention="random", windows=2, conditional=True), 10, 10, 0.2)
    x, context = (torch.rand(2, 5, 1, 10, 10) < 0.3).float()
    noise = model.noise(5, torch.Generator().manual_seed(3))
    assert noise.shape == (3, 5, 2 + 6)
    assert noise.equal(model.noise(5, torch.Generator().manual_seed(3)))
    plain = build(small(conditional=True), 10, 10, 0.2).noise(5, torch.Generator().manual_seed(3))
    assert noise[..., :2].equal(plain), "the latents' noise is drawn first, as it is without"
    first, again = model(x, context, noise), model(x, context, noise)
    assert first.kl.equal(again.kl)
    assert first.log_likelihood.equal(again.log_likelihood)
    elsewhere = torch.cat([noise[..., :2], noise[..., 2:].flip(1)], 2)
    assert (model(x, context, elsewhere).kl[0] - first.kl[0]).abs().max() > 0
    assert model.sample(elsewhere, context).equal(model.sample(noise, context))
    found, encoded = model.infer(x, context, noise), model.encode(x, context, noise)
    torch.testing.assert_close(model.decode(encoded, context).mean, found.likelihood.mean)
    read = model.trace(noise, x, context).read
    assert read.shape == (3, 5, 2, 4, 2)
    assert (read[0] - read[1]).abs().min() > 0, "drawn anew at every step"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_learns_is_saved_and_loaded(kind: dict, tmp_path):
    torch.manual_seed(0)
    model = build(small(**kind), 10, 10, 0.2)
    x = torch.zeros(16, 1, 10, 10)
    x[:8, :, 2:4, 1:8] = 1
    x[8:, :, 1:8, 6:8] = 1
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    generator, energies = torch.Generator().manual_seed(0), []
    for _ in range(40):
        optimiser.zero_grad()
        energy = model(x, None, model.noise(16, generator)).free_energy().mean()
        energy.backward()
        optimiser.step()
        energies.append(energy.item())
    assert sum(energies[-5:]) < 0.8 * sum(energies[:5])
    save_model(model, tmp_path)
    noise = model.noise(16, generator)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert again(x, None, noise).free_energy().equal(model(x, None, noise).free_energy())
