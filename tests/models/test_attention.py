"""Reading and writing against the equations written as plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seqgen.models.attention.forms import Form
from seqgen.models.attention.gaussian import GaussianReader, GaussianWriter
from seqgen.models.attention.spatial_transformer import AffineReader, AffineWriter
from seqgen.models.contracts import Sizes
from seqgen.ops import affine_sample
from tests.double_loop import bilinear_double_loop


def sizes(hidden: int, height: int = 1, width: int = 1, channels: int = 1) -> Sizes:
    return Sizes(height, width, 1, 1, hidden, channels, 0.5)


def affine_reader(of: Sizes, *more, **named) -> AffineReader:
    return AffineReader(of, Form(of), *more, **named)


def affine_writer(of: Sizes, *more) -> AffineWriter:
    return AffineWriter(of, Form(of), *more)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[0.5, 0.0, 0.3], [0.0, 0.7, -0.4]],
        [[0.4, -0.3, 0.2], [0.5, 0.6, 0.1]],  # rotation and shear
        [[1.7, 0.2, 0.9], [-0.3, 2.1, -0.8]],  # beyond the image
    ],
)
def test_affine_sample_is_the_bilinear_double_sum(matrix):
    image = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    got = affine_sample(image[None, None], torch.tensor([matrix]).view(1, 6), 5, 4)[0, 0]
    np.testing.assert_allclose(got, bilinear_double_loop(image.numpy(), np.array(matrix), 5, 4), atol=1e-5)


def test_a_glimpse_of_several_samples_a_pixel_is_the_mean_of_what_a_finer_loop_reads():
    torch.manual_seed(0)
    reader, h = affine_reader(sizes(16), 3, 1, samples=2), torch.randn(1, 16)
    image = torch.rand(8, 9)
    with torch.no_grad():
        reader.window.weight.mul_(10)
        got = reader(image[None, None], h).view(3, 3)
        matrix = reader.window(h).view(2, 3).double().numpy()
    fine = bilinear_double_loop(image.numpy(), matrix, 6, 6)
    np.testing.assert_allclose(got, fine.reshape(3, 2, 3, 2).mean((1, 3)), atol=1e-5)


def test_two_samples_a_pixel_see_every_stroke_of_an_image_that_is_twice_as_wide():
    bars = torch.eye(16).unsqueeze(1).unsqueeze(1).expand(-1, 1, 16, -1)  # one column of ink each
    h = torch.zeros(16, 4)
    coarse, fine = (affine_reader(sizes(4), 8, 1, samples) for samples in (1, 2))
    assert fine(bars, h).sum(1).eq(fine(bars, h).sum(1)[0]).all()
    thin = torch.eye(20)[:, None, None].expand(-1, 1, 20, -1)
    assert coarse(thin, torch.zeros(20, 4)).sum(1).min() == 0
    assert fine(thin, torch.zeros(20, 4)).sum(1).min() > 0


def test_windows_are_float32_whatever_the_rest_computes_in():
    torch.manual_seed(0)
    image, h = torch.rand(3, 1, 28, 28), torch.randn(3, 16)
    for module, inputs in (
        (affine_reader(sizes(16), 8, 1), (image, h)),
        (affine_writer(sizes(16, 28, 28, 1), 8), (h,)),
        (GaussianReader(sizes(16, 28, 28), 8, 1), (image, h)),
    ):
        head = getattr(module.window, "head", module.window)
        exact = head(h)
        with torch.autocast("cpu", torch.bfloat16):
            assert head(h).equal(exact)
            drawn = module(*inputs)
        assert drawn.dtype == torch.float32
        torch.testing.assert_close(drawn, module(*inputs), atol=2e-2, rtol=2e-2)


def with_window(module, bias):
    """A reader or writer whose window does not depend on h."""
    head = module.window if isinstance(module.window, torch.nn.Linear) else module.window.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(bias))
    return module


def gaussian_filters(centre, stride, variance, size, length):
    """F[i,a] = exp(-(a - mu_i)^2 / 2 s2) / Z_i, mu_i = g + (i - N/2 - 1/2) d, a and i from 1 (DRAW eqs. 19-26)."""
    bank = np.zeros((size, length))
    for i in range(1, size + 1):
        mu = centre + (i - size / 2 - 0.5) * stride
        for a in range(1, length + 1):
            bank[i - 1, a - 1] = math.exp(-((a - mu) ** 2) / (2 * variance))
        bank[i - 1] /= bank[i - 1].sum()
    return bank


@pytest.mark.parametrize(("height", "width"), [(10, 8), (8, 8)])
def test_gaussian_read_and_write_are_draws_equations(height, width):
    size, bias = 3, [0.2, -0.1, 0.3, -0.7, 0.4]
    stride = (max(height, width) - 1) / (size - 1) * math.exp(bias[3])
    bank_y = gaussian_filters((height + 1) / 2 * (bias[1] + 1), stride, math.exp(bias[2]), size, height)
    bank_x = gaussian_filters((width + 1) / 2 * (bias[0] + 1), stride, math.exp(bias[2]), size, width)
    h = torch.randn(1, 6)
    image = torch.rand(1, 1, height, width)
    reader = with_window(GaussianReader(sizes(6, height, width), size, 1), bias)
    expected = math.exp(bias[4]) * bank_y @ image[0, 0].numpy() @ bank_x.T
    np.testing.assert_allclose(reader(image, h).detach().view(size, size), expected, rtol=1e-4)

    writer = with_window(GaussianWriter(sizes(6, height, width, 1), size), bias)
    patch = writer.sprite(h).detach().view(size, size).numpy()
    expected = math.exp(-bias[4]) * bank_y.T @ patch @ bank_x
    np.testing.assert_allclose(writer(h).detach()[0, 0], expected, rtol=1e-4, atol=1e-6)


def test_gaussian_write_starts_with_gain_one():
    writer = GaussianWriter(sizes(4, 30, 30, 1), 6)
    with torch.no_grad():
        writer.sprite.weight.zero_()
        writer.sprite.bias.fill_(1.0)
        writer.window.head.weight.zero_()
    middle = writer(torch.zeros(1, 4))[0, 0, 3:27, 3:27]  # a whole number of strides
    assert float(middle.detach().mean()) == pytest.approx(1, abs=0.1)


def test_a_gaussian_window_far_outside_the_image_stays_finite():
    reader = with_window(GaussianReader(sizes(4, 28, 28), 5, 1), [60.0, -60.0, -6.0, 0.0, 0.0])
    assert reader(torch.rand(2, 1, 28, 28), torch.zeros(2, 4)).isfinite().all()


def test_reading_with_as_many_narrow_filters_as_pixels_is_no_attention():
    reader = with_window(GaussianReader(sizes(4, 8, 8), 8, 1), [0.0, 0.0, -6.0, 0.0, 0.0])
    image = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(reader(image, torch.zeros(3, 4)).view_as(image), image)


def test_read_undoes_write_at_the_identity():
    writer = with_window(affine_writer(sizes(5, 8, 8, 2), 8), [1.0, 0, 0, 0, 1.0, 0])
    reader = with_window(affine_reader(sizes(5), 8, 2), [1.0, 0, 0, 0, 1.0, 0])
    h = torch.randn(3, 5)
    torch.testing.assert_close(reader(writer(h), h), writer.sprite(h), atol=1e-5, rtol=1e-5)


def test_corners_of_the_write_window_enclose_what_is_written():
    matrix = [2.5, 0.4, -0.6, -0.3, 3.0, 0.5]
    writer = with_window(affine_writer(sizes(4, 40, 40, 1), 12), matrix)
    with torch.no_grad():
        writer.sprite.weight.zero_()
        writer.sprite.bias.fill_(1.0)
    h = torch.zeros(1, 4)
    corners = writer.corners(h, 40, 40)[0, 0].detach().double()
    rows, columns = np.nonzero(writer(h)[0, 0].detach().numpy() > 0.55)
    edges = corners.roll(-1, 0) - corners
    normals = torch.stack([-edges[:, 1], edges[:, 0]], 1)
    points = torch.tensor(np.stack([columns + 0.5, rows + 0.5], 1))
    distance = ((points[:, None] - corners[None]) * normals).sum(-1) / normals.norm(dim=1)
    assert len(points) > 50
    assert distance.min() > -1.0  # inside every edge, to a pixel
    assert distance.min(0).values.max() < 1.5  # and the window is not larger than what it wrote


def test_corners_of_the_read_window_are_where_the_glimpse_looks():
    reader = with_window(affine_reader(sizes(4), 12, 1), [0.25, 0, 0.5, 0, 0.25, -0.5])
    corners = reader.corners(torch.zeros(1, 1, 40, 40), torch.zeros(1, 4))[0, 0]
    torch.testing.assert_close(corners, torch.tensor([[25.0, 5], [35, 5], [35, 15], [25, 15]]))


def test_corners_of_a_gaussian_window_are_its_outermost_centres():
    reader = with_window(GaussianReader(sizes(4, 21, 21), 5, 1), [0.0, 0.0, 0.0, math.log(0.5), 0.0])
    corners = reader.corners(torch.zeros(1, 1, 21, 21), torch.zeros(1, 4))[0, 0]
    torch.testing.assert_close(corners, torch.tensor([[5.5, 5.5], [15.5, 5.5], [15.5, 15.5], [5.5, 15.5]]))
