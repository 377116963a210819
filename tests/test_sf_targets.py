"""The claims of SimFlow's targets on made-up numbers; arms, evaluators, and what is derived."""

import math
import random
from types import SimpleNamespace

from lightning_modules.simflow import VAE, Alignment, Pixels, SimFlow, TokenFlow

import pandas as pd
import pytest
import torch
from jacobians import shaken

from reproduce.cells import expand, resolve
from reproduce.claims import judge
from reproduce.papers import printed, targets
from reproduce.simflow import evaluators, paired, pixel_evaluators, sampling_evaluators
from reproduce.simflow.arms import END_TO_END, VARIANTS
from reproduce.simflow.ruler import tiles
from reproduce.tables import Observed, summary_table
from reproduce.target import TIERS, Identity, Printed, Trend, Value, named

TARGETS = {t.id: t for t in targets().values() if t.paper == "simflow"}
DERIVED = {"beyond_reconstruction", "psnr_lost", "psnr_goes_with_gfd", "gfd_guided"}


def test_the_targets_are_the_papers_seventeen():
    wanted = (
        "headline alignment resolution variants collapse robustness interpolation latent "
        "convergence variance scale guidance density denoise sampling tradeoff stopgrad"
    )
    assert {f"sf-{name}" for name in wanted.split()} == TARGETS.keys()


# ------------------------------------------------------------------------------- all claims
def made_up(target, tier):
    """Rows of all cells at all marks, numbers in (1, 2), of what each arm can have."""
    rng, rows, cells = random.Random(0), [], []
    for cell in expand(target, tier):
        name = cell.name
        aligned = cell.config["model"]["init_args"]["alignment"] is not None
        cells.append({"cell": name, **cell.axes, "seed": cell.seed, "status": "done", "error": ""})
        for update in cell.updates if target.index else cell.updates[-1:]:
            at = {**cell.axes, "seed": cell.seed}
            at |= {target.index: update} if target.index else {}
            for metric in target.metrics:
                if metric in DERIVED or (metric.startswith("alignment") and not aligned):
                    continue
                value = 1.0 if metric.startswith("finite") else rng.uniform(1, 2)
                rows.append({**at, "metric": metric, "value": value, "cell": name})
    rows, axes = (
        pd.DataFrame(rows),
        tuple(dict.fromkeys(k for c in expand(target, tier) for k in c.axes)),
    )
    if target.derive:
        more = named(target.derive)(rows, tier)
        more = more[more["metric"].isin(list(target.metrics))].reindex(columns=rows.columns)
        rows = pd.concat([rows, more], ignore_index=True)
    return Observed(target, tier, axes, rows, pd.DataFrame(cells), ())


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.id)
def test_every_claim_is_judged_at_its_tiers(target, tier):
    seen = made_up(target, tier)
    claims = {f"{target.id}/{c.slug}": c for c in target.claims}
    found = {v.claim: v for v in judge(seen)}
    assert found.keys() <= claims.keys()
    for name, verdict in found.items():
        claim = claims[name]
        if tier not in claim.tiers:
            assert verdict.verdict == "not comparable", verdict
        elif tier in ("small", "gpu"):
            assert verdict.verdict in ("reproduced", "contradicted", "undecided"), verdict
            assert verdict.n >= (1 if isinstance(claim, Identity) else 3), verdict
            assert math.isfinite(verdict.ours), verdict
    if tier in ("small", "gpu"):
        assert set(seen.rows["metric"]) == set(target.metrics)


def test_every_printed_number_that_is_asked_for_is_there():
    keys = {row["key"] for row in printed("simflow")}
    for target in TARGETS.values():
        asked = set(target.printed.values())
        asked |= {c.printed.key for c in target.claims if isinstance(c, Value)}
        asked |= {
            c.equals.key
            for c in target.claims
            if isinstance(c, Identity) and isinstance(c.equals, Printed)
        }
        assert asked <= keys, target.id


@pytest.mark.parametrize("name", ["sf-headline", "sf-alignment", "sf-variants", "sf-latent"])
def test_printed_numbers_stand_beside_ours_and_are_called_not_comparable(name):
    table = summary_table(made_up(TARGETS[name], "small"))
    shown = table[table["paper"].notna()]
    assert set(shown["metric"]) == set(TARGETS[name].printed)
    assert shown["note"].str.startswith("not comparable").all()


def test_axes_that_trends_go_along_are_numbers():
    for target in TARGETS.values():
        for claim in target.claims:
            if isinstance(claim, Trend) and claim.axis != target.index:
                values = [arm.axes[claim.axis] for arm in target.arms("small")]
                assert all(isinstance(v, float | int) for v in values)


