"""LPIPS against the plain formula, the discriminator's size, and the hinge losses by hand."""

import copy
import os
import pickle
from pathlib import Path

from lightning_modules.simflow import losses
from lightning_modules.simflow.losses import (
    LPIPS,
    PatchDiscriminator,
    hinge_discriminator,
    hinge_generator,
    reconstruction,
)

import pytest
import torch
from jacobians import images
from torch import nn
from torch.nn import functional as F
from unets import build, trainable

DATA = os.environ.get("ENTROFLOW_DATA")  # read once: other tests hide it from their own code

# VGG16 in torchvision's numbering: a convolution's place and widths, or a pooling
PLACES = [
    [(0, 3, 64), (2, 64, 64)],
    [(5, 64, 128), (7, 128, 128)],
    [(10, 128, 256), (12, 256, 256), (14, 256, 256)],
    [(17, 256, 512), (19, 512, 512), (21, 512, 512)],
    [(24, 512, 512), (26, 512, 512), (28, 512, 512)],
]
CONVOLUTIONS = [one for stage in PLACES for one in stage]


# ------------------------------------------------------------------------------------------ LPIPS
@pytest.fixture(scope="module")
def weights():
    rng = torch.Generator().manual_seed(0)
    made = {"classifier.0.weight": torch.zeros(2, 2)}  # as in torchvision's file; not used
    for place, fan_in, out in CONVOLUTIONS:
        kernel = torch.randn(out, fan_in, 3, 3, generator=rng) * (2 / (9 * fan_in)) ** 0.5
        made[f"features.{place}.weight"] = kernel
        made[f"features.{place}.bias"] = 0.1 * torch.randn(out, generator=rng)
    for k, stage in enumerate(PLACES):
        made[f"lin{k}.model.1.weight"] = torch.rand(1, stage[-1][2], 1, 1, generator=rng)
    return made


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    for name, part in (("vgg16.pth", ("features", "classifier")), ("heads.pth", ("lin",))):
        torch.save({k: v for k, v in weights.items() if k.startswith(part)}, folder / name)
    return folder


@pytest.fixture
def lpips(files):
    return LPIPS(str(files / "vgg16.pth"), str(files / "heads.pth"), "", "")


def pair(side=16, channels=3):
    return images(2, channels, side, side).clamp(-1, 1), images(2, channels, side, side, seed=1)


def plain(weights, one, other):
    w = {k: v.double() for k, v in weights.items()}
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # of ImageNet in [0, 1]
    total = 0
    h = [
        torch.stack([((v[:, c] + 1) / 2 - mean[c]) / std[c] for c in range(3)], 1)
        for v in (one, other)
    ]
    for k, stage in enumerate(PLACES):
        for place, _, _ in stage:
            kernel, bias = w[f"features.{place}.weight"], w[f"features.{place}.bias"]
            h = [F.conv2d(v, kernel, bias, padding=1).clamp(min=0) for v in h]
        a, b = (v / v.square().sum(1, keepdim=True).sqrt() for v in h)
        head = w[f"lin{k}.model.1.weight"].flatten()
        total = total + torch.einsum("c,bchw->b", head, (a - b) ** 2) / (a[0, 0].numel())
        if k < 4:
            h = [v.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)) for v in h]
    return total


