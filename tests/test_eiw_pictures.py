"""eiw-quality and eiw-pictures: what is measured, what is shown, and on which cells."""

import io
from types import SimpleNamespace

from datamodules import DensityImages
from lightning_modules.eiw_flow import EIWFlow, Glow, Uniform
from lightning_modules.flows import Noise
from lightning_modules.randomness import step_generator

import numpy as np
import pandas as pd
import pytest
import torch

from reproduce.cells import expand
from reproduce.eiw_flow import picture_evaluators, picture_figures, quality_evaluators
from reproduce.eiw_flow.density import DENSITY
from reproduce.eiw_flow.excess import over_controls
from reproduce.eiw_flow.pictures import PICTURES
from reproduce.eiw_flow.quality import QUALITY
from reproduce.evaluators import classifier, ruler
from reproduce.evaluators.frechet import frechet_distance
from reproduce.records import SIDECAR_BYTES
from reproduce.tables import Observed
from reproduce.target import TIERS, named


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A barely trained classifier, few images."""
    monkeypatch.setattr(classifier, "_TRAINED", {})
    monkeypatch.setattr(classifier, "_UPDATES", 40)
    monkeypatch.setattr(ruler, "_RULERS", {})
    for name, few in (("_PAIRS", 3), ("_IMAGES", 5), ("_PER_CLASS", 6)):
        monkeypatch.setattr(picture_evaluators, name, few)


@pytest.fixture(scope="module")
def digits():
    return DensityImages("digits", bits=4)


def flow(order="random", shape=(1, 8, 8), bits=4, linear=True):
    """A flow whose couplings are the identity, so that it is affine; or one that is not."""
    torch.manual_seed(0)
    model = EIWFlow(Glow(shape, 3, steps=1, hidden=4, order=order), Uniform(bits))
    model(torch.randint(2**bits, (64, *shape)).float(), Noise(step_generator(0, "test")))
    if not linear:
        with torch.no_grad():
            for p in model.parameters():
                p += 0.02 * torch.randn_like(p)
    return model.eval()


def colour_images(n, seed):
    x = torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return x.float(), torch.arange(n) % 2


# --------------------------------------------------------------------------------- targets
@pytest.mark.parametrize("tier", TIERS)
def test_the_cells_are_those_of_eiw_density(tier):
    trained = {c.name for c in expand(DENSITY, tier)}
    for target in (QUALITY, PICTURES):
        cells = expand(target, tier)
        assert {c.name for c in cells} <= trained
        for evaluator in target.measured(cells[0]):
            assert callable(named(evaluator.call))


def test_distances_over_those_of_the_controls():
    rows = pd.DataFrame(
        [
            {"data": data, "mode": mode, "seed": seed, "metric": metric, "value": v, "cell": "c"}
            for data, mode, seed, metric, v in (
                ("digits", "identity", 0, "fd_classifier", 4.0),
                ("digits", "random-0", 0, "fd_classifier", 2.0),
                ("digits", "eiw", 0, "fd_classifier", 3.0),
                ("digits", "eiw", 1, "fd_classifier", 9.0),
                ("mnist16", "identity", 0, "fd_classifier", 8.0),
                ("digits", "identity", 0, "floor", 1.0),
            )
        ]
    )
    got = over_controls(rows, "small")
    assert list(got.columns) == list(rows.columns)
    found = got.set_index(["metric", "mode", "seed"])["value"].to_dict()
    assert found == {
        ("excess_identity", "random-0", 0): -0.5,
        ("excess_identity", "eiw", 0): -0.25,
        ("excess_random", "identity", 0): 1.0,
        ("excess_random", "eiw", 0): 0.5,
    }


# --------------------------------------------------------------------------------- quality
def test_training_images_are_at_no_distance(digits, monkeypatch):
    monkeypatch.setattr(quality_evaluators, "draws", lambda model, n: digits.x_train)
    got = quality_evaluators.quality(flow(), digits, len(digits.x_train))
    assert got["fd_classifier"] < 1e-6 < got["floor"] < 0.2 * got["fd_classifier_held_out"]
    assert got["class_entropy"] == pytest.approx(np.log(10), abs=0.1)


def test_the_floor_is_that_of_as_many_real_images(digits):
    real = quality_evaluators.ruler_of(digits)
    floors = [real.floor(n) for n in (100, 400, 1600)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] / floors[2] == pytest.approx(16, rel=0.4)  # it falls as 1 / n
    features, rng = real.train.features, torch.Generator().manual_seed(3)
    one = [features[torch.randint(len(features), (400,), generator=rng)] for _ in range(20)]
    mean = np.mean([frechet_distance(x, features) for x in one])
    assert floors[1] == pytest.approx(mean, rel=0.25)
    assert real.floor(400) == floors[1]


def test_samples_are_the_same_each_time_and_measured_alike(digits):
    model = flow(linear=False)
    assert torch.equal(quality_evaluators.draws(model, 300), quality_evaluators.draws(model, 300))
    one, again = (quality_evaluators.quality(model, digits, 80) for _ in range(2))
    tiles = one.pop("tiles")
    assert np.array_equal(tiles, again.pop("tiles"))
    assert one == again
    assert one["fd_classifier"] > 5 * one["floor"]
    assert tiles.shape == (8, 1, 8, 8)
    assert tiles.dtype == np.uint8
    assert quality_evaluators.few(model, digits)["images"] == 200


def test_more_samples_than_a_chunk_are_not_the_chunk_again():
    x = quality_evaluators.draws(flow(), 500)
    assert len(x) == 500
    assert not torch.equal(x[:250], x[250:])


def test_bytes():
    x = torch.tensor([0.0, 1.0, 15.0, 40.0, -3.0, float("nan")])
    assert quality_evaluators.as_bytes(x, 4).tolist() == [0, 17, 255, 255, 0, 0]
    assert quality_evaluators.as_bytes(torch.tensor([0.0, 128.0]), 8).tolist() == [0, 128]


def test_without_weights_the_reason_is_recorded(digits, monkeypatch):
    monkeypatch.delenv("ENTROFLOW_INCEPTION", raising=False)
    got = quality_evaluators.inception_if_there(flow(), digits)
    assert "set ENTROFLOW_INCEPTION to its path" in got["reason"]
    with pytest.raises(RuntimeError, match="set ENTROFLOW_INCEPTION to its path"):
        quality_evaluators.inception(flow(), digits)


# -------------------------------------------------------------------------------- pictures
def test_numbers_and_pictures(digits):
    got = picture_evaluators.pictures(flow("eiw", linear=False), digits)
    assert set(PICTURES.metrics) <= set(got)
    assert got["reconstruction_error"] < 1e-5
    assert got["bypassed_1"] > 0.05
    for name in ("all", "last", "pixels"):
        assert len(got[f"path_bpd_{name}"]) == 9
        assert max(got[f"path_bpd_{name}"]) <= got[f"max_bpd_{name}"]
    assert got["path_excess"] == pytest.approx(got["max_bpd_all"] - got["max_bpd_last"])
    shapes = {k: v.shape for k, v in got.items() if isinstance(v, np.ndarray)}
    tile = (1, 8, 8)
    assert shapes == {
        "bypassed": (3, *tile), "temperatures_last": (5, 6, *tile),
        "temperatures_all": (5, 6, *tile), "line_all": (9, *tile), "line_last": (5, *tile),
        "direction": (5, *tile), "before_1": (8, 2, 2), "after_1": (8, 2, 2),
        "before_2": (8, 1, 1), "after_2": (8, 1, 1),
    }  # fmt: skip


def test_in_a_linear_flow_latents_move_as_pixels_do(digits):
    """The line between all latents is that between the images; so is the classes' direction."""
    model = flow()
    studio = picture_evaluators._Studio(model, digits)
    got = picture_evaluators.pictures(model, digits)
    i, j = studio.pairs()
    assert (studio.labels[i] != studio.labels[j]).all()
    a, b = (studio.tiles(studio.x[rows[:1]])[0] for rows in (i, j))
    np.testing.assert_array_equal(got["line_all"][2], a)
    np.testing.assert_array_equal(got["line_all"][6], b)
    middle = (a.astype(float) + b) / 2
    assert np.abs(got["line_all"][4] - middle).max() <= 17  # one of 15 levels
    assert got["path_bpd_all"] == pytest.approx(got["path_bpd_pixels"], abs=0.3)
    ends = [float(studio.bits_of(studio.x[rows]).mean()) for rows in (i, j)]
    assert got["path_bpd_pixels"][::8] == pytest.approx(ends, abs=0.1)  # noise aside
    one = studio.x[digits.c_eval == 1][0]
    np.testing.assert_array_equal(got["direction"][2], studio.tiles(one))
    mean = [digits.x_train[digits.c_train == c][:6].mean(0) for c in (0, 1)]
    turned = (one + mean[0] - mean[1]).clamp(0, 15)
    assert np.abs(got["direction"][4] / 17 - turned.numpy()).max() < 2


