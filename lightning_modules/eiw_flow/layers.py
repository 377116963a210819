"""The bijections of a Glow step: ActNorm, a 1x1 convolution, an affine coupling; and squeeze."""

from collections.abc import Iterable

from lightning_modules.distributed import moments
from lightning_modules.flows import Chain, Noise, Transform
from lightning_modules.precision import bf16

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "ConvNet",
    "FlowStep",
    "Mix1x1",
    "Squeeze",
    "Steps",
    "bounded_scale",
]

Images = Float[Tensor, "batch C H W"]
Half = Float[Tensor, "batch _ H W"]
Quarter = Float[Tensor, "batch 4*C H//2 W//2"]
PerSample = Float[Tensor, " batch"]


def bounded_scale(s: Tensor) -> Tensor:
    """The log-scale ``2 tanh(s / 2)`` of DenseFlow: the identity near 0, bounded by 2."""
    return 2 * torch.tanh(s / 2)


class ActNorm(Transform):
    """``y = (x - shift) exp(-log_scale)``, per channel (Glow; signs of the DenseFlow code).

    The first batch in training mode sets ``shift`` to its mean and ``log_scale`` to the logarithm
    of its standard deviation (unbiased, + 1e-6), over all devices together. That it has been so
    is a buffer: a resumed model is not initialised again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(False))
        self._known = False  # the buffer's value, which to read would wait for a GPU

    @torch.no_grad()
    def prepare(self, x: Images) -> None:
        """Initialise from ``x`` if this is the first batch that is trained on."""
        if self._known or not self.training:
            return
        mean, variance = moments(x, (0, 2, 3), correction=1)
        self.shift.copy_(mean)
        self.log_scale.copy_((variance.sqrt() + 1e-6).log())
        self.initialized.fill_(True)
        self._known = True

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Images, PerSample]:
        self.prepare(x)
        logdet = -x[0, 0].numel() * self.log_scale.sum()
        return (x - self.shift) * torch.exp(-self.log_scale), logdet.expand(len(x))

    def inverse(self, y: Images) -> Images:
        return y * torch.exp(self.log_scale) + self.shift

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = bool(self.initialized)


class Mix1x1(Transform):
    """The invertible 1x1 convolution ``y = W x`` at each pixel: full matrix, orthogonal start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels))
        nn.init.orthogonal_(self.weight)

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Images, PerSample]:
        logdet = x[0, 0].numel() * torch.linalg.slogdet(self.weight).logabsdet
        return F.conv2d(x, self.weight[:, :, None, None]), logdet.expand(len(x))

    def inverse(self, y: Images) -> Images:
        return F.conv2d(y, torch.linalg.inv(self.weight)[:, :, None, None])


class AffineCoupling(Transform):
    """``y1 = x1, y2 = exp(log_scale) x2 + t`` where ``net(x1)`` gives scale and shift.

    The first half of the channels conditions, the second changes; outputs of the net are
    interleaved per channel, ``s0 t0 s1 t1 ...``, and ``log_scale = 2 tanh(s / 2)``.

    A ``context`` (batch, K, H, W) is read by the net too, behind the half that conditions.

    Args:
        net: (batch, C // 2 + K, H, W) to (batch, 2 (C - C // 2), H, W).
        bf16: run the net under bf16 autocast while training; scale, shift and log-determinant stay
            in full precision. Evaluation and inverse never do: roundings would flip.
    """

    def __init__(self, net: nn.Module, bf16: bool = False) -> None:
        super().__init__()
        self.net, self.bf16 = net, bf16

    def forward(
        self, x: Images, noise: Noise | None = None, context: Half | None = None
    ) -> tuple[Images, PerSample]:
        x1, x2 = _halves(x)
        y2, logdet = self.change(x1, x2, context)
        return torch.cat([x1, y2], 1), logdet

    def inverse(self, y: Images, context: Half | None = None) -> Images:
        x1, y2 = _halves(y)
        return torch.cat([x1, self.restore(x1, y2, context)], 1)

    def change(self, x1: Half, x2: Half, context: Half | None = None) -> tuple[Half, PerSample]:
        """``y2``, and the log-determinant."""
        log_scale, t = self._scale_and_shift(x1, context)
        return torch.addcmul(t, x2, log_scale.exp()), log_scale.sum((1, 2, 3))

    def restore(self, x1: Half, y2: Half, context: Half | None = None) -> Half:
        """``x2``."""
        log_scale, t = self._scale_and_shift(x1, context)
        return (y2 - t) * torch.exp(-log_scale)

    def _scale_and_shift(self, x1: Half, context: Half | None) -> tuple[Half, Half]:
        # a half lies scattered in memory: gathered here, for the passes forward and backward both
        read = x1.contiguous(memory_format=torch.channels_last)
        read = read if context is None else torch.cat([read, context], 1)
        with bf16(x1, self.bf16 and self.training):
            out = self.net(read)
        s, t = out.to(x1.dtype).unflatten(1, (-1, 2)).unbind(2)
        return bounded_scale(s), t