class TestLPIPS:
    def test_against_the_plain_formula(self, lpips, weights):
        one, other = pair(24)
        got = lpips(one, other)
        assert got.shape == (2,)
        torch.testing.assert_close(got, plain(weights, one, other), rtol=1e-6, atol=0)
        single = lpips(one.float(), other.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), got, rtol=1e-4, atol=0)

    def test_is_a_distance(self, lpips):
        one, other = pair()
        assert not lpips(one, one).any()
        assert torch.equal(lpips(one, other), lpips(other, one))
        assert (lpips(one, other) > 0.01).all()

    def test_grey_is_three_equal_channels(self, lpips):
        one, other = pair(channels=1)
        shown = (v.expand(-1, 3, -1, -1) for v in (one, other))
        torch.testing.assert_close(lpips(one, other), lpips(*shown))

    def test_gradients_reach_the_images_even_if_first_called_without(self, lpips):
        one, other = (v.float() for v in pair())
        with torch.inference_mode():
            was = lpips(one, other)
        one.requires_grad_()
        now = lpips(one, other)
        assert torch.equal(now.detach(), was)
        now.sum().backward()
        assert one.grad.isfinite().all()
        assert one.grad.any()

    def test_where_no_feature_fires(self, weights, tmp_path):
        dead = {k: v.clone() for k, v in weights.items()}
        dead["features.0.bias"].fill_(-1e6)
        for place, _, _ in CONVOLUTIONS[1:]:
            dead[f"features.{place}.bias"].zero_()
        torch.save(dead, tmp_path / "dead.pth")
        path = str(tmp_path / "dead.pth")
        one, other = (v.float().requires_grad_() for v in pair())
        distance = LPIPS(path, path, "", "")(one, other).sum()
        distance.backward()
        assert distance == 0
        assert not one.grad.any()  # and no NaN

    def test_a_module_that_holds_it_does_not_own_it(self, lpips):
        module = nn.Module()
        module.lpips = lpips
        lpips.load()
        assert not list(module.parameters())
        assert not list(module.buffers())
        assert not module.state_dict()
        assert copy.deepcopy(module).lpips is lpips
        assert not any(v.requires_grad for v in lpips._weights[_CPU].values())

    def test_pickled_without_its_weights(self, lpips):
        one, other = pair()
        want = lpips(one, other)
        packed = pickle.dumps(lpips)
        assert len(packed) < 10_000
        assert torch.equal(pickle.loads(packed)(one, other), want)

    def test_rounded_images_do_not_round_the_weights(self, lpips):
        one, other = (v.float() for v in pair())
        want = lpips(one, other)
        rough = lpips(one.bfloat16(), other.bfloat16())
        assert rough.dtype == torch.bfloat16
        assert torch.equal(lpips(one, other), want)

    def test_needs_no_file_on_the_meta_device(self, monkeypatch):
        monkeypatch.delenv(losses.VARIABLE, raising=False)
        one = torch.empty(2, 3, 256, 256, device="meta")
        distance = LPIPS()(one, one)
        assert distance.is_meta
        assert distance.shape == (2,)

    @pytest.mark.parametrize("shape", [(2, 3, 15, 20), (2, 2, 16, 16)])
    def test_images_that_do_not_fit(self, lpips, shape):
        with pytest.raises(ValueError, match=r"grey or RGB images of 16 x 16 or more, not of"):
            lpips(torch.zeros(shape), torch.zeros(shape))


_CPU = torch.device("cpu"), torch.float32


class TestFiles:
    def test_a_backbone_that_nobody_names(self, monkeypatch):
        monkeypatch.delenv(losses.VARIABLE, raising=False)
        with pytest.raises(ValueError, match=r"vgg16-397923af.pth.*set ENTROFLOW_VGG16") as error:
            LPIPS().load()
        assert "\n" not in str(error.value)

    def test_the_environment_names_it(self, files, monkeypatch):
        monkeypatch.setenv(losses.VARIABLE, str(files / "vgg16.pth"))
        LPIPS(None, str(files / "heads.pth"), "", "").load()
        with pytest.raises(ValueError, match="is another file, its sha256 is"):
            LPIPS(None, str(files / "heads.pth"), heads_sha256="").load()

    def test_a_file_that_is_not_there(self, files):
        absent = str(files / "absent.pth")
        with pytest.raises(OSError, match=r"torchvision's .*absent.pth: No such file"):
            LPIPS(absent).load()
        with pytest.raises(OSError, match=r"the vgg.pth of LPIPS v0.1: .*absent.pth: No such"):
            LPIPS(str(files / "vgg16.pth"), absent, "").load()

    def test_damaged_and_foreign_ones(self, files, tmp_path):
        backbone, heads = str(files / "vgg16.pth"), str(files / "heads.pth")
        damaged = tmp_path / "damaged.pth"
        damaged.write_bytes((files / "heads.pth").read_bytes()[:3000])
        with pytest.raises(ValueError, match=r"damaged.pth cannot be read"):
            LPIPS(backbone, str(damaged), "", "").load()
        with pytest.raises(ValueError, match=r"heads.pth cannot be read \(KeyError\)"):
            LPIPS(heads, heads, "", "").load()
        torch.save({f"lin{k}.model.1.weight": torch.ones(1, 8, 1, 1) for k in range(5)}, damaged)
        with pytest.raises(ValueError, match=r"lin0.model.1.weight in .* has another shape"):
            LPIPS(backbone, str(damaged), "", "").load()
        torch.save({"features.0.weight": Path("runs code")}, damaged)
        with pytest.raises(ValueError, match=r"cannot be read \(UnpicklingError\)"):
            LPIPS(str(damaged), heads, "", "").load()

    def test_heads_come_with_torchmetrics(self, files):
        _published(LPIPS(str(files / "vgg16.pth"), None, ""))

    @pytest.mark.data
    def test_heads_of_the_authors(self, files):
        if DATA is None:
            pytest.skip("ENTROFLOW_DATA is unset")
        folder = Path(DATA) / "lpips" / "weights"
        _published(LPIPS(str(files / "vgg16.pth"), str(folder / "v0.1" / "vgg.pth"), ""))
        with pytest.raises(ValueError, match="another file, its sha256 is b9e42362"):
            LPIPS(str(files / "vgg16.pth"), str(folder / "v0.0" / "vgg.pth"), "").load()