# ------------------------------------------------------------------------------------- arms
def test_variants_share_what_is_not_their_own():
    arms = {a.axes["variant"]: a for a in TARGETS["sf-variants"].arms("small")}
    assert arms.keys() == VARIANTS.keys()
    steps = {name: a.overrides["trainer.max_steps"] for name, a in arms.items()}
    first = {name: a.overrides["model.init_args.pretrain"] for name, a in arms.items()}
    assert len({steps[n] - first[n] for n in arms}) == 1  # equally long with the flow
    assert {n for n in arms if first[n]} == {n for n in arms if n.startswith("frozen")}


def the_cell(target, tier, axes):
    (cell,) = (c for c in expand(TARGETS[target], tier, 1) if dict(c.axes) == axes)
    return cell


@pytest.mark.parametrize("tier", ["smoke", "small", "gpu"])
def test_targets_share_the_end_to_end_cell(tier):
    home = {"smoke": "digits", "small": "digits", "gpu": "cifar32"}[tier]
    asked = [
        ("sf-variants", {"data": home, "variant": END_TO_END}),
        ("sf-headline", {"data": home, "variant": END_TO_END}),
        ("sf-convergence", {"alignment": "none"}),
        ("sf-variance", {"sigma": "0.5"}),
        ("sf-sampling", {"data": home, "variant": END_TO_END}),
    ]
    asked += {
        "smoke": [("sf-robustness", {"vae": "0.5"})],
        "gpu": [("sf-robustness", {"vae": "0.5"})],
        "small": [
            ("sf-alignment", {"alignment": "none"}),
            ("sf-stopgrad", {"gradient": "joint"}),
            ("sf-collapse", {"variance": "fixed", "updates": 2000}),
            ("sf-scale", {"size": "whole"}),
            ("sf-resolution", {"tokens": 16}),
        ],
    }[tier]
    assert len({the_cell(target, tier, axes).name for target, axes in asked}) == 1


def test_shorter_targets_share_theirs():
    robust = the_cell("sf-robustness", "small", {"vae": "0.5"})
    assert robust.updates == [1000]
    assert the_cell("sf-tradeoff", "small", {"lam": 0.1}).name == robust.name
    assert the_cell("sf-latent", "small", {"variant": END_TO_END}).name == robust.name
    free = the_cell("sf-collapse", "small", {"variance": "learnable, entropy", "updates": 2000})
    assert the_cell("sf-variance", "small", {"sigma": "learnable"}).name == free.name
    long = the_cell("sf-scale", "paper", {"size": "XXL"})
    assert the_cell("sf-alignment", "paper", {"alignment": "none"}).name == long.name


@pytest.mark.parametrize("tier", TIERS)
def test_every_run_averages_its_weights(tier):
    decay = {"smoke": 0.9, "small": 0.99, "gpu": 0.999, "paper": 0.9999}[tier]
    for target in TARGETS.values():
        for arm in target.arms(tier):
            (ema,) = resolve(target, tier, arm, 1).config["trainer"]["callbacks"]
            assert ema["class_path"] == "lightning_modules.callbacks.EMA"
            assert ema["init_args"]["decay"] == decay


def test_both_densities_transform_their_first_token():
    """A single block that leaves it alone would lose by that, not by being single."""
    flows = [a.overrides for a in TARGETS["sf-density"].arms("small")]
    assert all(f["model.init_args.flow.init_args.start_token"] for f in flows)


# -------------------------------------------------------------------------------- evaluators
def small_module(**options):
    torch.manual_seed(0)
    vae = options.pop("vae", None) or VAE(1, 8, (1, 2), 1, 2)
    channels = vae.latent_channels
    flow = TokenFlow(channels, (4, 4), width=16, layers=(1, 1), head_dim=8, classes=3)
    made = SimFlow(vae, flow, **options)
    return shaken(made, 0.05).float().eval()


@pytest.fixture
def data():
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.arange(60) % 3
    return SimpleNamespace(
        x_train=x, c_train=y, x_eval=x[:30], c_eval=y[:30], n_classes=3, fingerprint="made up"
    )


