"""The figures of SimFlow's targets from made-up numbers and sidecars, and the printed tables."""

from collections import Counter

import numpy as np
import pytest
from test_eiw_figures import cut_off
from test_sf_targets import TARGETS, made_up

from reproduce.papers import printed
from reproduce.simflow.arms import VARIANTS
from reproduce.simflow.panels import high_bins, spectra
from reproduce.target import named


def sidecars(seen, side=4, pixels=8):
    """Arrays that each cell of any target may have; entropies and spectra of white latents."""
    rng = np.random.default_rng(0)
    found = []
    for row in seen.cells.itertuples():
        arrays = {}
        for suffix in ("", "_centred"):
            power = rng.exponential(size=(50, side, side))
            arrays[f"latents.spectrum{suffix}"] = power.mean(0) / power.mean(0).sum()
            arrays[f"latents.entropies{suffix}"] = rng.uniform(0.8, 1, 50)
        for name, n in (("generation", 20), ("guidance", 60), ("interpolation", 30),
                        ("denoising", 20)):  # fmt: skip
            shape = (n, 3 if "cifar" in str(getattr(row, "data", "")) else 1, pixels, pixels)
            arrays[f"{name}.tiles"] = rng.integers(256, size=shape).astype(np.uint8)
        found.append({"cell": row.cell, "seed": row.seed, "arrays": arrays})
    return found


@pytest.fixture
def draw():
    """Draws what was observed, to the last text; warnings are errors."""
    import matplotlib.pyplot as plt

    made = []

    def drawn(name, change=None, side=4, records=True, tier="small"):
        seen = made_up(TARGETS[name], tier)
        if change:
            change(seen.rows)
        found = sidecars(seen, side) if records else []
        made.append(named(seen.target.figure)(seen, found))
        made[-1].canvas.draw()
        return made[-1]

    yield drawn
    for fig in made:
        plt.close(fig)


def panels(fig):
    return [ax for ax in fig.axes if ax.get_visible()]


def titled(fig, text):
    (ax,) = (a for a in panels(fig) if text in (a.get_title(), a.get_xlabel()))
    return ax


def labels(fig):
    return [t.get_text() for legend in fig.legends for t in legend.get_texts()]


@pytest.mark.parametrize("name", TARGETS)
def test_everything_is_drawn_within_the_page(name, draw):
    fig = draw(name)
    for ax in panels(fig):
        assert ax.has_data(), ax.get_title()
        assert ax.get_xlabel() or ax.images or ax.get_yaxis().get_label_position() == "right"
    assert not cut_off(fig)
    assert fig.get_figwidth() < 12  # else a README shrinks its letters
    assert max(Counter(labels(fig)).values(), default=1) == 1


@pytest.mark.parametrize("name", TARGETS)
def test_without_sidecars_the_rest_is_drawn(name, draw):
    draw(name, records=False)


def test_the_papers_curves_of_robustness_are_five(draw):
    paper = titled(draw("sf-robustness"), "paper: ImageNet 256, not comparable")
    first = [line.get_ydata()[0] for line in paper.lines]
    assert first == [30.1, 23.0, 22.9, 22.6, 22.25]  # learnable, 0.5, 0.75, 1, 1.25
    assert len({line.get_color() for line in paper.lines}) == 5


@pytest.mark.parametrize(("side", "share"), [(4, 5 / 16), (16, 61 / 256)])
def test_white_latents_are_marked(side, share, draw):
    assert high_bins(side) == share
    fig = draw("sf-latent", side=side)
    lines = titled(fig, "power at high frequencies").lines
    assert [x.get_xdata()[0] for x in lines if x.get_label() == "white"] == [share]
    spectrum = titled(fig, "mean spectrum")
    (white,) = (line for line in spectrum.lines if line.get_label() == "white")
    assert white.get_ydata()[0] == 1 / side**2
    for line in spectrum.lines[:-1]:
        assert line.get_xdata()[0] == 0
        assert 0.3 < side**2 * np.mean(line.get_ydata()) < 3
    entropy = titled(fig, "spectral entropy of an image")
    assert {line.get_xdata()[0] for line in entropy.lines} == {0.84, 0.99}
    assert len(entropy.patches) == 4
    assert {"white", "paper: mode of the density, not comparable"} <= set(labels(fig))


