"""The CIFAR-10 network: its size, its start, and each of its parts by hand."""

import math

from lightning_modules.neural_entropy import AttentionUNet
from lightning_modules.neural_entropy import attention_unet as attention_layers
from lightning_modules.neural_entropy import unet as layers
from lightning_modules.neural_entropy.attention_unet import Attention

import pytest
import torch
from torch.nn import functional as F
from unets import build, one_step, scrambled, trainable

SMALL = {"image_size": 8, "in_channels": 1, "base_channels": 8, "attention_at": (4, 2)}


def test_trainable_parameters_of_the_cifar_network():
    with torch.device("meta"):
        net, free = AttentionUNet(), AttentionUNet(classes=0)
        out = net(torch.empty(5, 3, 32, 32), torch.empty(5), torch.empty(5, dtype=torch.int64))
    assert trainable(net) == 42_096_131
    assert trainable(free) == 42_096_131 - 11 * 1024
    assert out.shape == (5, 3, 32, 32)
    attention = [n for n, m in net.named_modules() if isinstance(m, Attention)]
    assert len(attention) == 11  # 2 + 2 down, 1 in the middle, 3 + 3 up
    assert not any(n.startswith(("down.0", "up.2")) for n in attention)


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        SMALL | {"image_size": 28, "attention_at": (14, 7), "multipliers": (1, 2, 1)},
        SMALL | {"image_size": 16, "in_channels": 3, "attention_at": (8,), "embedding": 20},
    ],
)
def test_cifar_network_starts_at_zero_and_trains(options):
    net = build(AttentionUNet, **options)
    shape = 4, net.shape[0], net.shape[1], net.shape[1]
    y, s, c = torch.randn(shape), torch.rand(4), torch.arange(4)
    e = net(y, s, c)
    assert e.shape == y.shape
    assert not e.any()
    one_step(scrambled(net), y, s, c)


def test_cifar_network_by_hand():
    """Section 4.3 in PyTorch's plainest layers, on weights of no special form."""
    net = scrambled(build(AttentionUNet, **SMALL).double()).eval()
    w = net.state_dict()
    y, c = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([2, 0, 9])
    s = torch.rand(3, dtype=torch.float64)

    def dense(name, v):
        return F.linear(v, w[f"{name}.weight"], w[f"{name}.bias"])

    def conv(name, v, stride=1):
        kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return F.conv2d(v, kernel, bias, stride, kernel.shape[2] // 2 if stride == 1 else 0)

    def norm(name, v):
        return F.group_norm(v, v.shape[1], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    phase = 1000 * s[:, None] * torch.exp(-math.log(10_000) * torch.arange(4) / 3)
    emb = dense("embed.0", torch.cat([phase.sin(), phase.cos()], 1))
    emb = dense("embed.2", F.silu(emb)) + dense("embed_class", torch.eye(10).double()[c])
    films = iter(dense("film", F.silu(emb)).split(16, 1))

    def block(name, v, attention):
        scale, shift = (f[:, :, None, None] for f in next(films).chunk(2, 1))
        h = conv(f"{name}.first", F.silu(norm(f"{name}.norm1", v)))
        h = F.silu(norm(f"{name}.norm2", h) * (1 + scale) + shift)
        h = conv(f"{name}.second", h)
        h = h + (conv(f"{name}.shortcut", v) if v.shape[1] != 8 else v)
        if not attention:
            return h
        q, k, a = conv(f"{name}.attention.qkv", norm(f"{name}.attention.norm", h)).chunk(3, 1)
        score = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(8)
        score = score.flatten(3).softmax(-1).view_as(score)
        mixed = torch.einsum("bhwij,bcij->bchw", score, a)
        return h + conv(f"{name}.attention.project", mixed)

    h = conv("enter", y)
    skips = [h]
    for k in range(3):
        for i in range(2):
            h = block(f"down.{k}.{i}", h, k > 0)
            skips.append(h)
        if k < 2:
            wide = h.new_zeros(3, 8, h.shape[2] + 1, h.shape[3] + 1)
            wide[:, :, :-1, :-1] = h
            h = conv(f"down.{k}.2", wide, stride=2)
            skips.append(h)
    h = block("middle.1", block("middle.0", h, True), False)
    for k in range(3):
        for i in range(3):
            h = block(f"up.{k}.{i}", torch.cat([h, skips.pop()], 1), k < 2)
        if k < 2:
            h = conv(f"up.{k}.3", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
    h = F.group_norm(h, 8, w["norm.weight"], w["norm.bias"], 1e-6)
    want = conv("leave", F.silu(h))
    torch.testing.assert_close(net(y, s, c), want, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------------- its inputs
def test_plain_layers_and_fused_kernels_agree(monkeypatch):
    """What other devices run: the same function and gradient."""
    net = scrambled(build(AttentionUNet, **SMALL | {"base_channels": 40}).double()).eval()
    y = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    inputs = torch.rand(2, dtype=torch.float64), torch.tensor([1, 7])
    ours = net(y, *inputs)
    (gradient,) = torch.autograd.grad(ours.square().sum(), y)
    for module in (layers, attention_layers):
        monkeypatch.setattr(module, "is_cpu", lambda x: False)
    plain = net(y, *inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    (want,) = torch.autograd.grad(plain.square().sum(), y)
    torch.testing.assert_close(gradient, want, rtol=1e-8, atol=1e-8 * float(want.abs().max()))


def test_time_label_and_dropout_of_the_cifar_network():
    net = scrambled(build(AttentionUNet, **SMALL, dropout=0.5)).double()
    y, c = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    s = torch.rand(1, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.equal(net(y, s, c), net(y, s, c))
        net.eval()
        e = net(y, s, c)
        assert torch.equal(e, net(y, s, c))
        torch.testing.assert_close(e, net(y, s.expand(4), c))
        assert not torch.allclose(e, net(y, s + 0.01, c))
        other = net(y, s, torch.tensor([0, 1, 2, 8]))
        torch.testing.assert_close(e[:3], other[:3])
        assert not torch.allclose(e[3], other[3])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "has 10 classes but the data have no labels"),
        ({"classes": 0, "in_channels": 3}, "3 x 8 x 8, not 1 x 8 x 8"),
        ({"image_size": 10}, "image_size 10 cannot be halved 2 times"),
        ({"attention_at": (4, 3)}, r"\[3\] is not among the resolutions \[8, 4, 2\]"),
        ({"base_channels": 7}, "odd"),
    ],
)
def test_cifar_network_refuses_what_does_not_fit(options, line):
    with pytest.raises(ValueError, match=line):
        build(AttentionUNet, **SMALL | options)(torch.rand(2, 1, 8, 8), torch.rand(2))