def test_evaluators_give_what_the_targets_ask_for(data, monkeypatch):
    monkeypatch.setattr(sampling_evaluators, "_JUDGED", 12)
    monkeypatch.setattr(sampling_evaluators, "_TURNS", 1)
    monkeypatch.setattr(pixel_evaluators, "_IMAGES", 40)
    alignment = Alignment(16, grid=4, hidden=8, teacher_width=5)
    latent = small_module(alignment=alignment, align_at=(-1, 0))
    frozen = {"train_encoder": False, "train_decoder": False}
    uniform, noisy = (small_module(vae=Pixels(1, 2, std=s), **frozen) for s in (None, 0.1))
    given = {}
    calls = {e.call for t in TARGETS.values() for e in t.evaluators}
    for call in calls:
        model = latent
        if "pixel" in call:
            model = uniform if call.endswith("density") else noisy
        made = "guidance generation progress few few_along few_guided many"
        few = {"n": 12} if call.split(":")[1] in made.split() else {}
        given[call] = set(named(call)(model, data, **few))
    for target in TARGETS.values():
        have = set().union(*(given.get(e.call, set()) for e in target.evaluators))
        lacking = set(target.metrics) - DERIVED - have
        assert not {m for m in lacking if not m[-1].isdigit()}, target.id


def test_the_rate_is_what_the_nll_has_more_than_its_noise(data):
    found = evaluators.latents(small_module(), data)
    floor = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert found["noise_entropy"] == pytest.approx(floor, abs=1e-6)
    assert found["rate"] == pytest.approx(found["nll"] - floor, abs=1e-6)
    assert found["rate_over_error"] == pytest.approx(found["rate"] / found["nll_se"], rel=1e-6)
    assert found["sigma"] == pytest.approx(0.5)


def test_noise_that_is_added_counts_as_noise(data):
    module = small_module(extra_noise=1.2)
    found = evaluators.latents(module, data)
    assert found["sigma"] == pytest.approx(1.3, rel=1e-6)  # 0.5 and 1.2


def test_every_image_s_noise_counts_alike(data, monkeypatch):
    module = small_module(vae=VAE(1, 8, (1, 2), 1, 2, posterior="learnable"))
    whole = evaluators.latents(module, data)["sigma"]
    monkeypatch.setattr(evaluators, "_CHUNK", 29)  # 29 and 1
    assert evaluators.latents(module, data)["sigma"] == pytest.approx(whole, rel=1e-6)


def test_spectra_and_entropies_of_each_image_are_kept(data):
    module = small_module()
    with torch.no_grad():
        module.vae.encoder[-1].bias += 3.0
    found = evaluators.latents(module, data)
    for suffix in ("", "_centred"):
        spectrum, entropies = found[f"spectrum{suffix}"], found[f"entropies{suffix}"]
        assert spectrum.shape == (4, 4)
        assert spectrum.sum() == pytest.approx(1)
        assert entropies.shape == (30,)
        assert entropies.mean() == pytest.approx(found[f"spectral_entropy{suffix}"])
    assert found["spectrum"][0, 0] > 0.9 > 0.5 > found["spectrum_centred"][0, 0]
    assert found["spectral_entropy"] < 0.5 < found["spectral_entropy_centred"]


def test_no_noise_is_the_reconstruction_itself(data):
    module = small_module()
    curve, alone = evaluators.robustness(module, data), evaluators.reconstruction(module, data)
    assert curve["psnr_0"] == curve["psnr_relative_0"] == alone["psnr"]
    assert curve["drop"] == curve["psnr_0"] - curve["psnr_1"]
    assert curve["std"] == pytest.approx(evaluators.latents(module, data)["std"], rel=1e-9)


def test_the_alignment_s_share_of_the_encoder_s_gradient(data):
    options = {"alignment_weight": 0.2, "lambda_nf": 0.1}
    torch.manual_seed(1)
    module = small_module(
        alignment=Alignment(16, grid=4, hidden=8, teacher_width=5), align_at=(-1, 0), **options
    )
    one = sampling_evaluators.alignment(module, data)["alignment_gradient"]
    assert one > 0
    module.hparams.alignment_weight, module.hparams.lambda_nf = 0.4, 0.3
    twice = sampling_evaluators.alignment(module, data)["alignment_gradient"]
    assert twice == pytest.approx(one * 2 / 3, rel=1e-5)


def test_pictures_of_any_size_fit_into_a_record():
    colour, large = torch.rand(60, 3, 32, 32) * 2 - 1, torch.full((20, 3, 256, 256), 0.5)
    assert tiles(colour[:20]).shape == (20, 3, 32, 32)
    assert tiles(colour).shape == (60, 3, 16, 16)
    assert tiles(large).shape == (20, 3, 32, 32)
    assert (tiles(large) == 191).all()
    odd = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, float("nan")])
    assert tiles(odd).tolist() == [0, 0, 128, 255, 255, 0]


