"""The MNIST network: its size, its start, and the authors' own numbers on the same weights."""

import math

from lightning_modules.neural_entropy import ConvUNet, NeuralEntropy
from lightning_modules.neural_entropy import unet as layers

import pytest
import torch
from official import DTYPES, arrays
from torch.nn import functional as F
from unets import build, one_step, scrambled, trainable

TINY = {"channels": (8, 16, 16, 32), "embedding": 16}


# ------------------------------------------------------------------------------ ConvUNet: its size
def test_trainable_parameters_of_the_mnist_network():
    with torch.device("meta"):
        net = ConvUNet()
    assert trainable(net) == 1_115_297
    assert {n: b.numel() for n, b in net.named_buffers()} == {"frequencies": 128}
    assert "frequencies" in net.state_dict()


def test_mnist_network_starts_as_truncated_lecun_normal():
    net = build(ConvUNet)
    fan_in = {"out": 9 * 64, "embed.weight": 256, "shift.weight": 256}
    fan_in |= {f"down.{k}.kernel": 9 * n for k, n in enumerate([1, 32, 64, 128])}
    fan_in |= {f"up.{k}.kernel": 9 * n for k, n in enumerate([256, 256, 128])}
    for name, p in net.named_parameters():
        if name in fan_in:
            std = fan_in[name] ** -0.5
            rel = 5 * math.sqrt(1.37 / p.numel()) / 2  # 5 standard errors
            assert float(p.detach().std()) == pytest.approx(std, rel=rel), name
            assert float(p.detach().abs().max()) <= 2 * std / 0.8796, name
        else:
            assert torch.equal(p, torch.full_like(p, name.endswith("norm.weight"))), name
    assert float(net.frequencies.std()) == pytest.approx(30, rel=0.35)
    assert layers.EPS == 1e-6
    assert [s.groups for s in [*net.down, *net.up]] == [4, 32, 32, 32, 32, 32, 32]


def test_zero_output_is_exactly_zero():
    y, s = torch.randn(3, 1, 28, 28), torch.rand(3)
    assert not build(ConvUNet, **TINY, zero_output=True)(y, s).any()
    assert build(ConvUNet, **TINY)(y, s).any()


# ------------------------------------------------------------------------- ConvUNet: what it does
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (2, 3, 17, 20)])
@pytest.mark.parametrize("shared", [True, False])
def test_gathered_patches_equal_convolutions(shape, shared, monkeypatch):
    """Products of patches and PyTorch's own layers: one function, one gradient."""
    net = scrambled(build(ConvUNet, **TINY, in_channels=shape[1]).double())
    y = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    s = torch.rand(1 if shared else len(y), dtype=torch.float64)
    inputs = [y, *net.parameters()]
    e = net(y, s)
    assert e.shape == y.shape
    ours = torch.autograd.grad(e.square().sum(), inputs)
    monkeypatch.setattr(layers, "is_cpu", lambda x: False)
    plain = net(y, s)
    torch.testing.assert_close(e, plain, rtol=1e-10, atol=1e-10)
    theirs = torch.autograd.grad(plain.square().sum(), inputs)
    atol = 1e-12 * max(float(g.abs().max()) for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=atol)


def test_mnist_network_by_hand():
    """Section 4.2 in PyTorch's plainest layers, on weights of no special form."""
    net = scrambled(build(ConvUNet, **TINY).double())
    w = net.state_dict()
    y = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    s = torch.rand(4, dtype=torch.float64)
    phase = 2 * math.pi * s[:, None] * w["frequencies"]
    emb = F.linear(torch.cat([phase.sin(), phase.cos()], 1), w["embed.weight"], w["embed.bias"])
    shifts = F.linear(F.silu(emb), w["shift.weight"], w["shift.bias"])

    def finish(h, name, groups, start):
        h = h + shifts[:, start : start + h.shape[1], None, None]
        weight, bias = w[f"{name}.norm.weight"], w[f"{name}.norm.bias"]
        return F.silu(F.group_norm(h, groups, weight, bias, 1e-6))

    skips, h, start = [], y, 0
    for k, (groups, stride) in enumerate([(4, 1), (16, 2), (16, 2), (32, 2)]):
        kernel = w[f"down.{k}.kernel"].permute(0, 3, 1, 2)
        h = finish(F.conv2d(h, kernel, stride=stride), f"down.{k}", groups, start)
        start += h.shape[1]
        skips.append(h)
    assert [h.shape[-1] for h in skips] == [26, 12, 5, 2]
    for k, (groups, more) in enumerate([(16, 0), (16, 1), (8, 1)]):
        h = torch.cat([h, skips[3 - k]], 1) if k else h
        kernel = w[f"up.{k}.kernel"].permute(3, 2, 0, 1)
        h = F.conv_transpose2d(h, kernel, stride=2, output_padding=more)
        h = finish(h, f"up.{k}", groups, start)
        start += h.shape[1]
    kernel = w["out"].permute(3, 2, 0, 1)
    want = F.conv_transpose2d(torch.cat([h, skips[0]], 1), kernel, w["bias"])
    torch.testing.assert_close(net(y, s), want, rtol=1e-10, atol=1e-10)


def test_norm_of_a_constant_image_is_finite():
    net = build(ConvUNet, **TINY)
    assert net(torch.full((2, 1, 28, 28), 37.0), torch.rand(2)).isfinite().all()


