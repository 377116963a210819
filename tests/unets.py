"""Small image networks for tests, with weights of no special form."""

import torch


def build(kind, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(**options)


def trainable(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def scrambled(net: torch.nn.Module, seed=3) -> torch.nn.Module:
    """Weights of no special form: none of them zero or one."""
    rng = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        fan_in = max(p[0].numel(), 1) if p.dim() > 1 else 1
        p.data = torch.randn(p.shape, generator=rng, dtype=p.dtype) / fan_in**0.5
    return net


def one_step(net, *inputs) -> None:
    """A step of Adam with finite gradients everywhere, which moves every weight."""
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(*inputs).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