def test_a_gaussian_that_fits_needs_its_entropy_in_bits():
    """Independent uniform levels: the normal of equal variance needs 0.25 bits more than 8."""
    x = torch.randint(256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    data = SimpleNamespace(x_train=x, x_eval=x, c_eval=torch.zeros(400, dtype=torch.long))
    frozen = {"train_encoder": False, "train_decoder": False}
    found = pixel_evaluators.density(small_module(vae=Pixels(1, 2), **frozen), data)
    more = 0.5 * math.log2(2 * math.pi * math.e / 12)
    assert found["bpd_gaussian"] == pytest.approx(8 + more, abs=0.02)


def test_blending_of_a_line_and_of_a_switch():
    ends = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    t = torch.linspace(0, 1, 10)[:, None, None]
    line = (1 - t) * ends[0] + t * ends[1]
    expected = float(torch.minimum(t, 1 - t).mean())
    assert sampling_evaluators._blending(line) == pytest.approx(expected)
    assert sampling_evaluators._blending(torch.where(t < 0.5, ends[0], ends[1])) == 0


# ----------------------------------------------------------------------------- derived rows
def frame(rows):
    names = ["data", "variant", "seed", "metric", "value"]
    return pd.DataFrame(rows, columns=names).assign(cell="c")


def test_psnr_lost_is_against_the_best_of_the_same_seed():
    rows = frame(
        [
            ("a", "frozen/learnable", 0, "psnr", 30.0),
            ("a", "frozen/learnable", 1, "psnr", 31.0),
            ("a", "e2e/fixed", 0, "psnr", 22.0),
            ("a", "e2e/fixed", 1, "psnr", 25.0),
            ("b", "e2e/fixed", 0, "psnr", 9.0),
        ]
    )
    lost = paired.ladder(rows, "small")
    lost = lost[lost["metric"] == "psnr_lost"].set_index("seed")["value"]
    assert lost.to_dict() == {0: 8.0, 1: 6.0}


def test_psnr_lost_is_against_the_fixed_variance_trained_as_long():
    names = ["variance", "updates", "seed", "metric", "value"]
    rows = [
        (variance, updates, seed, "psnr", value + seed)
        for variance, updates, value in (
            ("fixed", 700, 21.0), ("learnable", 700, 13.0),
            ("fixed", 2000, 22.0), ("learnable", 2000, 21.0),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    lost = paired.over_fixed(pd.DataFrame(rows, columns=names).assign(cell="c"), "small")
    assert list(lost["value"]) == [8.0, 8.0, 1.0, 1.0]
    assert set(lost["variance"]) == {"learnable"}


def test_what_samples_lack_beyond_reconstructions():
    rows = [
        ("a", variant, seed, metric, value + seed)
        for variant, gfd, rfd in (("frozen/learnable", 6.0, 1.0), ("e2e/fixed", 5.0, 4.5))
        for seed in (0, 1)
        for metric, value in (("gfd_classifier", gfd), ("rfd_classifier", rfd - 2 * seed))
    ]
    found = paired.ladder(frame(rows), "small")
    gap = found[found["metric"] == "beyond_reconstruction"].set_index(["variant", "seed"])["value"]
    assert gap.to_dict() == {
        ("frozen/learnable", 0): 5.0,
        ("frozen/learnable", 1): 7.0,
        ("e2e/fixed", 0): 0.5,
        ("e2e/fixed", 1): 2.5,
    }


def test_ranks_of_the_papers_own_table_agree_by_0_83():
    table = ((29.76, 84.44), (27.54, 67.41), (24.43, 55.41), (19.94, 39.33), (23.2, 20.01))
    rows = []
    for variant, (psnr, gfd) in zip(VARIANTS, (*table, (22.61, 16.97)), strict=True):
        rows += [("a", variant, 0, "psnr", psnr), ("a", variant, 0, "gfd_classifier", gfd)]
    found = paired.ladder(frame(rows), "small").set_index("metric")["value"]
    assert found["psnr_goes_with_gfd"] == pytest.approx(0.83, abs=0.005)


def test_the_guided_distance_is_at_the_weight_that_is_best_for_the_other_seeds():
    values = ((1.0, 3.0, 4.0), (5.0, 2.0, 4.0), (5.0, 4.0, 3.5))
    rows = frame(
        [
            ("a", "v", s, f"gfd_classifier_score_deep_{w}", value)
            for s, three in enumerate(values)
            for w, value in zip(("0.5", "1", "2"), three, strict=True)
        ]
    )
    found = paired.guided(rows, "small").set_index("seed")["value"]
    # others' means: (5, 3, 3.75) chooses 1; (3, 3.5, 3.75) chooses 0.5; (3, 2.5, 4) chooses 1
    assert found.to_dict() == {0: 3.0, 1: 5.0, 2: 4.0}
    assert paired.guided(rows[rows["seed"] == 0], "paper").empty
