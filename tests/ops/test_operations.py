"""Every fused operation against its definition: values and gradients, odd sizes, threads, each instruction set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from seqgen import native, ops
from seqgen.ops.operation import OPERATIONS

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def results_of(compute: Callable[..., object], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of `compute` in a run, then the gradients of its inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    with ops.Repeated().inside():
        outputs = compute(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(7)
    torch.autograd.backward(outputs, [torch.randn(output.shape) for output in outputs])
    return [
        *(output.detach() for output in outputs),
        *(leaf.grad for leaf in leaves if leaf.grad is not None),
    ]


def assert_same(compute: Callable[..., object], *inputs: Tensor, rtol: float = 2e-4) -> None:
    """The fused version gives what the definition does, and is another function."""
    fused = results_of(compute, inputs)
    with native.using("none"):
        plain = results_of(compute, inputs)
    assert len(fused) == len(plain) > 1
    for one, other in zip(fused, plain, strict=True):
        scale = float(other.abs().max())
        assert scale > 0
        torch.testing.assert_close(one, other, rtol=rtol, atol=2e-5 * scale)


@pytest.mark.usefixtures("_threads")
class TestAgainstTheDefinition:
    @pytest.mark.parametrize("hidden", [16, 21, 5])
    @pytest.mark.parametrize("widths", [(4,), (4, 7), (1, 2, 3, 4)], ids=str)
    def test_lstm(self, hidden: int, widths: tuple[int, ...]):
        sizes = (*widths, hidden, hidden)
        inputs = [3 * torch.randn(7, n) for n in sizes]
        weight, bias = torch.randn(4 * hidden, sum(sizes) - hidden) / 4, torch.randn(4 * hidden)
        assert_same(lambda w, b, *x: ops.lstm(x[:-1], x[-1], w, b), weight, bias, *inputs)

    @pytest.mark.parametrize("kept", [0, 1], ids=["of h alone", "of the cell alone"])
    def test_lstm_with_a_gradient(self, kept: int):
        inputs = [torch.randn(1, n) for n in (4, 21, 21)]
        weight, bias = torch.randn(84, 25) / 4, torch.randn(84)
        assert_same(lambda w, b, x, h, c: ops.lstm((x, h), c, w, b)[kept], weight, bias, *inputs)

    @pytest.mark.parametrize("batch", [1, 7, 100, 130, 1100])
    @pytest.mark.parametrize(
        ("widths", "outputs"), [((5,), 3), ((40, 17), 64), ((1, 30, 33), 70), ((9, 8, 7, 6, 5), 33)], ids=str
    )
    def test_linear(self, batch: int, widths: tuple[int, ...], outputs: int):
        inputs = [torch.randn(batch, n) for n in widths]
        weight, bias = torch.randn(outputs, sum(widths)), torch.randn(outputs)
        assert_same(lambda w, b, *x: ops.linear(x, w, b), weight, bias, *inputs)

    @pytest.mark.parametrize("shape", [(5, 4, 28, 28), (3, 1, 5, 5), (2, 6, 7, 20), (1, 3, 9, 4)], ids=str)
    def test_cgru(self, shape: tuple[int, ...]):
        channels = shape[1]
        weights = torch.randn(2 * channels, channels, 3, 3), torch.randn(channels, channels, 3, 3)
        biases = torch.randn(2 * channels), torch.randn(channels)
        parts = (0.3 * weights[0], biases[0], 0.3 * weights[1], biases[1])
        assert_same(ops.cgru, torch.randn(shape), *parts)

    @pytest.mark.parametrize(
        ("image", "to"),
        [
            ((5, 1, 12, 17), (6, 6)),
            ((2, 4, 9, 9), (13, 10)),
            ((3, 6, 5, 8), (3, 4)),
            ((4, 1, 5, 5), (28, 30)),
        ],
        ids=str,
    )
    def test_affine_sample(self, image: tuple[int, ...], to: tuple[int, int]):
        matrix = torch.tensor([1.0, 0, 0, 0, 1, 0]) + 0.3 * torch.randn(image[0], 6)
        assert_same(lambda x, m: ops.affine_sample(x, m, *to), torch.randn(image), matrix)

    @pytest.mark.parametrize(
        ("image", "to"),
        [((5, 1, 12, 17), (6, 6)), ((2, 4, 9, 9), (13, 10)), ((4, 1, 5, 5), (28, 30))],
        ids=str,
    )
    def test_axis_aligned_sample(self, image: tuple[int, ...], to: tuple[int, int]):
        window = torch.tensor([1.0, 1, 0, 0]) + 0.3 * torch.randn(image[0], 4)
        assert_same(lambda x, w: ops.axis_aligned_sample(x, w, *to), torch.randn(image), window)

    @pytest.mark.parametrize(
        ("image", "size"),
        [((5, 2, 28, 28), 2), ((3, 1, 9, 37), 5), ((2, 3, 6, 5), 1), ((2, 1, 6, 7), 17)],
        ids=str,
    )
    def test_filterbank_read(self, image: tuple[int, ...], size: int):
        parameters = 0.5 * torch.randn(image[0], 5)
        assert_same(lambda x, p: ops.filterbank_read(x, p, size), torch.rand(image), parameters)

    @pytest.mark.parametrize(("channels", "size"), [(1, 5), (3, 2), (2, 1)])
    def test_filterbank_write(self, channels: int, size: int):
        sprite, parameters = torch.randn(4, channels, size, size), 0.5 * torch.randn(4, 5)
        assert_same(lambda w, p: ops.filterbank_write(w, p, 18, 23), sprite, parameters)


def test_every_fused_operation_is_tested_here():
    tested = {
        name.removeprefix("test_") for name in dir(TestAgainstTheDefinition) if name.startswith("test_")
    }
    assert set(OPERATIONS) <= tested


def test_the_examples_by_which_an_operation_is_measured_have_gradients():
    for operation in OPERATIONS.values():
        for example in operation.examples():
            example().sum().backward()


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_batch_of_none_one_and_more_than_the_threads(batch: int):
    s = torch.randn(batch, 4, 6, 7)
    canvas = ops.cgru(s, torch.randn(8, 4, 3, 3), torch.zeros(8), torch.randn(4, 4, 3, 3), torch.zeros(4))
    written = ops.affine_sample(torch.randn(batch, 4, 3, 3), torch.randn(batch, 6), 6, 7)
    glimpse = ops.filterbank_read(torch.rand(batch, 1, 6, 7), torch.randn(batch, 5), 17)
    assert canvas.shape == written.shape == (batch, 4, 6, 7)
    assert glimpse.shape == (batch, 1, 17, 17)


def test_inputs_in_any_layout():
    weights = torch.randn(8, 4, 3, 3), torch.randn(8), torch.randn(4, 4, 3, 3), torch.randn(4)
    s = torch.randn(3, 4, 9, 8)
    by_channel = s.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ops.cgru(by_channel, *weights), ops.cgru(s, *weights), rtol=0, atol=0)
    image, matrix = torch.rand(3, 2, 9, 8), torch.randn(3, 6)
    turned = image.transpose(2, 3).contiguous().transpose(2, 3)
    same = ops.affine_sample(turned, matrix, 4, 4), ops.affine_sample(image, matrix, 4, 4)
    torch.testing.assert_close(*same, rtol=0, atol=0)


def test_a_window_far_outside_reads_the_nearest_filters_and_stays_finite():
    parameters, image = torch.tensor([[60.0, -80.0, -2.0, 0.5, 0.0]]), torch.rand(1, 1, 12, 12)
    glimpse = ops.filterbank_read(image, parameters, 3)
    with native.using("none"):
        expected = ops.filterbank_read(image, parameters, 3)
    torch.testing.assert_close(glimpse, expected, rtol=1e-3, atol=1e-5)


def test_an_affine_window_outside_the_image_reads_zero_and_has_no_gradient():
    matrix = torch.tensor([[1.0, 0.0, 9.0, 0.0, 1.0, 0.0]], requires_grad=True)
    glimpse = ops.affine_sample(torch.rand(1, 1, 8, 8), matrix, 4, 4)
    glimpse.sum().backward()
    assert glimpse.abs().max() == 0
    assert matrix.grad.abs().max() == 0


def test_a_nan_is_not_hidden():
    nan = float("nan")
    weight, bias = torch.randn(16, 6), torch.zeros(16)
    with ops.Repeated().inside():
        h, cell = ops.lstm((torch.full((1, 2), nan), torch.zeros(1, 4)), torch.zeros(1, 4), weight, bias)
        assert h.isnan().all()
        assert cell.isnan().all()
    weights = torch.randn(4, 2, 3, 3), torch.zeros(4), torch.randn(2, 2, 3, 3), torch.zeros(2)
    assert ops.cgru(torch.full((1, 2, 6, 6), nan), *weights).isnan().all()
    image = torch.rand(1, 1, 5, 5)
    assert ops.affine_sample(image, torch.full((1, 6), nan), 3, 3).isnan().all()
    assert ops.filterbank_read(image, torch.full((1, 5), nan), 2).isnan().all()


def test_a_nan_in_the_gradient_is_not_hidden():
    s = torch.randn(1, 4, 6, 6, requires_grad=True)
    weights = torch.randn(8, 4, 3, 3), torch.zeros(8), torch.randn(4, 4, 3, 3), torch.zeros(4)
    ops.cgru(s, *weights).backward(torch.full_like(s, float("nan")))
    assert s.grad.isnan().all()


def test_batches_and_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="batches of 3 and 2 images"):
        ops.affine_sample(torch.zeros(2, 1, 5, 5), torch.zeros(3, 6), 4, 4)
    with pytest.raises(ValueError, match="batches of 2 and 3 images"):
        ops.filterbank_read(torch.zeros(3, 1, 5, 5), torch.zeros(2, 5), 2)
    with pytest.raises(ValueError, match="do not go together"), ops.Repeated().inside():
        ops.lstm((torch.zeros(2, 5),), torch.zeros(3, 2), torch.zeros(8, 5), torch.zeros(8))


@pytest.mark.parametrize(("batch", "steps"), [(100, 12), (300, 3), (1100, 2)])
def test_gradients_gathered_in_several_parts(batch: int, steps: int):
    inputs = torch.randn(steps, batch, 9)

    def compute(weight: Tensor, bias: Tensor) -> Tensor:
        return sum(ops.linear((x,), weight, bias).tanh() for x in inputs)

    assert_same(compute, torch.randn(6, 9), torch.randn(6))


def test_steps_of_other_sizes():
    def compute(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ops.linear((x,), weight, bias), ops.linear((y,), weight, bias)

    assert_same(compute, torch.randn(4, 5), torch.randn(4), torch.randn(3, 5), torch.randn(7, 5))


def test_without_gradients_nothing_is_kept_and_the_values_are_the_same():
    s, weights = torch.randn(2, 2, 6, 6), [torch.randn(4, 2, 3, 3), torch.zeros(4), torch.randn(2, 2, 3, 3)]
    arguments = (s, *(part.requires_grad_() for part in (*weights, torch.zeros(2))))
    with torch.no_grad():
        quietly = ops.cgru(*arguments)
    assert quietly.grad_fn is None
    assert torch.equal(quietly, ops.cgru(*arguments))


def test_half_precision_doubles_and_what_is_traced_take_the_definition(monkeypatch):
    operation = OPERATIONS["affine_sample"]
    taken = []
    monkeypatch.setattr(operation, "definition", lambda *args: taken.append(args))
    image, matrix = torch.zeros(1, 1, 3, 3), torch.zeros(1, 6)
    assert ops.affine_sample(image, matrix, 2, 2) is not None
    for other in (image.double(), image.bfloat16()):
        assert ops.affine_sample(other, matrix, 2, 2) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert ops.affine_sample(image, matrix, 2, 2) is None
    monkeypatch.undo()
    assert len(taken) == 3