class Squeeze(Transform):
    """Every 2 x 2 pixels become channels: channel c, sub-pixel (i, j) is channel 4c + 2i + j.

    Raises:
        ValueError: an odd height or width.
    """

    def forward(
        self, x: Images, noise: Noise | None = None
    ) -> tuple[Float[Tensor, "batch 4*C H//2 W//2"], PerSample]:
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"{x.shape[2]} x {x.shape[3]} pixels cannot be squeezed by 2: "
                "pad the images or take fewer scales"
            )
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, y: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        return F.pixel_shuffle(y, 2)


class FlowStep(Transform):
    """ActNorm, 1x1 convolution, affine coupling: one step of Glow, one module of DenseFlow.

    ActNorm and the 1x1 convolution are one convolution with a bias, computed as one. The halves
    leave in the other order, the changed one first.
    """

    def __init__(self, channels: int, net: nn.Module, bf16: bool = False) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.mix = Mix1x1(channels)
        self.coupling = AffineCoupling(net, bf16)

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Images, PerSample]:
        x, logdet = self.move(x)
        return x, logdet + x[0, 0].numel() * _fixed([self])

    def move(self, x: Images) -> tuple[Images, PerSample]:
        """``y``, and the coupling's part of the log-determinant."""
        self.norm.prepare(x)
        log_scale, shift = self.norm.log_scale.flatten(), self.norm.shift.flatten()
        weight = self.mix.weight * torch.exp(-log_scale)
        x1, x2 = _halves(F.conv2d(x, weight[:, :, None, None], -(weight @ shift)))
        y2, logdet = self.coupling.change(x1, x2)
        return torch.cat([y2, x1], 1), logdet

    def inverse(self, y: Images) -> Images:
        return self.move_back(y, torch.linalg.inv(self.mix.weight))

    def move_back(self, y: Images, unmix: Float[Tensor, "C C"]) -> Images:
        """``x``, with the inverse of the 1x1 convolution's matrix."""
        half = y.shape[1] // 2
        y2, x1 = y.split([y.shape[1] - half, half], 1)
        x = torch.cat([x1, self.coupling.restore(x1, y2)], 1)
        log_scale, shift = self.norm.log_scale.flatten(), self.norm.shift.flatten()
        weight = log_scale.exp()[:, None] * unmix
        return F.conv2d(x, weight[:, :, None, None], shift)


class Steps(Chain):
    """Flow steps of one width; the determinants of all their matrices are taken at once."""

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Images, PerSample]:
        total = x.new_zeros(len(x))
        for step in self.transforms:
            x, logdet = step.move(x)
            total = total + logdet
        return x, total + x[0, 0].numel() * _fixed(self.transforms)

    def inverse(self, y: Images) -> Images:
        unmix = torch.linalg.inv(torch.stack([step.mix.weight for step in self.transforms]))
        for step, inverse in zip(reversed(self.transforms), unmix.flip(0), strict=True):
            y = step.move_back(y, inverse)
        return y


def _fixed(steps: Iterable[FlowStep]) -> Float[Tensor, ""]:
    """The log-determinants of ActNorm and 1x1 convolution at one pixel, summed over the steps."""
    mixes = torch.stack([step.mix.weight for step in steps])
    scales = torch.stack([step.norm.log_scale for step in steps])
    return torch.linalg.slogdet(mixes).logabsdet.sum() - scales.sum()


class ConvNet(nn.Sequential):
    """Glow's coupling network: 3x3, 1x1 and 3x3 convolutions, the last one starting at zero."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        last = nn.Conv2d(hidden, out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1),
            ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            ReLU(),
            last,
        )


class ReLU(nn.Module):
    """In place both ways: between two convolutions nobody else needs values or gradients.

    Raises:
        RuntimeError: a second derivative is asked for.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _ReLU.apply(x) if torch.is_grad_enabled() else x.relu_()


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.relu_())
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)


def _halves(x: Images) -> tuple[Half, Half]:
    """The first C // 2 channels, which condition, and the others."""
    half = x.shape[1] // 2
    return x.split([half, x.shape[1] - half], 1)