@pytest.mark.parametrize("order", ["identity", "reverse"])
def test_channels_and_orders_left_out(order, digits):
    got = picture_evaluators.pictures(flow(order), digits)
    for k in (1, 2):
        before, after = got[f"before_{k}"], got[f"after_{k}"]
        np.testing.assert_array_equal(after, before if order == "identity" else before[::-1])
        assert (got[f"bypassed_{k}"] < 1e-5) == (order == "identity")
    image, *wrong = got["bypassed"]
    for one, other in ((image, wrong[0]), (image, wrong[1]), wrong):
        assert np.array_equal(one, other) == (order == "identity")


def test_temperatures_start_from_one_noise(digits):
    got = picture_evaluators.pictures(flow(linear=False), digits)
    last, every = got["temperatures_last"].astype(int), got["temperatures_all"].astype(int)
    np.testing.assert_array_equal(last[-1], every[-1])  # temperature 1
    assert np.abs(last[0] - last[-1]).sum() < np.abs(every[0] - every[-1]).sum()


def test_only_the_last_latents_move():
    """What is completed has the given latents at its last scale, and draws all others."""
    net = flow(linear=False).net
    last = torch.randn(4, *net.latent_shapes[-1])
    with torch.no_grad():
        first, other = (
            net(net.complete(last, Noise(step_generator(s, "test")))).latents for s in (0, 1)
        )
    torch.testing.assert_close(first[-1], last, rtol=0, atol=1e-4)
    torch.testing.assert_close(other[-1], last, rtol=0, atol=1e-4)
    assert not torch.allclose(first[0], other[0])


