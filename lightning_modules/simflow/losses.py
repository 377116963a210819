"""What reconstructions are judged by: L1, LPIPS, and a discriminator of patches."""

import hashlib
import math
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning_modules.weights import located

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "LPIPS",
    "PatchDiscriminator",
    "hinge_discriminator",
    "hinge_generator",
    "reconstruction",
]

Images = Float[Tensor, "batch C H W"]
Logits = Float[Tensor, "_ 1 _ _"]
PerSample = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]


def reconstruction(decoded: Images, images: Images) -> Scalar:
    """L1: the mean of ``|decoded - images|`` over the batch, channels and pixels."""
    return F.l1_loss(decoded, images)


# ---------------------------------------------------------------------------- perceptual distance
# widths of VGG16's 3x3 convolutions, a stage between two poolings; features leave after each
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# of each colour, from [-1, 1] to what the backbone was trained on
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
VARIABLE, FILE = "ENTROFLOW_VGG16", "vgg16-397923af.pth"


class LPIPS:
    """Perceptual distance of pairs of images in [-1, 1] (arXiv 1801.03924, v0.1 on VGG16).

    Features of five layers are brought to unit length over channels; their squared differences,
    weighted by channel, are averaged over pixels and added over layers.

    It is a plain object, so that a module that holds it neither trains nor saves it, and copies of
    the module share it. Files are read at the first call and follow the images' device and type;
    on the meta device none is needed.

    Args:
        backbone: torchvision's VGG16 state dict, ``vgg16-397923af.pth``; without, the file that
            ``$ENTROFLOW_VGG16`` names or that `make weights` has cached. It is not downloaded.
        heads: weights of the channels, the ``vgg.pth`` of LPIPS v0.1; torchmetrics' copy without.
        backbone_sha256, heads_sha256: how the SHA-256 of each file begins; "" takes any file.

    Raises:
        ValueError, OSError: (at a call, or by ``load``) a file is not named, absent, another one
            or damaged; images smaller than 16 pixels, or neither grey nor RGB.
    """

    def __init__(
        self,
        backbone: str | None = None,
        heads: str | None = None,
        backbone_sha256: str = "397923af",
        heads_sha256: str = "a78928a0",
    ) -> None:
        self.backbone, self.heads = backbone, heads
        self.backbone_sha256, self.heads_sha256 = backbone_sha256, heads_sha256
        self._weights: dict[tuple, dict[str, Tensor]] = {}  # by device and type

    def __deepcopy__(self, memo: dict) -> "LPIPS":
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_weights": {}}

    def __call__(self, images: Images, others: Images) -> PerSample:
        """The distance of each pair; gradients reach both images, never the weights."""
        if images.shape[1] not in (1, 3) or min(images.shape[2:]) < 16:
            raise ValueError(
                f"LPIPS takes grey or RGB images of 16 x 16 or more, not of "
                f"{' x '.join(map(str, images.shape[1:]))}: leave it out for these"
            )
        weights = self._weights_like(images)
        total = images.new_zeros(len(images))
        pairs = zip(_features(images, weights), _features(others, weights), strict=True)
        for k, (one, other) in enumerate(pairs):
            head = weights[f"lin{k}.model.1.weight"][0]
            total = total + (head * (_unit(one) - _unit(other)).square()).sum(1).mean((1, 2))
        return total

    @staticmethod
    def from_files() -> dict[str, int]:
        """Numbers of weights in the files."""
        files = {"VGG16": VGG16, "heads of LPIPS": HEADS}
        return {file: sum(map(math.prod, shapes.values())) for file, shapes in files.items()}

    def load(self) -> None:
        """Read the files now: before a long run, rather than in its first step."""
        self._weights_like(torch.empty(0, device="cpu"))

    @torch.inference_mode(False)  # whoever calls first, gradients pass through later
    def _weights_like(self, images: Tensor) -> dict[str, Tensor]:
        if images.is_meta:
            shapes = {"shift": (3, 1, 1), "scale": (3, 1, 1), **VGG16, **HEADS}
            return {k: images.new_empty(shape) for k, shape in shapes.items()}
        read = torch.device("cpu"), torch.float32
        if read not in self._weights:
            self._weights[read] = self._read()
        place = images.device, images.dtype
        if place not in self._weights:
            self._weights[place] = {k: v.to(*place) for k, v in self._weights[read].items()}
        return self._weights[place]

    def _read(self) -> dict[str, Tensor]:
        backbone = self.backbone or located(VARIABLE, FILE)
        if not backbone:
            raise ValueError(
                f"LPIPS needs torchvision's {FILE}, which is not downloaded: set {VARIABLE} to "
                "its path, or `make weights NAME=vgg16`, or leave LPIPS out"
            )
        heads = self.heads or heads_of_torchmetrics()
        return {
            "shift": torch.tensor(SHIFT, device="cpu")[:, None, None],
            "scale": torch.tensor(SCALE, device="cpu")[:, None, None],
            **_read(backbone, self.backbone_sha256, VGG16, f"torchvision's {FILE}"),
            **_read(heads, self.heads_sha256, HEADS, "the vgg.pth of LPIPS v0.1"),
        }


