"""REPA: the flow's hidden tokens, projected, shall point where a frozen teacher's tokens point.

The teacher is no part of the model: it is built when first asked, on the device that asks, and
neither parameters, checkpoints, averages nor copies know of it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_modules.weights import located

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TEACHERS", "VARIABLE", "Alignment", "conv_teacher", "dinov2_teacher"]

VARIABLE, FILE = "ENTROFLOW_DINOV2", "dinov2_vitb14_pretrain.pth"
DINOV2_WIDTH, DINOV2_LAYERS, DINOV2_PATCH = 768, 12, 14  # of ViT-B/14
TEACHERS = ("conv", "dinov2")
SMALL = 1e-4  # a token this short has no direction: rounding is all that an even image leaves

Images = Float[Tensor, "B C h w"]  # in [-1, 1]
Teacher = Callable[[Images], Float[Tensor, "B T d"]]


class Alignment(nn.Module):
    """Mean over tokens of ``1 - cos(projector(hidden), teacher(images))``, in [0, 2].

    A token without a direction, as of an even image, counts as orthogonal: 1.

    Args:
        width: of the flow's hidden tokens.
        teacher: ``conv``, a random pyramid of convolutions that needs no file, or ``dinov2``,
            ViT-B/14 by ``timm``, whose weights are the user's (see ``dinov2_teacher``).
        grid: side of the grid of tokens, which is the latent's.
        hidden: width of the projector's two hidden layers.
        teacher_width: of the conv teacher's tokens; DINOv2's are 768.
        seed: of the conv teacher, which depends on nothing else.

    Raises:
        ValueError: an unknown teacher, or a number too small.
    """

    def __init__(
        self,
        width: int,
        teacher: str = "conv",
        grid: int = 4,
        hidden: int = 2048,
        teacher_width: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if teacher not in TEACHERS:
            raise ValueError(f"unknown teacher {teacher!r}: choose one of {', '.join(TEACHERS)}")
        if grid < 2 or min(width, hidden, teacher_width) < 1:
            raise ValueError("grid must be at least 2, and widths at least 1")
        self.teacher, self.grid, self.seed = teacher, grid, seed
        self.teacher_width = DINOV2_WIDTH if teacher == "dinov2" else teacher_width
        self.projector = nn.Sequential(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, self.teacher_width),
        )
        self._built: tuple[Any, Teacher] | None = None  # for what, and the teacher

    def forward(self, hidden: Float[Tensor, "B T D"], images: Images) -> Float[Tensor, ""]:
        """The loss; its gradient reaches ``hidden`` and the projector alone.

        Args:
            hidden: tokens of a layer of the flow, row by row: a block that reads its tokens in
                another order has them put back first.
            images: those that the latents were made of, in [-1, 1].

        Raises:
            ValueError: tokens that are not as many as the grid has; as the teacher does.
        """
        if hidden.shape[1] != self.grid**2:
            raise ValueError(
                f"{hidden.shape[1]} tokens do not fill a grid of {self.grid} x {self.grid}: "
                "set the alignment's grid to the latent's side"
            )
        projected, wanted = self.projector(hidden), self.features(images)
        exact = torch.promote_types(projected.dtype, torch.float32)  # cosines not in bf16
        cos = F.cosine_similarity(projected.to(exact), wanted.to(exact), dim=-1, eps=SMALL)
        return 1 - cos.mean()

    def from_files(self) -> dict[str, int]:
        """Numbers of a teacher's weights in its file; the conv teacher has none."""
        if self.teacher != "dinov2":
            return {}
        d, tokens = DINOV2_WIDTH, self.grid**2 + 1  # of the class, too
        # attention and an MLP of ratio 4 with biases; two norms, two scales of branches
        layer = 12 * d**2 + 9 * d + 6 * d
        ends = (3 * DINOV2_PATCH**2 + 1) * d + d + tokens * d + 2 * d
        return {"DINOv2, not in the FLOPs": DINOV2_LAYERS * layer + ends}

    @torch.no_grad()
    def features(self, images: Images) -> Float[Tensor, "B T d"]:
        """The teacher's tokens, row by row.

        On the meta device DINOv2 is shapes alone, so that a run can be priced without its weights.

        Raises:
            ValueError: images smaller than the grid; DINOv2 without its library or weights.
        """
        if images.is_meta and self.teacher == "dinov2":
            return images.new_empty(len(images), self.grid**2, self.teacher_width)
        wanted = images.device, images.shape[1:]
        if self._built is None or self._built[0] != wanted:
            self._built = wanted, self._build(*wanted)
        return self._built[1](images.float())

    def _build(self, device: torch.device, shape: torch.Size) -> Teacher:
        if self.teacher == "dinov2":
            return dinov2_teacher(self.grid, device)
        return conv_teacher(tuple(shape), self.grid, self.teacher_width, self.seed, device)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the teacher."""
        return self.__dict__ | {"_built": None}


def conv_teacher(
    shape: tuple[int, int, int],
    grid: int,
    width: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Teacher:
    """Random convolutions for images of ``shape`` (C, h, w), to a grid of tokens; float32.

    3 x 3 convolutions with ReLU between, halving the sides down to the grid, averaged over what is
    left where the sides are no power of 2 times the grid. Each image's tokens lose their mean:
    random features have much in common, and a projector could meet that by a constant.

    Raises:
        ValueError: images smaller than the grid.
    """
    channels, *sides = shape
    if min(sides) < grid:
        raise ValueError(f"images of {sides[0]} x {sides[1]} have no grid of {grid} x {grid}")
    rng, kernels = torch.Generator("cpu").manual_seed(seed), []
    for n in [channels] + [width] * int(math.log2(min(sides) / grid)):
        kernel = torch.randn(width, n, 3, 3, generator=rng, device="cpu", dtype=torch.float32)
        kernels.append((kernel * math.sqrt(2 / (9 * n))).to(device))

    def tokens(images: Images) -> Float[Tensor, "B T d"]:
        x = images
        for i, kernel in enumerate(kernels):
            x = x.relu() if i else x
            # repeated edges: a frame of zeros would tell the place and not the image
            x = F.conv2d(F.pad(x, [1] * 4, mode="replicate"), kernel, stride=2 if i else 1)
        x = F.adaptive_avg_pool2d(x, grid).flatten(2).mT
        return x - x.mean(1, keepdim=True)

    return tokens


def dinov2_teacher(grid: int, device: torch.device | str = "cpu") -> Teacher:
    """DINOv2's ViT-B/14: the patch tokens after its last norm, at 14 grid x 14 grid pixels.

    Images are resized so (bicubic), grey ones shown in three equal channels. ``timm`` has the
    network; the weights, as DINOv2 (``dinov2_vitb14_pretrain.pth``) or ``timm`` publishes them,
    are a file that ``ENTROFLOW_DINOV2`` names or that `make weights` has cached. Nothing is
    downloaded here.

    Raises:
        ValueError: the library is missing, or the file is, or is not such weights.
    """
    path = located(VARIABLE, FILE)
    if path is None:
        raise ValueError(
            f"the teacher dinov2 needs {FILE}, which is not downloaded: set {VARIABLE} to its "
            "path, or `make weights NAME=dinov2`, or take the teacher conv"
        )
    try:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn
    except ImportError:
        raise ValueError(
            "the teacher dinov2 needs timm: pip install timm, or take the teacher conv"
        ) from None
    with torch.random.fork_rng(devices=[]):  # its random start is the run's no business
        vit = timm.create_model(
            "vit_base_patch14_dinov2", img_size=DINOV2_PATCH * grid, num_classes=0
        )
    try:
        vit.load_state_dict(checkpoint_filter_fn(_tensors(path), vit))
    except Exception as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no ViT-B/14 of DINOv2: {why}") from None
    vit.eval().requires_grad_(False).to(device)
    mean, std = (
        torch.tensor(v, device=device)[:, None, None]
        for v in (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )

    def tokens(images: Images) -> Float[Tensor, "B T d"]:
        x = ((images.expand(-1, 3, -1, -1) + 1) / 2 - mean) / std
        x = F.interpolate(x, size=(DINOV2_PATCH * grid,) * 2, mode="bicubic")
        return vit.forward_features(x)[:, vit.num_prefix_tokens :]

    return tokens


def _tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a pickle that may hold tensors alone."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
