"""The Glow of W1 in the hands of its peers: 3 x 32 x 32, three scales of eight steps, width 128.

Each is built from its package's own parts, as its documentation does it, on the same coupling
networks. What a package has no part for is left out: that makes it faster, not slower.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["HIDDEN", "PEERS", "SCALES", "SHAPE", "STEPS", "Flow"]

SHAPE, SCALES, STEPS, HIDDEN = (3, 32, 32), 3, 8, 128


@dataclass(frozen=True)
class Flow:
    """What is measured of one contender.

    Attributes:
        module: for its parameters and its mode.
        log_prob: images to (batch,), nats.
        sample: a number to as many images.
    """

    module: Any
    log_prob: Callable[[Any], Any]
    sample: Callable[[int], Any]


def freia() -> Flow:
    """FrEIA's AllInOneBlock: fixed channel permutations, standard normal latents."""
    import FrEIA.framework as fw
    import FrEIA.modules as fm
    import torch

    nodes = [fw.InputNode(*SHAPE)]
    outputs = []
    for scale in range(SCALES):
        nodes.append(fw.Node(nodes[-1], fm.IRevNetDownsampling, {}))
        block = {"subnet_constructor": _network}
        nodes.extend(_several(fw, nodes[-1], fm.AllInOneBlock, block))
        if scale < SCALES - 1:
            channels = SHAPE[0] * 2 ** (scale + 2)
            halves = {"section_sizes": [channels // 2] * 2, "dim": 0}
            split = fw.Node(nodes[-1], fm.Split, halves)
            outputs.append(fw.OutputNode(split.out1))
            nodes.append(split)
    outputs.append(fw.OutputNode(nodes[-1]))
    net = fw.GraphINN([*nodes, *outputs])
    with torch.no_grad():
        shapes = [z.shape[1:] for z in net(torch.zeros(1, *SHAPE))[0]]

    def log_prob(x):
        latents, logdet = net(x)
        return sum(_normal(z) for z in latents) + logdet

    def sample(n):
        return net([torch.randn(n, *shape) for shape in shapes], rev=True, jac=False)[0]

    return Flow(net, log_prob, sample)


def _several(fw: Any, node: Any, kind: Any, options: dict[str, Any]) -> list[Any]:
    nodes = []
    for _ in range(STEPS):
        node = fw.Node(node, kind, options)
        nodes.append(node)
    return nodes


def normflows() -> Flow:
    """normflows' multi-scale Glow: LU-decomposed 1x1 convolutions, learned normal latents."""
    import normflows as nf

    bases, flows, merges = [], [], []
    for scale in reversed(range(SCALES)):  # from the last scale to the pixels
        channels, side = SHAPE[0] * 2 ** (scale + 2), SHAPE[1] // 2 ** (scale + 1)
        steps = [nf.flows.GlowBlock(channels, HIDDEN) for _ in range(STEPS)]
        flows.append([*steps, nf.flows.Squeeze()])
        last = scale == SCALES - 1
        if not last:
            merges.append(nf.flows.Merge())
        bases.append(nf.distributions.GlowBase((channels if last else channels // 2, side, side)))
    net = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    return Flow(net, lambda x: net.log_prob(x, None), lambda n: net.sample(n)[0])


def nflows() -> Flow:
    """nflows' Glow, as in its image examples: LU-decomposed 1x1 convolutions, normal latents."""
    from nflows import distributions, flows, transforms

    net = transforms.MultiscaleCompositeTransform(SCALES)
    shape = SHAPE
    for _ in range(SCALES):
        squeeze = transforms.SqueezeTransform()
        shape = squeeze.get_output_shape(*shape)
        parts = [squeeze]
        for _ in range(STEPS):
            parts += [
                transforms.ActNorm(shape[0]),
                transforms.OneByOneConvolution(shape[0]),
                transforms.AffineCouplingTransform(_second_half(shape[0]), _with_context),
            ]
        shape = net.add_transform(transforms.CompositeTransform(parts), shape)
    dims = SHAPE[0] * SHAPE[1] * SHAPE[2]
    flow = flows.Flow(net, distributions.StandardNormal([dims]))
    return Flow(flow, flow.log_prob, flow.sample)


def _second_half(channels: int) -> list[int]:
    return [0] * (channels // 2) + [1] * (channels - channels // 2)


def _network(channels: int, out: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(channels, HIDDEN, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(HIDDEN, HIDDEN, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(HIDDEN, out, 3, padding=1),
    )


def _with_context(channels: int, out: int) -> Any:
    """The same network, called with a context too, which is none."""
    net = _network(channels, out)
    net.forward = lambda x, context, forward=net.forward: forward(x)
    return net


def _normal(z: Any) -> Any:
    """Log-density of a standard normal, up to its constant."""
    return -0.5 * z.flatten(1).square().sum(1)


PEERS: dict[str, Callable[[], Flow]] = {
    "FrEIA": freia,
    "normflows": normflows,
    "nflows": nflows,
}
