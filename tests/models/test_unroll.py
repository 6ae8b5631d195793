"""The loop over t: computed again, compiled, by several threads, for k samples an image: always the same numbers."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from seqgen.models import SequentialModel, build
from seqgen.models.unroll import unroll
from seqgen.settings import ModelConfig


def noise_of(model: SequentialModel, batch: int) -> Tensor:
    return model.noise(batch, torch.Generator().manual_seed(5))


def small(steps: int, **kind) -> SequentialModel:
    torch.manual_seed(2)
    windows = {} if kind.get("attention") == "full" else {"read_size": 4, "write_size": 4}
    return build(ModelConfig(**{"steps": steps, "latents": 3, "hidden": 12} | windows | kind), 9, 9)


def test_it_is_the_plain_loop():
    def advance(t: int, state: Tensor, noise: Tensor) -> tuple[Tensor, dict]:
        return state + t * noise, {"state": state, "t": torch.tensor(t)}

    noise = torch.randn(5, 2, 3)
    last, drawn = unroll(advance, torch.zeros(2, 3), noise)
    torch.testing.assert_close(last, sum(t * noise[t] for t in range(5)))
    assert drawn["t"].tolist() == [0, 1, 2, 3, 4]
    assert drawn["state"].shape == (5, 2, 3)
    torch.testing.assert_close(drawn["state"][4] + 4 * noise[4], last)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"attention": "gaussian", "inference": "encoder", "error_image": True},
        {"attention": "full"},
        {"attention": "error", "error_image": True, "windows": 2},
        {"attention": "random"},
        {"attention": "axis-aligned", "windows": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("segment", [1, 3, 7])
def test_recomputing_changes_no_bit_of_the_gradient(kind: dict, segment: int):
    model = small(7, conditional=True, **kind)
    x, context = (torch.rand(2, 5, 1, 9, 9) < 0.4).float()
    results = []
    for model.recompute in (0, segment):
        model.zero_grad()
        bound = model(x, context, noise_of(model, 5)).free_energy()
        bound.sum().backward()
        results.append([bound.detach(), *(p.grad for p in model.parameters())])
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)


def test_recomputing_keeps_less():
    """Counted, not timed: bytes that autograd saves for the backward pass."""
    model = small(16)
    x, noise = torch.rand(8, 1, 9, 9).round(), noise_of(model, 8)

    def kept(recompute: int) -> int:
        model.recompute, alive = recompute, {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            alive[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(x, None, noise).free_energy().sum()
        del loss
        return sum(alive.values())

    assert kept(4) < kept(0) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"conditional": True, "context": "attention", "infer_from_context": True, "copy_grid": 3},
        {"attention": "similarity", "windows": 2},
        {"attention": "axis-aligned"},
        {"attention": "error", "error_image": True},
        {"attention": "random"},
    ],
    ids=str,
)
def test_a_compiled_step_gives_the_same_and_a_copy_of_the_model_runs_its_own_weights(kind: dict):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = small(4, **kind)
    x, noise = torch.rand(3, 1, 9, 9).round(), noise_of(model, 3)
    context = torch.rand(3, 2, 9, 9).round() if kind.get("conditional") else None
    results = []
    for compiled in (False, True):
        model.compile_step(compiled)
        model.zero_grad()
        bound = model(x, context, noise)
        bound.free_energy().sum().backward()
        results.append(
            [*(part.detach() for part in bound if part is not None), *(p.grad for p in model.parameters())]
        )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert len(torch._dynamo.utils.counters["graph_break"]) == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2, "one graph serves every t"

    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    plain = small(4, **kind)
    plain.load_state_dict(twin.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(twin(x, context, noise), plain(x, context, noise))


def test_noise_that_is_no_multiple_of_the_images_is_refused():
    model = small(2)
    with pytest.raises(ValueError, match="noise for 5 images, which is no multiple of the 2 given"):
        model(torch.zeros(2, 1, 9, 9), None, noise_of(model, 5))


@pytest.mark.parametrize(
    "kind",
    [{}, {"conditional": True, "error_image": True}, {"attention": "random", "windows": 2}],
    ids=str,
)
def test_k_samples_an_image_are_k_runs(kind: dict):
    model = small(3, **kind)
    x, noise = torch.rand(2, 1, 9, 9).round(), noise_of(model, 6)
    context = 1 - x if kind.get("conditional") else None
    together = model.infer(x, context, noise)
    for sample in range(3):
        mine = slice(2 * sample, 2 * sample + 2)
        alone = model.infer(x, context, noise[:, mine].contiguous())
        torch.testing.assert_close(together.z[:, mine], alone.z)
        torch.testing.assert_close(together.log_ratio[:, mine], alone.log_ratio)


def test_threads_run_one_model_side_by_side():
    model = small(6)
    noise = noise_of(model, 9)
    alone = model.sample(noise).detach()

    def sample(_: int) -> bool:
        with torch.no_grad():
            return torch.allclose(model.sample(noise), alone, atol=1e-6)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(sample, range(40)))


def test_the_same_threads_give_the_same_bits():
    model = small(3)
    x, noise = (torch.rand(9, 1, 9, 9) < 0.3).float(), noise_of(model, 9)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(x, None, noise).free_energy().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    for one, other in zip(gradients(), gradients(), strict=True):
        assert torch.equal(one, other)
