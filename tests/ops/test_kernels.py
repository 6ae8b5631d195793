"""The native kernels against the pure torch path: values and gradients, odd sizes, several threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqgen import native
from seqgen.core.errors import OperationalError
from seqgen.models import build, gaussian, kernels
from seqgen.models.attention import AffineReader, AffineWriter, GaussianReader, GaussianWriter
from seqgen.models.canvas import GatedCanvas
from seqgen.models.linear import OneRun, StepLinear
from seqgen.models.transition import LstmCell
from seqgen.settings import ModelConfig


def _built() -> bool:
    """Whether the kernels are there; where there is a compiler they must be."""
    try:
        native.build()
    except OperationalError as error:
        if "no C++ compiler" in str(error):
            return False
        raise
    return True


pytestmark = pytest.mark.skipif(not _built(), reason="there is no C++ compiler for the native kernels")

D = 9


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def results_of(module: nn.Module, compute: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of `compute`, then the gradients of its inputs and of the module's parameters."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    module.zero_grad()
    outputs = compute(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(7)
    torch.autograd.backward(outputs, [torch.randn(output.shape) for output in outputs])
    grads = [leaf.grad for leaf in (*leaves, *module.parameters()) if leaf.grad is not None]
    return [*(output.detach() for output in outputs), *grads]


def assert_same(module: nn.Module, *inputs: Tensor, compute: Callable[..., Any] | None = None) -> None:
    """The kernels give what pure torch does, in a run, where the weights are laid out, and outside."""
    compute = compute or module
    with native.disabled():
        plain = results_of(module, compute, inputs)
    outside = results_of(module, compute, inputs)
    with OneRun(module).inside():
        inside = results_of(module, compute, inputs)
    for ours in (outside, inside):
        assert len(ours) == len(plain) > 1
        for one, other in zip(ours, plain, strict=True):
            scale = float(other.abs().max())
            assert scale > 0
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5 * scale)


def away_from_start(module: nn.Module, scale: float = 0.3) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


@pytest.mark.usefixtures("_threads")
class TestAgainstPureTorch:
    @pytest.mark.parametrize("hidden", [16, 21, 5])
    def test_lstm(self, hidden: int):
        cell = away_from_start(LstmCell(4, hidden))
        inputs = [3 * torch.randn(7, n) for n in (4, hidden, hidden)]
        assert_same(cell, *inputs, compute=lambda x, h, c: cell((x,), h, c))

    @pytest.mark.parametrize("kept", [0, 1], ids=["of h alone", "of the cell alone"])
    def test_lstm_with_a_gradient(self, kept: int):
        cell = away_from_start(LstmCell(4, 21))
        inputs = [torch.randn(1, n) for n in (4, 21, 21)]
        assert_same(cell, *inputs, compute=lambda x, h, c: cell((x,), h, c)[kept])

    def test_lstm_with_a_share_of_a_fixed_input(self):
        cell = away_from_start(LstmCell(12, 21, fixed=5))

        def compute(x: Tensor, y: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            return cell((y,), h, c, share=cell.linear.share(x))

        assert_same(cell, *(torch.randn(6, n) for n in (5, 7, 21, 21)), compute=compute)

    @pytest.mark.parametrize("batch", [1, 7, 100, 130, 1100])
    @pytest.mark.parametrize(
        ("widths", "outputs"), [((5,), 3), ((40, 17), 64), ((1, 30, 33), 70)], ids=["narrow", "two", "three"]
    )
    def test_linear(self, batch: int, widths: tuple[int, ...], outputs: int):
        layer = StepLinear(sum(widths), outputs)
        assert_same(layer, *(torch.randn(batch, n) for n in widths))

    @pytest.mark.parametrize(("image", "size"), [((5, 28, 28), 2), ((3, 9, 37), 5)], ids=str)
    def test_gaussian_read_of_an_error(self, image: tuple[int, ...], size: int):
        batch, height, width = image
        reader = away_from_start(GaussianReader(D, size, 2, height, width))
        x = torch.rand(batch, 1, height, width)
        inputs = torch.randn(batch, 1, height, width), torch.randn(batch, D)
        assert_same(reader, *inputs, compute=lambda logits, h: reader.read_error(x, logits, h))
        assert_same(reader, x, *inputs, compute=reader.read_error)

    @pytest.mark.parametrize("latents", [3, 16, 37])
    def test_draw(self, latents: int):
        noise = torch.randn(7, latents)
        parameters = 5 * torch.randn(7, 2 * latents)  # some beyond the limits of log sigma
        assert_same(nn.Identity(), parameters, compute=lambda p: gaussian.draw(p, noise))
        for kept in range(3):
            assert_same(nn.Identity(), parameters, compute=lambda p, kept=kept: gaussian.draw(p, noise)[kept])

    @pytest.mark.parametrize("shape", [(2, 5, 37), (3, 1)], ids=str)
    def test_kl(self, shape: tuple[int, ...]):
        assert_same(nn.Identity(), torch.randn(shape), torch.randn(shape), compute=gaussian.gaussian_kl)

    @pytest.mark.parametrize("batch", [0, 1, 5])
    def test_a_batch_of_none_one_and_more_than_the_threads(self, batch: int):
        canvas = away_from_start(GatedCanvas(4))(torch.randn(batch, 4, 6, 7), torch.randn(batch, 4, 6, 7))
        written = away_from_start(AffineWriter(D, 3, 4, 6, 7))(torch.randn(batch, D))
        glimpse = away_from_start(GaussianReader(D, 17, 1, 6, 7))(
            torch.rand(batch, 1, 6, 7), torch.randn(batch, D)
        )
        assert canvas.shape == written.shape == (batch, 4, 6, 7)
        assert glimpse.shape == (batch, 17 * 17)

    def test_inputs_in_any_layout(self):
        canvas = away_from_start(GatedCanvas(4))
        s = torch.randn(3, 4, 9, 8)
        by_channel = s.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(canvas(by_channel, by_channel), canvas(s, s), rtol=0, atol=0)
        reader, image = away_from_start(AffineReader(D, 4, 2)), torch.rand(3, 2, 9, 8)
        turned, h = image.transpose(2, 3).contiguous().transpose(2, 3), torch.randn(3, D)
        torch.testing.assert_close(reader(turned, h), reader(image, h), rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(5, 4, 28, 28), (3, 1, 5, 5), (2, 6, 7, 20), (1, 3, 9, 4)], ids=str)
    def test_cgru(self, shape: tuple[int, ...]):
        canvas = away_from_start(GatedCanvas(shape[1]))
        assert_same(canvas, torch.randn(shape), torch.randn(shape))

    @pytest.mark.parametrize(
        ("image", "size"), [((5, 1, 12, 17), 6), ((2, 4, 9, 9), 9), ((3, 6, 5, 8), 3)], ids=str
    )
    def test_affine_read(self, image: tuple[int, ...], size: int):
        reader = away_from_start(AffineReader(D, size, image[1]))
        assert_same(reader, torch.randn(image), torch.randn(image[0], D))

    @pytest.mark.parametrize("channels", [1, 4, 6])
    def test_affine_write(self, channels: int):
        assert_same(away_from_start(AffineWriter(D, 5, channels, 13, 10)), torch.randn(4, D))

    @pytest.mark.parametrize(
        ("image", "size"), [((5, 2, 28, 28), 2), ((3, 1, 9, 37), 5), ((2, 3, 6, 5), 1)], ids=str
    )
    def test_gaussian_read(self, image: tuple[int, ...], size: int):
        reader = away_from_start(GaussianReader(D, size, *image[1:]))
        assert_same(reader, torch.rand(image), torch.randn(image[0], D))

    @pytest.mark.parametrize(("channels", "size"), [(1, 5), (3, 2), (2, 1)])
    def test_gaussian_write(self, channels: int, size: int):
        assert_same(away_from_start(GaussianWriter(D, size, channels, 18, 23)), torch.randn(4, D))


def test_a_window_far_outside_reads_the_nearest_filters_and_stays_finite():
    parameters = torch.tensor([[60.0, -80.0, -2.0, 0.5, 0.0]])
    image = torch.rand(1, 1, 12, 12)
    reader = GaussianReader(D, 3, 1, 12, 12)
    bank = reader.window.bank(parameters)
    expected = (bank.y[:, None] @ image @ bank.x.mT[:, None]) * bank.gamma
    glimpse, _ = kernels.GaussianRead(3).forward(parameters, [image])
    torch.testing.assert_close(glimpse, expected, rtol=1e-3, atol=1e-5)


def test_an_affine_window_outside_the_image_reads_zero_and_has_no_gradient():
    matrix, image = torch.tensor([[1.0, 0.0, 9.0, 0.0, 1.0, 0.0]]), torch.rand(1, 1, 8, 8)
    sampler = kernels.AffineSample(4, 4)
    glimpse, kept = sampler.forward(matrix, [image])
    grad, _ = sampler.backward(torch.ones_like(glimpse), kept, matrix, [image], [False])
    assert glimpse.abs().max() == 0
    assert grad.abs().max() == 0


def test_a_nan_is_not_hidden():
    bad = torch.full((1, 4 * D), float("nan"))
    h, cell = kernels.lstm(bad, torch.zeros(1, D))
    assert h.isnan().all()
    assert cell.isnan().all()
    canvas = GatedCanvas(2)
    assert canvas(torch.full((1, 2, 6, 6), float("nan")), torch.zeros(1, 2, 6, 6)).isnan().all()
    window, image = torch.full((1, 6), float("nan")), torch.rand(1, 1, 5, 5)
    assert kernels.AffineSample(3, 3).forward(window, [image])[0].isnan().all()
    assert kernels.GaussianRead(2).forward(window[:, :5].contiguous(), [image])[0].isnan().all()
    noise, unknown = torch.zeros(1, 2), torch.full((1, 4), float("nan"))
    assert all(part.isnan().all() for part in gaussian.draw(unknown, noise))
    assert gaussian.gaussian_kl(unknown, torch.zeros(1, 4)).isnan().all()
    assert gaussian.gaussian_kl(torch.zeros(1, 4), unknown).isnan().all()
    layer, x = StepLinear(3, 40), torch.tensor([[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]])
    with OneRun(layer).inside():
        assert layer(x).isnan().all(1).tolist() == [False, True]


def test_a_nan_in_the_gradient_is_not_hidden():
    s = torch.randn(1, 4, 6, 6, requires_grad=True)
    GatedCanvas(4)(s, torch.zeros_like(s)).backward(torch.full_like(s, float("nan")))
    assert s.grad.isnan().all()


def test_batches_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="batches of 3 and 2 images"):
        kernels.AffineSample(4, 4).forward(torch.zeros(3, 6), [torch.zeros(2, 1, 5, 5)])
    with pytest.raises(ValueError, match="batches of 2 and 3 images"):
        kernels.GaussianRead(2).forward(torch.zeros(2, 5), [torch.zeros(3, 1, 5, 5)])
    with pytest.raises(ValueError, match=r"shapes \[2, 6\] and \[2, 4\] do not go together"):
        gaussian.draw(torch.zeros(2, 6), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"shapes \[2, 1, 5, 5\] and \[2, 1, 4, 4\] do not go together"):
        kernels.GaussianRead(2).forward(torch.zeros(2, 5), [torch.zeros(2, 1, 5, 5), torch.zeros(2, 1, 4, 4)])
    layer = StepLinear(5, 2)
    with OneRun(layer).inside():
        assert layer(torch.zeros(2, 5, dtype=torch.float64)).dtype == torch.float32
        with pytest.raises(ValueError, match="batches of 2 and 3 images"):
            layer(torch.zeros(2, 2), torch.zeros(3, 3))
        with pytest.raises(ValueError, match=r"inputs of \[2, 2\] for a layer of 5"):
            layer(torch.zeros(2, 2), torch.zeros(2, 2))


def test_what_is_computed_of_an_image_does_not_depend_on_the_others_or_the_threads():
    layer, x = StepLinear(70, 90), torch.randn(131, 70)
    with torch.no_grad(), OneRun(layer).inside():
        together = layer(x)
        assert torch.equal(together[37:38], layer(x[37:38]))
        before = torch.get_num_threads()
        torch.set_num_threads(2 if before == 1 else 1)
        try:
            assert torch.equal(together, layer(x))
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize(("batch", "steps"), [(100, 12), (300, 3), (1100, 2)])
def test_gradients_gathered_in_several_parts(batch: int, steps: int):
    layer = StepLinear(9, 6)
    inputs = torch.randn(steps, batch, 9)

    def compute(scale: Tensor) -> Tensor:
        return sum(layer(scale * x).tanh() for x in inputs)

    assert_same(layer, torch.ones(1), compute=compute)


def test_steps_of_other_sizes_and_a_noise_with_a_gradient():
    layer = StepLinear(5, 4)
    x, y = torch.randn(3, 5), torch.randn(7, 5)
    assert_same(layer, x, y, compute=lambda x, y: (layer(x), layer(y)))
    assert_same(nn.Identity(), torch.randn(3, 8), torch.randn(3, 4), compute=gaussian.draw)


def test_threads_run_one_model_side_by_side():
    config = ModelConfig(steps=6, latents=3, hidden=20, read_size=5, write_size=6, posterior_hidden=10)
    model = away_from_start(build(config, 14, 14), 0.1)
    noise = torch.randn(6, 9, 3)
    alone = model.sample(noise).detach()

    def sample(_: int) -> bool:
        with torch.no_grad():
            return torch.equal(model.sample(noise), alone)

    layer = StepLinear(3, 2)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(sample, range(40)))
        with OneRun(layer).inside():
            assert layer.one() is layer.one()
            assert pool.submit(layer.one).result() is not layer.one()  # another thread is not inside


def test_without_gradients_nothing_is_kept_and_the_values_are_the_same():
    canvas, s = GatedCanvas(2), torch.randn(2, 2, 6, 6)
    with torch.no_grad():
        quietly = canvas(s, s)
    assert quietly.grad_fn is None
    assert torch.equal(quietly, canvas(s, s))


def test_the_same_threads_give_the_same_bits():
    config = ModelConfig(steps=3, latents=3, hidden=20, read_size=5, write_size=6, posterior_hidden=10)
    model = away_from_start(build(config, 14, 14), 0.1)
    x, noise = (torch.rand(9, 1, 14, 14) < 0.3).float(), torch.randn(3, 9, 3)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(x, None, noise).free_energy().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    for one, other in zip(gradients(), gradients(), strict=True):
        assert torch.equal(one, other)


def test_half_precision_doubles_and_disabled_kernels_take_the_torch_path():
    assert kernels.available(torch.zeros(1))
    assert not kernels.available(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not kernels.available(torch.zeros(1, dtype=torch.bfloat16))
    with native.disabled():
        assert not kernels.available(torch.zeros(1))


def test_a_library_that_cannot_be_loaded_is_left_and_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = native.build()
    path.write_bytes(b"of another machine")
    native._load.cache_clear()
    with pytest.warns(UserWarning, match="is not used"):
        assert native.library() is None
    native._load.cache_clear()


def test_where_there_is_no_compiler_it_says_so_and_everything_works(tmp_path):
    code = (
        "import torch\nfrom seqgen import native\nfrom seqgen.settings import ModelConfig\n"
        "from seqgen.models import build\nassert native.library() is None\nassert not native.built()\n"
        "model = build(ModelConfig(steps=2, hidden=8, read_size=4, write_size=4), 8, 8)\n"
        "model(torch.zeros(2, 1, 8, 8), None, torch.zeros(2, 2, 4)).free_energy().sum().backward()\n"
    )
    bare = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-m", "seqgen.native"], env=bare, capture_output=True, text=True)
    assert told.returncode == 1
    assert "install one" in told.stderr
    subprocess.run([sys.executable, "-c", code], env=bare, check=True)
