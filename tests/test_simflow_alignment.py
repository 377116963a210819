"""Alignment with a frozen teacher: values of the loss, who gets gradients, and the teachers."""

import copy
import io
import sys
from types import SimpleNamespace

from lightning_modules.simflow.alignment import VARIABLE, Alignment, conv_teacher

import pytest
import torch
from torch import nn


def images(n=3, channels=1, side=8):
    """Waves in [-1, 1], the same whatever the random state."""
    at = torch.arange(n * channels * side * side, dtype=torch.float32)
    return at.mul(0.37).add(at.mul(0.011).square()).sin().view(n, channels, side, side)


def aligned(**options) -> Alignment:
    return Alignment(**{"width": 6, "grid": 4, "hidden": 8, "teacher_width": 6} | options)


def tokens(n=3, count=16, width=6, seed=0):
    return torch.randn(n, count, width, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------- the loss
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_directions_and_nothing_else(scale):
    module = aligned()
    module.projector = nn.Identity()  # so that hidden tokens are what is compared
    target = module.features(images())
    across = target.roll(1, -1) * torch.tensor([1.0, -1.0]).repeat(3)
    across -= (across * target).sum(-1, keepdim=True) / target.square().sum(-1, True) * target
    for hidden, loss in ((target, 0), (-target, 2), (across, 1)):
        assert float(module(scale * hidden, images())) == pytest.approx(loss, abs=1e-6)
    mixed = torch.cat([target[:, :4], -target[:, 4:]], 1)  # a quarter of the tokens agree
    assert float(module(scale * mixed, images())) == pytest.approx(1.5, abs=1e-6)


def test_tokens_lie_row_by_row():
    x = torch.full((1, 1, 8, 8), -1.0)
    x[:, :, 6:, :2] = 1.0  # lower left: the token of row 3, column 0
    size = aligned().features(x).square().sum(-1)[0]
    assert int(size.argmax()) == 12


def test_the_projector_is_three_layers_to_the_teachers_width():
    sizes = [m.weight.shape for m in Alignment(6).projector if isinstance(m, nn.Linear)]
    assert sizes == [(2048, 6), (2048, 2048), (64, 2048)]
    assert [type(m) for m in Alignment(6).projector][1::2] == [nn.SiLU, nn.SiLU]
    assert Alignment(6, "dinov2", hidden=8).projector[-1].out_features == 768


def test_training_brings_the_loss_down():
    torch.manual_seed(0)
    module, hidden = aligned(), tokens()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = module(hidden, images())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.8
    assert losses[-1] < 0.5


def test_half_precision_compares_in_single():
    module = aligned()
    exact = float(module(tokens(), images()).detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(tokens(), images())
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(exact, abs=0.02)
    assert aligned().double()(tokens().double(), images()).dtype == torch.float64


# -------------------------------------------------------------------------------- the teacher
def test_gradients_reach_hidden_and_projector_and_stop_at_the_teacher():
    module, hidden, x = aligned(), tokens().requires_grad_(), images().requires_grad_()
    module(hidden, x).backward()
    assert (hidden.grad != 0).any(-1).all()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert x.grad is None
    assert not module.features(x).requires_grad


def test_the_teacher_is_no_part_of_the_module():
    module = aligned()
    module(tokens(), images())
    assert [name for name, _ in module.named_children()] == ["projector"]
    assert all(key.startswith("projector.") for key in module.state_dict())
    assert len(list(module.parameters())) == 6
    assert not list(module.buffers())
    file = io.BytesIO()
    torch.save(module, file)  # copies and pickles leave it behind, and build it again
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(module), again):
        assert other._built is None
        assert torch.equal(other(tokens(), images()), module(tokens(), images()))


def test_the_conv_teacher_is_its_seeds():
    def features(**options):
        return aligned(**options).features(images(n=2))

    state = torch.get_rng_state()
    one = aligned(seed=3)
    after = torch.get_rng_state()
    found = one.features(images(n=2))
    assert torch.equal(torch.get_rng_state(), after)  # and draws from no other stream
    torch.manual_seed(99)
    assert torch.equal(features(seed=3), found)
    assert not torch.allclose(features(seed=4), found, atol=0.1)
    torch.set_rng_state(state)
    # in any process: numbers that another one has written
    assert found[0, 0, :3].tolist() == pytest.approx(ROW, abs=1e-5)
    assert float(found.square().sum()) == pytest.approx(SQUARES, rel=1e-5)


ROW, SQUARES = [0.722317, 0.011760, -0.749367], 115.97198


@pytest.mark.parametrize(("channels", "sides", "grid"), [(3, (8, 8), 8), (1, (28, 28), 4)])
@pytest.mark.parametrize("width", [5, 64])
def test_any_images_come_to_the_grid(channels, sides, grid, width):
    x = images(2, channels, sides[0])
    found = conv_teacher((channels, *sides), grid, width)(x)
    assert found.shape == (2, grid**2, width)
    assert found.mean(1).abs().max() < 1e-5  # what all tokens share is taken off
    assert found.std() > 0.1
    each = conv_teacher((channels, *sides), grid, width)(x[1:])
    assert torch.allclose(each, found[1:], atol=1e-5)  # an image's alone


def test_an_even_image_has_nothing_to_align_with():
    module = aligned()
    hidden, even = tokens().requires_grad_(), torch.full((3, 1, 8, 8), -1.0)
    loss = module(hidden, even)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1, abs=0.01)
    assert hidden.grad.isfinite().all()