def test_rows_of_a_large_batch_do_not_mix():
    net = scrambled(build(ConvUNet, **TINY)).double()
    y = torch.randn(150, 1, 28, 28, dtype=torch.float64)
    s = torch.rand(150, dtype=torch.float64)
    with torch.no_grad():
        apart = torch.cat([net(y[k : k + 1], s[k : k + 1]) for k in (0, 63, 64, 149)])
        torch.testing.assert_close(net(y, s)[[0, 63, 64, 149]], apart)
        torch.testing.assert_close(net(y, s[:1]), net(y, s[:1].expand(150)))


def test_phase_is_in_full_precision_under_autocast():
    """The phase reaches 30 sigma 2 pi; in bfloat16 the sines of s and s + 0.003 would be noise."""
    torch.manual_seed(0)  # weights of other seeds differ by up to 0.04
    net = build(ConvUNet, **TINY)
    y, s = torch.randn(8, 1, 28, 28), torch.rand(8)
    seen = []
    net.embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        full = net(y, s)
        with torch.autocast("cpu", torch.bfloat16):
            low = net(y, s)
    assert torch.equal(*seen)
    assert float((low.float() - full).norm() / full.norm()) < 0.03


def test_mnist_network_trains_a_step():
    for autocast in (False, True):
        net = build(ConvUNet, **TINY)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            one_step(net, torch.rand(4, 1, 28, 28), torch.rand(4))


@pytest.mark.parametrize(
    ("options", "shape", "line"),
    [
        ({}, (2, 1, 16, 28), "16 x 28 is too small for 4 stages: give 17 x 17"),
        ({}, (2, 3, 28, 28), "in_channels to 3"),
        ({"channels": (8,)}, None, "at least two widths"),
        ({"embedding": 15}, None, "even embedding"),
    ],
)
def test_mnist_network_refuses_what_does_not_fit(options, shape, line):
    with pytest.raises(ValueError, match=line):
        build(ConvUNet, **(TINY | options))(torch.rand(shape), torch.rand(2))


# ----------------------------------------------------------------- the authors' arrays, section 5b
TOLERANCE = {"f64": 1e-9, "f32": 1e-5}  # of reference/README.md


class Reference:
    """The authors' arrays in one precision, and our network with their weights."""

    def __init__(self, arrays: dict[str, torch.Tensor], precision: str) -> None:
        self.arrays, self.precision, self.dtype = arrays, precision, DTYPES[precision]
        self.net = build(ConvUNet, channels=(32, 64, 32, 64), embedding=32).to(self.dtype)
        self.net.load_state_dict(self.weights())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.arrays[name].to(self.dtype)

    def weights(self) -> dict[str, torch.Tensor]:
        """Theirs under our names; the decoder's kernels act flipped on a dilated input."""
        w = {n[2:]: self[n] for n in self.arrays if n.startswith("w/")}
        ours = {
            "frequencies": w.pop("GaussianFourierProjection_0/W"),
            "embed.weight": w.pop("Dense_0/kernel").T,
            "embed.bias": w.pop("Dense_0/bias"),
            "out": w.pop("Conv_7/kernel").flip(0, 1).permute(0, 1, 3, 2),
            "bias": w.pop("Conv_7/bias"),
        }
        dense = [f"Dense_{k}/Dense_0" for k in range(1, 8)]
        ours["shift.weight"] = torch.cat([w.pop(f"{d}/kernel").T for d in dense])
        ours["shift.bias"] = torch.cat([w.pop(f"{d}/bias") for d in dense])
        for k in range(7):
            stage = f"down.{k}" if k < 4 else f"up.{k - 4}"
            kernel = w.pop(f"Conv_{k}/kernel")
            ours[f"{stage}.kernel"] = (
                kernel.permute(3, 0, 1, 2) if k < 4 else kernel.flip(0, 1).permute(0, 1, 3, 2)
            )
            ours[f"{stage}.norm.weight"] = w.pop(f"GroupNorm_{k}/scale")
            ours[f"{stage}.norm.bias"] = w.pop(f"GroupNorm_{k}/bias")
        assert not w
        return ours

    def check(self, ours: torch.Tensor, name: str, factor: float = 1.0) -> None:
        want, tolerance = self[f"{self.precision}/{name}"], factor * TOLERANCE[self.precision]
        atol = tolerance * float(want.abs().max())
        torch.testing.assert_close(ours, want, rtol=tolerance, atol=atol)


@pytest.fixture(params=["f64", "f32"])
def reference(request) -> Reference:
    return Reference(arrays("f5b_ne_unet28_small"), request.param)


@pytest.mark.data
def test_authors_output(reference):
    e = reference.net(reference["x"].permute(0, 3, 1, 2), reference["s"])
    reference.check(e.permute(0, 2, 3, 1), "e_theta")


@pytest.mark.parametrize(
    ("process", "weighting"), [("VP", "unit"), ("VP", "ml"), ("VPx", "unit"), ("SL", "unit")]
)
@pytest.mark.data
def test_authors_losses(reference, process, weighting):
    model = NeuralEntropy(reference.net, process.lower(), weighting=weighting)
    lo, hi = model.process.s_min, model.process.s_max
    s, z = lo + (hi - lo) * reference["loss_u"], reference["loss_z"].permute(0, 3, 1, 2)
    x = reference["x"].permute(0, 3, 1, 2)
    x = x.repeat_interleave(len(s) // len(x), 0)
    name = {"unit": "loss_unweighted", "ml": "loss_weighted"}[weighting]
    factor = 1.0 if process == "VP" or reference.precision == "f64" else 2.0  # README's 2e-5
    reference.check(model.objective(x, s, z).mean(), f"{process}/{name}", factor)