def _shapes() -> dict[str, tuple[int, ...]]:
    """Of VGG16's convolutions, under torchvision's names."""
    shapes, place, fan_in = {}, 0, 3
    for stage in STAGES:
        for channels in stage:
            shapes[f"features.{place}.weight"] = (channels, fan_in, 3, 3)
            shapes[f"features.{place}.bias"] = (channels,)
            place, fan_in = place + 2, channels  # a ReLU in between
        place += 1  # the pooling
    return shapes


VGG16 = _shapes()
HEADS = {f"lin{k}.model.1.weight": (1, stage[-1], 1, 1) for k, stage in enumerate(STAGES)}


def _features(images: Images, weights: dict[str, Tensor]) -> list[Tensor]:
    """What leaves the five stages of VGG16, in the images' type."""
    h = (images - weights["shift"]) / weights["scale"]  # grey becomes three channels
    names = iter(VGG16)
    features = []
    for k, stage in enumerate(STAGES):
        if k:
            h = F.max_pool2d(h, 2)
        for _ in stage:
            h = F.relu(F.conv2d(h, weights[next(names)], weights[next(names)], padding=1))
        features.append(h.to(images.dtype))
    return features


def _unit(feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return feature / (torch.linalg.vector_norm(feature, dim=1, keepdim=True) + 1e-10)


def heads_of_torchmetrics() -> str:
    """The path of the ``vgg.pth`` that comes with torchmetrics."""
    package = find_spec("torchmetrics")  # not imported, which takes seconds
    folder = Path(package.submodule_search_locations[0] if package else ".")
    return str(folder / "functional/image/lpips_models/vgg.pth")


def _read(
    given: str | Path, digits: str, shapes: dict[str, tuple[int, ...]], what: str
) -> dict[str, Tensor]:
    """The tensors of these names and shapes in a file that is told by its SHA-256."""
    path = Path(given).expanduser()
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OSError(f"LPIPS needs {what}: {path}: {error.strerror}") from None
    if not found.startswith(digits):
        raise ValueError(
            f"LPIPS needs {what}: {path} is another file, its sha256 is {found[:8]}..., not "
            f"{digits[:8]}..."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name: state[name].detach() for name in shapes}
    except Exception as error:  # any damage looks different: pickle, key and runtime errors
        raise ValueError(
            f"LPIPS needs {what}: {path} cannot be read ({type(error).__name__})"
        ) from None
    if bad := [name for name, shape in shapes.items() if tensors[name].shape != shape]:
        raise ValueError(f"LPIPS needs {what}: {bad[0]} in {path} has another shape")
    return tensors


# -------------------------------------------------------------------------------------- adversary
class PatchDiscriminator(nn.Sequential):
    """The discriminator of pix2pix: a logit for each of many overlapping patches.

    4x4 convolutions: one of stride 2 and LeakyReLU; ``layers - 1`` more of stride 2 and one of
    stride 1, each with BatchNorm; one of stride 1 to the logits. Widths double up to 8 ``width``.
    Three layers see 70 x 70 pixels and make 30 x 30 logits of 256 x 256 pixels. In training each
    call has the statistics of its own batch, and real and decoded images are two calls.

    Args:
        in_channels: of the images, (B, C, H, W).
        width: channels after the first convolution.
        layers: convolutions of stride 2.

    Raises:
        ValueError: no layer; (at a call) images too small for a logit.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, layers: int = 3) -> None:
        if layers < 1:
            raise ValueError(f"layers is {layers}: give at least 1")
        widths = [width * min(2**k, 8) for k in range(layers + 1)]
        parts = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for k, (fan_in, channels) in enumerate(pairwise(widths), 1):
            parts += [
                # BatchNorm adds the bias
                nn.Conv2d(fan_in, channels, 4, 2 if k < layers else 1, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.smallest = 3 * 2**layers  # two convolutions of stride 1 take a row each
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    def forward(self, images: Images) -> Logits:
        if min(images.shape[2:]) < self.smallest:
            raise ValueError(
                f"{images.shape[2]} x {images.shape[3]} pixels are too few for the discriminator: "
                f"give {self.smallest} x {self.smallest}, or fewer layers"
            )
        return super().forward(images)


def hinge_discriminator(real: Logits, decoded: Logits) -> Scalar:
    """``1/2 (relu(1 - real) + relu(1 + decoded))``, means over the batch and patches."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + decoded).mean())


def hinge_generator(decoded: Logits) -> Scalar:
    """``-decoded``, the mean over the batch and patches."""
    return -decoded.mean()