def test_a_spectrum_is_averaged_over_frequencies_of_one_length():
    import matplotlib.pyplot as plt

    power = np.arange(16.0).reshape(4, 4)
    power /= power.sum()
    _, ax = plt.subplots()
    spectra(ax, {("a",): [power, power]}, ["a"])
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(x, [0, 1, 2**0.5, 2, 5**0.5, 8**0.5], rtol=1e-5)
    # fftfreq of four: 0, 1, -2, -1
    ones = [(0, 1), (0, 3), (1, 0), (3, 0)]
    assert y[1] == pytest.approx(np.mean([power[at] for at in ones]))
    assert y[5] == power[2, 2]
    plt.close("all")


def test_at_paper_scale_the_papers_marks_are_comparable(draw):
    assert "paper: ImageNet 256" in labels(draw("sf-variants", tier="paper"))


def test_an_error_of_zero_is_said_and_not_drawn(draw):
    def exact(rows):
        rows.loc[rows["metric"] == "error_naive", "value"] = 0.0

    fig = draw("sf-sampling", exact)
    error = titled(fig, "greatest error, relative to the naive inverse")
    assert [(t.get_text(), t.get_position()[1]) for t in error.texts] == [("0", 0)]
    assert error.get_xlim()[0] > 1e-5
    assert not titled(fig, "network calls of a batch").texts


def test_variants_show_their_samples_and_the_papers_psnr(draw):
    fig = draw("sf-variants")
    shown = [ax for ax in fig.axes if ax.images]
    assert len(shown) == 2  # a data set each
    for ax in shown:
        assert [t.get_text() for t in ax.get_yticklabels()] == list(VARIANTS)
    psnr = next(ax for ax in fig.axes if ax.get_xlabel() == "PSNR (dB)")
    squares = [line.get_xdata()[0] for line in psnr.lines if line.get_marker() == "s"]
    assert squares == [29.76, 27.54, 24.43, 19.94, 23.2, 22.61]
    assert "paper: ImageNet 256, not comparable" in labels(fig)


# --------------------------------------------------------------------------------- printed.csv
def test_the_printed_tables_have_every_methods_row():
    others = [row for row in printed("simflow") if row["key"].startswith("others/")]
    methods = {d: {r["at"]["method"] for r in others if r["at"]["data"] == d} for d in
               ("imagenet256", "imagenet512")}  # fmt: skip
    assert {data: len(names) for data, names in methods.items()} == {
        "imagenet256": 21, "imagenet512": 16,
    }  # fmt: skip
    value = {(r["key"].split("/")[1], r["at"]["data"], r["at"]["method"]): r for r in others}
    assert len(value) == len(others) == 240
    for key, expected in {
        ("gFID_guided", "imagenet256", "STARFlow"): 2.40,
        ("gFID_guided", "imagenet512", "STARFlow"): 3.00,
        ("gFID_guided", "imagenet256", "DiT"): 2.27,
        ("gFID", "imagenet256", "ADM"): 10.94,
        ("PSNR", "imagenet256", "RAE"): 18.86,
        ("recall_guided", "imagenet512", "SiT"): 0.57,
        ("parameters", "imagenet256", "JetFormer"): 2800,
    }.items():
        assert value[key]["value"] == expected
    assert value["parameters", "imagenet256", "JetFormer"]["error"] == 50
    assert all("2512.04084" in row["source"] for row in others)


def test_the_modes_of_the_spectral_entropy():
    modes = [r for r in printed("simflow") if r["key"] == "latent/mode of spectral entropy"]
    assert [r["value"] for r in modes] == [0.99, 0.99, 0.84, 0.84]
    assert [r["at"]["variant"] for r in modes][::3] == ["frozen/learnable", "e2e+REPA"]