def test_share_that_is_of_either_end():
    called = torch.tensor([[0, 1], [2, 1], [3, 5]])
    ends = torch.tensor([[0, 1], [3, 4]])
    assert picture_evaluators._either(called, ends) == pytest.approx(4 / 6)


def test_without_classes_there_are_pictures_all_the_same(digits):
    plain = SimpleNamespace(
        x_eval=digits.x_eval[:20], c_eval=torch.zeros(20, dtype=torch.int64), bits=4
    )
    got = picture_evaluators.pictures(flow(), plain)
    assert "line_all" in got
    assert not {"consistent_all", "turned", "direction"} & set(got)


def test_sidecars_of_colour_images_are_small():
    (x, c), (held_out, labels) = colour_images(80, 0), colour_images(20, 1)
    data = SimpleNamespace(
        x_train=x, c_train=c, x_eval=held_out, c_eval=labels, bits=8, fingerprint="colour"
    )
    model = flow("random", (3, 32, 32), 8)
    found = {**quality_evaluators.quality(model, data, 20),
             **picture_evaluators.pictures(model, data)}  # fmt: skip
    packed = io.BytesIO()
    np.savez_compressed(packed, **{k: v for k, v in found.items() if isinstance(v, np.ndarray)})
    assert packed.tell() < 0.9 * SIDECAR_BYTES


# --------------------------------------------------------------------------------- figures
def made_up(target, tier, arrays):
    rng = np.random.default_rng(0)
    cells = expand(target, tier)
    rows = [
        {**c.axes, "seed": c.seed, "metric": m, "value": rng.uniform(1, 2), "cell": c.name}
        for c in cells for m in target.metrics
    ]  # fmt: skip
    about = pd.DataFrame([{"cell": c.name, **c.axes, "seed": c.seed} for c in cells])
    paths = {f"path_bpd_{n}": [rng.uniform(1, 2, 9).tolist()] for n in ("all", "last", "pixels")}
    records = [
        {"cell": c.name, "seed": c.seed, "arrays": arrays, "curves": {"pictures@1": paths}}
        for c in cells
    ]
    return Observed(target, tier, ("data", "mode"), pd.DataFrame(rows), about, ()), records


@pytest.mark.parametrize("channels", [1, 3])
def test_figures(channels):
    import matplotlib.pyplot as plt

    def tiles(*n):
        return np.random.default_rng(1).integers(0, 256, (*n, channels, 8, 8), dtype=np.uint8)

    maps = {f"{name}_{k}": np.zeros((8, 4 >> k, 4 >> k), np.uint8)
            for name in ("before", "after") for k in (1, 2)}  # fmt: skip
    arrays = {"temperatures_last": tiles(5, 2), "temperatures_all": tiles(5, 2), **maps,
              "line_all": tiles(9), "line_last": tiles(5), "bypassed": tiles(3)}  # fmt: skip
    arrays = {f"pictures.{k}": v for k, v in arrays.items()} | {"quality.tiles": tiles(8)}
    for target, draw, panels in (
        (QUALITY, picture_figures.quality, (2, 2)),
        (PICTURES, picture_figures.pictures, (12, 6)),
    ):
        for there, wanted in zip((arrays, {}), panels, strict=True):
            fig = draw(*made_up(target, "smoke", there))
            fig.canvas.draw()
            assert len(fig.axes) == wanted
            shown = sum(bool(ax.get_images()) for ax in fig.axes)
            assert shown == (0 if not there else 1 if target is QUALITY else 8)
            plt.close(fig)