def test_shapes_alone_on_the_meta_device():
    with torch.device("meta"):
        for teacher in ("conv", "dinov2"):
            loss = aligned(teacher=teacher)(torch.zeros(2, 16, 6), torch.zeros(2, 3, 8, 8))
            assert loss.is_meta


# -------------------------------------------------------------------------------- dinov2
class Patches(nn.Module):
    """Stands in for timm's transformer: a first token, and then each patch's mean colour."""

    num_prefix_tokens = 1

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.scale = side, nn.Parameter(torch.zeros(()))

    def forward_features(self, x):
        assert not self.training
        assert x.shape[1:] == (3, self.side, self.side)
        patches = nn.functional.avg_pool2d(x, 14).flatten(2).mT * self.scale
        patches = nn.functional.pad(patches, (0, 765))
        return torch.cat([torch.full_like(patches[:, :1], 1e6), patches], 1)


@pytest.fixture
def library(monkeypatch, tmp_path):
    """A timm of patches, and a file with the weights that they want."""

    def create_model(name, img_size, num_classes):
        assert (name, num_classes) == ("vit_base_patch14_dinov2", 0)
        return Patches(img_size)

    data = SimpleNamespace(IMAGENET_DEFAULT_MEAN=(0.5, 0.4, 0.3), IMAGENET_DEFAULT_STD=(1, 2, 4))
    vision = SimpleNamespace(checkpoint_filter_fn=lambda state, model: state)
    timm = SimpleNamespace(create_model=create_model, data=data, models=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.models", timm.models)
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", vision)
    path = tmp_path / "vit.pth"
    torch.save({"scale": torch.tensor(1.0)}, path)
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_dinov2_sees_normalised_colours_and_gives_its_patches(library, channels):
    module = Alignment(6, "dinov2", grid=4, hidden=8)
    x = torch.arange(16.0).view(4, 4).div(8).sub(1).repeat_interleave(14, 0)
    x = x.repeat_interleave(14, 1).expand(2, channels, -1, -1)  # 56 x 56: nothing to resize
    found = module.features(x)
    assert found.shape == (2, 16, 768)
    grey = torch.arange(16.0).div(16)[:, None]
    want = (grey - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([1.0, 2.0, 4.0])
    assert torch.allclose(found[..., :3], want.expand(2, -1, -1), atol=1e-6)
    assert module.features(images(side=32)).shape == (3, 16, 768)
    assert [n for n, _ in module.named_children()] == ["projector"]


def test_what_dinov2_lacks_is_told_in_one_line(library, monkeypatch):
    module = Alignment(6, "dinov2", hidden=8)

    def told(message):
        with pytest.raises(ValueError, match=message) as caught:
            module(tokens(), images())
        assert "\n" not in str(caught.value)

    torch.save({"other": torch.tensor(1.0)}, library)
    told("no ViT-B/14 of DINOv2: Error")
    torch.save(SimpleNamespace(), library)  # a pickle of more than tensors
    told("no ViT-B/14 of DINOv2: Weights only load failed")
    library.unlink()
    told("No such file")
    monkeypatch.setitem(sys.modules, "timm", None)
    told("needs timm: pip install timm, or take the teacher conv")
    monkeypatch.delenv(VARIABLE)
    told(rf"needs dinov2_vitb14_pretrain.pth.*set {VARIABLE} to its path")


def test_dinov2_by_timm_itself(monkeypatch, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    small = {"embed_dim": 48, "depth": 2, "num_heads": 2}
    create, name = timm.create_model, "vit_base_patch14_dinov2"
    monkeypatch.setattr(timm, "create_model", lambda *a, **o: create(*a, **(o | small)))
    published = create(name, num_classes=0, **small)  # at 518 pixels, with a token for masks
    path = tmp_path / "vit.pth"
    torch.save(published.state_dict() | {"mask_token": torch.zeros(1, 48)}, path)
    monkeypatch.setenv(VARIABLE, str(path))
    state = torch.get_rng_state()
    found = Alignment(6, "dinov2", grid=37, hidden=8).features(images(2, 3, 518))
    x = (images(2, 3, 518) + 1) / 2
    for c, (mean, std) in enumerate(
        zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ):
        x[:, c] = (x[:, c] - mean) / std
    want = published.eval().forward_features(x)[:, 1:]
    assert torch.allclose(found, want, atol=1e-4)
    assert Alignment(6, "dinov2", grid=4, hidden=8).features(images()).shape == (3, 16, 48)
    torch.set_rng_state(state)


# -------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "dino"}, "unknown teacher 'dino': choose one of conv, dinov2"),
        ({"grid": 1}, "grid must be at least 2"),
        ({"hidden": 0}, "widths at least 1"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        aligned(**options)


def test_another_grid_is_one_clear_error():
    with pytest.raises(ValueError, match="16 tokens do not fill a grid of 8 x 8: set"):
        aligned(grid=8)(tokens(), images())
    with pytest.raises(ValueError, match="images of 8 x 8 have no grid of 16 x 16"):
        aligned(grid=16)(tokens(count=256), images())