def _published(lpips):
    """The heads of v0.1: no weight below zero, known extremes."""
    lpips.load()
    heads = [lpips._weights[_CPU][f"lin{k}.model.1.weight"] for k in range(5)]
    assert [h.numel() for h in heads] == [64, 128, 256, 512, 512]
    assert min(float(h.min()) for h in heads) > 0
    assert float(heads[0].max()) == pytest.approx(1.2828161716)


# -------------------------------------------------------------------------------- the other losses
def test_reconstruction_is_the_mean_over_all():
    one, other = pair(4)
    total = sum(abs(v) for v in (one - other).ravel().tolist())
    assert reconstruction(one, other).item() == pytest.approx(total / 96, rel=1e-12)


def test_hinge_losses_by_hand():
    real = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]).reshape(2, 1, 1, 2).requires_grad_()
    fake = torch.tensor([[-3.0, 0.0], [1.0, -0.5]]).reshape(2, 1, 1, 2).requires_grad_()
    # real: 0, 0.5, 2, 0; decoded: 0, 1, 2, 0.5
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (2.5 + 3.5) / 4)
    assert hinge_generator(fake).item() == pytest.approx(2.5 / 4)
    d_real, d_fake = torch.autograd.grad(hinge_discriminator(real, fake), (real, fake))
    assert d_real.flatten().tolist() == [0, -0.125, -0.125, 0]
    assert d_fake.flatten().tolist() == [0, 0.125, 0.125, 0.125]
    (d_fake,) = torch.autograd.grad(hinge_generator(fake), fake)
    assert (d_fake == -0.25).all()


class TestPatchDiscriminator:
    def test_its_size_by_hand(self):
        with torch.device("meta"):
            net = PatchDiscriminator()
            logits = net(torch.empty(2, 3, 256, 256))
        by_hand = (
            (3 * 64 * 16 + 64)
            + (64 * 128 * 16 + 2 * 128)
            + (128 * 256 * 16 + 2 * 256)
            + (256 * 512 * 16 + 2 * 512)
            + (512 * 16 + 1)
        )
        assert trainable(net) == by_hand == 2_765_633
        assert logits.shape == (2, 1, 30, 30)

    def test_widths_stop_at_eight_times(self):
        net = PatchDiscriminator(in_channels=1, width=2, layers=5)
        convolutions = [m for m in net if isinstance(m, nn.Conv2d)]
        assert [m.out_channels for m in convolutions] == [2, 4, 8, 16, 16, 16, 1]
        assert [m.stride[0] for m in convolutions] == [2, 2, 2, 2, 2, 1, 1]

    def test_by_hand(self):
        net = build(PatchDiscriminator, in_channels=1, width=4, layers=2).double()
        x = images(3, 1, 16, 20)
        w = iter([p for p in net.parameters()])

        def leaky(v):
            return torch.where(v > 0, v, 0.2 * v)

        def normed(v):
            mean = v.mean((0, 2, 3), keepdim=True)
            v = (v - mean) / ((v - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
            return v * next(w)[:, None, None] + next(w)[:, None, None]

        h = leaky(F.conv2d(x, next(w), next(w), stride=2, padding=1))
        h = leaky(normed(F.conv2d(h, next(w), stride=2, padding=1)))
        h = leaky(normed(F.conv2d(h, next(w), stride=1, padding=1)))
        want = F.conv2d(h, next(w), next(w), padding=1)
        assert want.shape == (3, 1, 2, 3)
        torch.testing.assert_close(net(x), want, rtol=1e-9, atol=1e-12)

    def test_starts_as_pix2pix_does(self):
        net = build(PatchDiscriminator)
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            elif isinstance(layer, nn.BatchNorm2d):
                assert 0.01 < float(layer.weight.detach().std()) < 0.03
                assert float(layer.weight.detach().mean()) == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize(("layers", "side"), [(1, 6), (2, 12), (3, 24)])
    def test_the_smallest_image(self, layers, side):
        net = PatchDiscriminator(1, 2, layers)
        assert net(torch.zeros(2, 1, side, side)).shape == (2, 1, 1, 1)
        with pytest.raises(ValueError, match=rf"{side} x {side - 1} .* give {side} x {side}, or"):
            net(torch.zeros(2, 1, side, side - 1))

    def test_it_has_a_layer(self):
        with pytest.raises(ValueError, match="layers is 0: give at least 1"):
            PatchDiscriminator(layers=0)
