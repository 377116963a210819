"""Variational dequantisation: a flow learns what noise to add to each image."""

from lightning_modules.eiw_flow.dense_nets import DenseBlock, ResidualNet
from lightning_modules.eiw_flow.dequantize import Dequantizer
from lightning_modules.eiw_flow.layers import AffineCoupling, Mix1x1
from lightning_modules.eiw_flow.priors import Diagonal
from lightning_modules.flows import Noise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VariationalDequantizer"]

Images = Float[Tensor, "batch C H W"]
PerSample = Float[Tensor, " batch"]


class VariationalDequantizer(Dequantizer):
    """Noise from a conditional flow, as in DenseFlow (section 5.3; ``DequantizationFlow``).

    A normal draw on squeezed pixels passes 1x1 convolutions and affine couplings that read the
    image through a dense network; unsqueezed, its sigmoid is the noise u.

    Args:
        shape: (C, H, W) of an image; H and W even.
        bits: b; pixels are integers from 0 to 2^b - 1.
        steps: number of couplings.
        mid, depth, growth: of their networks.
        context_depth, context_growth: of the two dense blocks that read the image into ``mid``
            channels.
        bf16: couplings train under bf16 autocast.

    Raises:
        ValueError: an odd height or width.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        bits: int = 8,
        steps: int = 4,
        mid: int = 64,
        depth: int = 4,
        growth: int = 64,
        context_depth: int = 4,
        context_growth: int = 16,
        bf16: bool = False,
    ) -> None:
        super().__init__(bits)
        channels, *sides = shape
        if any(side % 2 for side in sides):
            raise ValueError(f"{sides[0]} x {sides[1]} pixels cannot be halved: pad the images")
        width = 4 * channels
        self.base = Diagonal(width)
        self.context = nn.Sequential(
            DenseBlock(channels, mid, context_depth, context_growth),
            nn.Conv2d(mid, mid, 2, stride=2),
            DenseBlock(mid, mid, context_depth, context_growth),
        )
        self.mixes = nn.ModuleList(Mix1x1(width) for _ in range(steps))
        self.couplings = nn.ModuleList(
            AffineCoupling(ResidualNet(width // 2 + mid, width, mid, depth, growth), bf16)
            for _ in range(steps)
        )
        self.last = Mix1x1(width)

    def draw(self, x: Images, noise: Noise) -> tuple[Images, PerSample]:
        """``u`` and ``log q(u | x)``, nats."""
        context = self.context(2 * x / (2**self.bits - 1) - 1)
        z = self.base.sample(F.pixel_unshuffle(x, 2), noise)
        log_density = self.base.log_prob(z)
        for mix, coupling in zip(self.mixes, self.couplings, strict=True):
            z, fixed = mix(z)
            z, logdet = coupling(z, context=context)
            log_density = log_density - fixed - logdet
        z, fixed = self.last(z)
        z = F.pixel_shuffle(z, 2)
        slope = F.logsigmoid(z) + F.logsigmoid(-z)
        return z.sigmoid(), log_density - fixed - slope.flatten(1).sum(1)
