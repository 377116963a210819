"""SimFlow's sizes at paper scale, to the unit, against the counts of the two published models."""

import pytest

from reproduce import estimate as module
from reproduce import forecast
from reproduce.cells import expand
from reproduce.estimate import estimate, models
from reproduce.flops import Update
from reproduce.papers import targets
from reproduce.records import Store

# width and layers; SimFlow-L is published as 475 M: 453.0 layers, 12.6 adaLN heads, 6.2 class
# tables, 1.6 positions and 1.2 in and out, where biases are left out
SIZES = {"L": (1024, 24, 474_858_240), "XXL": (1152, 56, 1_364_650_752)}
VAES = {"frozen/learnable": 70_293_955, "frozen/fixed": 70_285_699}


def by_hand(d, n):
    """Of ``n`` layers of width ``d`` in six blocks, for 256 tokens of 64 channels; biases too."""
    layer = 4 * (d + 1) * d + 2 * 4 * d * d + 5 * d + 6 * (d + 1) * d
    return {
        "layers": n * layer,
        "adaLN heads": 6 * 2 * (d + 1) * d,
        "class tables": 6 * 1001 * d,
        "positions": 6 * 256 * d,
        "in/out projections": 6 * ((64 + 1) * d + (d + 1) * 2 * 64),
    }


def built(target, **axes):
    cells = expand(targets()[target], "paper", 1)
    return models(c for c in cells if axes.items() <= dict(c.axes).items())


@pytest.fixture
def uncounted(monkeypatch):
    monkeypatch.setattr(module, "training_flops", lambda built, config: Update())


@pytest.mark.parametrize("size", SIZES)
def test_both_flows_have_their_published_size_and_breakdown(size, uncounted):
    width, layers, total = SIZES[size]
    (model,) = built("sf-scale", size=size)
    parts = {name: count for depth, name, count in model.parts if depth}
    assert parts == by_hand(width, layers)
    assert sum(parts.values()) == total
    assert (0, "flow", total) in model.parts
    assert (0, "vae", VAES["frozen/fixed"]) in model.parts
    assert sum(n for depth, _, n in model.parts if not depth) == model.trainable + model.frozen
    if size == "L":
        shown = [round(parts[k] / 1e6, 1) for k in list(parts)[1:]]
        assert shown == [12.6, 6.2, 1.6, 1.2]
        assert round(18 * width**2 * layers / 1e6) == 453


@pytest.mark.parametrize("variant", VAES)
def test_the_vae_has_its_size_with_either_variance(variant, uncounted):
    (model,) = built("sf-variants", variant=variant)
    assert (0, "vae", VAES[variant]) in model.parts


def test_what_is_read_from_files_is_told(uncounted):
    (model,) = built("sf-alignment", alignment="REPA-E")
    # DINOv2's published 86,580,480 have a mask token, and 37 x 37 places instead of 16 x 16
    dinov2 = 86_580_480 - 768 - (37**2 - 16**2) * 768
    vgg16 = {"VGG16": 14_714_688, "heads of LPIPS": 1472}
    assert model.files == {"DINOv2, not in the FLOPs": dinov2, **vgg16}
    assert (0, "alignment", 8_131_328) in model.parts


def flops(d, n):
    """Of a flow on one image, thrice forward: 255 tokens are read, conditions once a layer."""
    layer = 12 * d * d * 255 + 6 * d * d + 2 * 255**2 * d
    return 3 * 2 * (n * layer + 6 * (2 * d * d + 255 * 3 * 64 * d))


@pytest.mark.slow
def test_the_page_has_counts_flops_and_what_a_run_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "PUBLISHED", tmp_path)
    found = {str(m.trainings[0].cells[0].axes["size"]): m for m in built("sf-scale")}
    each = {size: m.trainings[0].update for size, m in found.items()}
    assert each["L"].images
    widths = {size: given[:2] for size, given in SIZES.items()}
    difference = flops(*widths["XXL"]) - flops(*widths["L"])
    assert each["XXL"].flops - each["L"].flops == 256 * difference
    # the discriminator has no gradient but in its own update
    assert {m.frozen for m in found.values()} == {0}

    run = each["L"].flops * 800_640
    said = estimate([targets()["sf-scale"]], "paper", 4e14, Store(tmp_path, "paper"))
    for line in (
        "    flow                  474,858,240",
        "      layers                453,353,472",
        "    flow                  1,364,650,752",
        "    vae                   70,285,699",
        "  frozen, from a file   14,714,688 (VGG16)",
        f"  FLOPs per image       {each['L'].flops // 256:,}",
        f"  price                 {run / 4e14 / 86400:.1f} days for 1 cell at 4e+14 FLOP/s",
    ):
        assert line in said.splitlines()


@pytest.mark.slow
def test_frozen_variants_are_priced_in_two_stages():
    (model,) = built("sf-variants", variant="frozen/fixed")
    (training,) = model.trainings
    ((first, updates),) = training.update.before
    assert (updates, training.updates) == (400_320, 800_640)
    # the second stage reads an encoder that stays as it is
    assert training.update.flops > 256 * flops(*SIZES["XXL"][:2])
    assert training.each == updates * (first + training.update.flops)
