"""What EIW-Flow's evaluators measure without a trained flow: bits of a PNG, memory of a step."""

from types import SimpleNamespace

from lightning_modules import EIWFlow
from lightning_modules.eiw_flow import Glow, Uniform

import pytest
import torch

from reproduce.eiw_flow import cost_evaluators
from reproduce.eiw_flow.evaluators import png


def flow(order="identity"):
    return EIWFlow(Glow((3, 8, 8), steps=1, hidden=4, order=order), Uniform(bits=8))


# ------------------------------------------------------------------------------------- a PNG
def bits_of(x):
    return png(flow(), SimpleNamespace(x_eval=x.float()))["png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_costs_all_its_bits_and_one_colour_almost_none(channels):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (200, channels, 16, 16), generator=rng)
    assert bits_of(noise) == pytest.approx(8, rel=0.06)  # a byte a row says how it is filtered
    assert bits_of(torch.full_like(noise, 7)) < 0.05


def test_a_png_sees_neighbours():
    """Rows that rise by one cost little; the same pixels shuffled cost at least their entropy."""
    ramp = torch.arange(32).expand(64, 1, 32, 32)
    shuffled = ramp.flatten()[torch.randperm(ramp.numel(), generator=torch.Generator())]
    assert bits_of(ramp) < 0.2
    assert 5 < bits_of(shuffled.reshape(ramp.shape)) < 6


def test_all_channels_of_all_images_are_in_it():
    """Noise in one channel of three costs at least its entropy, and half with as many blanks."""
    rng = torch.Generator().manual_seed(0)
    x = torch.zeros(100, 3, 16, 16)
    x[:, 1] = torch.randint(256, (100, 16, 16), generator=rng)
    assert 8 / 3 < bits_of(x) < 4
    assert bits_of(torch.cat([x, torch.zeros_like(x)])) == pytest.approx(bits_of(x) / 2, rel=0.02)


# ---------------------------------------------------------------------------------- memory
def test_what_autograd_keeps_is_counted_once(monkeypatch):
    """exp keeps its result, a product what it was multiplied with; the same tensor is one."""
    n = 1000
    w = torch.ones(n, requires_grad=True)

    def step(model, x):
        once = (x * w).exp()  # keeps x and the result
        (once * x).sum().backward()  # keeps x again

    monkeypatch.setattr(cost_evaluators, "_step", step)
    assert cost_evaluators.kept(flow(), torch.rand(n)) == 2 * 4 * n


def test_memory_of_a_step_grows_with_the_batch_and_shuffle_adds_to_it():
    model = flow("eiw")
    sizes = [cost_evaluators.kept(model, torch.zeros(n, 3, 8, 8)) for n in (64, 128, 192)]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.01)
    found = cost_evaluators.memory(model, SimpleNamespace(bits=8))
    assert found["kept_shuffle_mb"] > found["kept_vanilla_mb"] > 0
    ratio = found["kept_shuffle_mb"] / found["kept_vanilla_mb"]
    assert found["memory_ratio"] == pytest.approx(ratio)
    still = cost_evaluators.memory(flow("identity"), SimpleNamespace(bits=8))
    assert still["memory_ratio"] == 1
