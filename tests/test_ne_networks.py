"""The network e_theta: its size, its start, and the authors' own numbers on the same weights."""

import math

from lightning_modules.neural_entropy import MLP, PROCESSES, NeuralEntropy, estimators
from lightning_modules.neural_entropy.estimators import Window, entropy_curves, log_prob_bound
from lightning_modules.neural_entropy.networks import FourierFeatures, lecun_normal_

import pytest
import torch
from official import DTYPES, arrays


def mlp(*args, seed=0, **options) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(*args, **options)


def trainable(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


# -------------------------------------------------------------------------------- size and Fourier
@pytest.mark.parametrize(
    ("dim", "count"), [(2, 1_315_330), (3, 1_315_587), (6, 1_316_358), (9, 1_317_129)]
)
def test_trainable_parameters_of_the_authors_network(dim, count):
    with torch.device("meta"):
        net = MLP(dim)
    assert trainable(net) == count == 1_314_816 + 257 * dim


def test_fourier_matrices_are_saved_but_not_trained():
    net = mlp(3, widths=(8,), frequencies=4)
    assert {"fourier_s.matrix", "fourier_x.matrix"} <= net.state_dict().keys()
    assert {n for n, _ in net.named_buffers()} == {"fourier_s.matrix", "fourier_x.matrix"}
    assert not any("fourier" in n for n, _ in net.named_parameters())
    net(torch.randn(5, 3), torch.rand(5)).sum().backward()
    assert not net.fourier_x.matrix.requires_grad
    assert net.fourier_x.matrix.grad is None
    assert all(p.grad is not None for p in net.parameters())


def test_a_loaded_network_has_the_saved_fourier_matrices():
    a, b = mlp(3, (8,), 4, seed=1), mlp(3, (8,), 4, seed=2)
    y, s = torch.randn(6, 3), torch.rand(6)
    assert not torch.equal(a(y, s), b(y, s))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(y, s), b(y, s))


def test_fourier_matrices_have_standard_deviation_a_tenth():
    matrix = mlp(9, widths=(4,), frequencies=2000).fourier_x.matrix
    assert matrix.shape == (2000, 9)
    # 18000 normal draws: the standard deviation is known to 0.5 %
    assert float(matrix.std()) == pytest.approx(0.1, rel=0.025)
    assert abs(float(matrix.mean())) < 0.005


def test_fourier_features_are_sines_then_cosines():
    layer = FourierFeatures(2, 3)
    v = torch.randn(5, 2)
    phase = 2 * math.pi * torch.einsum("bi,fi->bf", v, layer.matrix)
    torch.testing.assert_close(layer(v), torch.cat([phase.sin(), phase.cos()], 1))


# ------------------------------------------------------------------------------------------- start
def test_weights_start_as_truncated_lecun_normal():
    net = mlp(3)
    bulk = 0.87962566103423978  # standard deviation of a standard normal cut at two
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 7
    for name, layer in layers:
        std = layer.in_features**-0.5
        weight = layer.weight.detach()
        # the square of this law has variance 1.37: 5 standard errors
        rel = 5 * math.sqrt(1.37 / weight.numel()) / 2
        assert float(weight.std()) == pytest.approx(std, rel=rel), name
        assert float(weight.abs().max()) <= 2 * std / bulk * (1 + 1e-6), name
        assert not layer.bias.any(), name
    wide = net.embed_s.weight.detach().abs().max() * 512**0.5 * bulk
    assert float(wide) > 1.99  # cut at two, no sooner


def test_lecun_normal_is_not_cut_at_absolute_two():
    layer = torch.nn.Linear(1, 4096)  # here sigma is 1.137, so a cut at +-2 would show
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lecun_normal_(layer)
    weight = layer.weight.detach()
    assert 2.2 < float(weight.abs().max()) <= 2 / 0.8796
    assert float(weight.std()) == pytest.approx(1, rel=0.04)


def test_zero_output_is_exactly_zero():
    net = mlp(3, widths=(8, 4), frequencies=4, zero_output=True)
    assert not net(100 * torch.randn(16, 3), torch.rand(16)).any()
    assert mlp(3, (8, 4), 4)(torch.randn(16, 3), torch.rand(16)).any()


@pytest.mark.parametrize("embed_x", [True, False])
def test_output_is_shaped_like_the_points(embed_x):
    net = mlp(5, widths=(16, 8), frequencies=6, embed_x=embed_x)
    y, s = torch.randn(7, 5, requires_grad=True), torch.rand(7)
    e = net(y, s)
    assert e.shape == y.shape
    assert e.isfinite().all()
    # each row sees its own point and its own time
    (gradient,) = torch.autograd.grad(e[2].sum(), y)
    assert gradient[2].any()
    assert not gradient[[0, 1, 3, 4, 5, 6]].any()
    assert not torch.allclose(net(y, s), net(y, s.flip(0) + 1))


def test_forward_by_hand():
    """Section 4.1, layer by layer, on weights of no special form."""
    net = mlp(2, widths=(6, 4), frequencies=3)
    rng = torch.Generator().manual_seed(3)
    w = {k: torch.randn(v.shape, generator=rng) for k, v in net.state_dict().items()}
    net.load_state_dict(w)
    y, s = torch.randn(9, 2, generator=rng), torch.rand(9, generator=rng)

    def dense(name, v):
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def fourier(name, v):
        phase = 2 * math.pi * v @ w[f"{name}.matrix"].T
        return torch.cat([phase.sin(), phase.cos()], 1)

    emb = dense("embed_s", fourier("fourier_s", s[:, None])).sigmoid()
    h = dense("embed_x", fourier("fourier_x", y)).sigmoid()
    for i in range(2):
        h = dense(f"from_h.{i}", h) + dense(f"from_s.{i}", emb)
        h = (h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        h = (w[f"norm.{i}.weight"] * h + w[f"norm.{i}.bias"]).sigmoid()
    torch.testing.assert_close(net(y, s), dense("out", h), rtol=1e-5, atol=1e-5)
    assert {m.eps for m in net.norm} == {1e-6}


def test_without_embedding_y_enters_through_a_dense_layer():
    with torch.device("meta"):
        net = MLP(3, embed_x=False)
    assert isinstance(net.fourier_x, torch.nn.Identity)
    assert net.embed_x.weight.shape == (3, 3)
    assert trainable(net) == 1_315_587 - (512 * 512 + 512) + (3 * 3 + 3) - 512 * 509


# ----------------------------------------------------------------- the authors' arrays, section 5b
OFFICIAL = {"VP": "vp", "VPx": "vpx", "SL": "sl"}
# tolerance of reference/README.md; in float64 it separates a wrong formula from rounding
TOLERANCE = {"f64": 1e-9, "f32": 1e-5}


class Reference:
    """The authors' arrays in one precision, and our network with their weights."""

    def __init__(self, arrays: dict[str, torch.Tensor], precision: str) -> None:
        self.arrays, self.precision = arrays, precision
        self.dtype = DTYPES[precision]
        net = mlp(3, widths=(32, 16), frequencies=8).to(self.dtype)
        net.load_state_dict(dict(self.weights()))
        self.net = net

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.arrays[name].to(self.dtype)

    def result(self, name: str) -> torch.Tensor:
        return self[f"{self.precision}/{name}"]

    def weights(self):
        """Theirs under our names: kernels transposed, Fourier matrices times their ten."""
        for name, theirs in OURS.items():
            value = self[f"w/{theirs}"]
            if theirs.startswith("B_"):
                yield name, 10 * value
            else:
                yield name, value.T.contiguous() if theirs.endswith("kernel") else value

    def check(self, ours: torch.Tensor, name: str, factor: float = 1.0) -> None:
        want, tolerance = self.result(name), factor * TOLERANCE[self.precision]
        atol = tolerance * float(want.abs().max())
        torch.testing.assert_close(ours.to(self.dtype), want, rtol=tolerance, atol=atol)


def _names() -> dict[str, str]:
    dense = ["embed_s", "embed_x", "from_s.0", "from_h.0", "from_s.1", "from_h.1", "out"]
    names = {"fourier_s.matrix": "B_s", "fourier_x.matrix": "B_x"}
    for i, layer in enumerate(dense):
        names |= {f"{layer}.weight": f"Dense_{i}/kernel", f"{layer}.bias": f"Dense_{i}/bias"}
    for i in range(2):
        names |= {f"norm.{i}.weight": f"LayerNorm_{i}/scale"}
        names |= {f"norm.{i}.bias": f"LayerNorm_{i}/bias"}
    return names


OURS = _names()


@pytest.fixture(params=["f64", "f32"])
def reference(request) -> Reference:
    return Reference(arrays("f5b_ne_mlp_small"), request.param)


official = pytest.mark.parametrize("process", OFFICIAL)


def model(reference: Reference, process: str, weighting: str) -> NeuralEntropy:
    return NeuralEntropy(reference.net, OFFICIAL[process], weighting=weighting)


def loss(reference: Reference, process: str, weighting: str) -> torch.Tensor:
    ours = model(reference, process, weighting)
    lo, hi = ours.process.s_min, ours.process.s_max
    s = lo + (hi - lo) * reference["loss_u"].flatten()
    x = reference["x"].repeat_interleave(4, 0)
    return ours.objective(x, s, reference["loss_z"].flatten(0, 1)).mean()


@pytest.mark.data
def test_every_weight_has_a_place(reference):
    assert reference.net.state_dict().keys() == OURS.keys()
    stored = {n.removeprefix("w/") for n in reference.arrays if n.startswith("w/")}
    assert set(OURS.values()) == stored


@pytest.mark.data
def test_network_output(reference):
    reference.check(reference.net(reference["x"], reference["s"]), "e_theta")


@official
@pytest.mark.parametrize("weighting", ["unit", "ml"])
@pytest.mark.data
def test_loss(reference, process, weighting):
    name = {"unit": "loss_unweighted", "ml": "loss_weighted"}[weighting]
    factor = 1.0 if process == "VP" or reference.precision == "f64" else 2.0  # README's 2e-5
    reference.check(loss(reference, process, weighting), f"{process}/{name}", factor)


@official
@pytest.mark.data
def test_gradient_norms(reference, process):
    loss(reference, process, "unit").backward()
    for name, parameter in reference.net.named_parameters():
        reference.check(parameter.grad.norm(), f"{process}/gradnorm/{OURS[name]}")
    for name in ("B_s", "B_x"):
        assert reference.result(f"{process}/gradnorm/{name}") == 0


@official
@pytest.mark.data
def test_process_coefficients(reference, process):
    ours, s, y = PROCESSES[OFFICIAL[process]], reference["s"], reference["y"]
    reference.check(ours.mu(s), f"{process}/mu")
    reference.check(ours.std(s), f"{process}/std")
    reference.check(ours.sigma2(s).sqrt(), f"{process}/sigma")
    reference.check(ours.drift(y, s[:, None]), f"{process}/drift")
    reference.check(ours.score_eq(y), f"{process}/grad_logp_eq")


@official
@pytest.mark.data
def test_density_bound(reference, process, monkeypatch):
    """One throw at the authors' (s, y): what is left beside -S0 is their integrand."""
    ours, x = PROCESSES[OFFICIAL[process]], reference["x"]
    lo, hi = 1e-5, 1 - 1e-5
    s = reference["s"].double()
    z = (reference["y"].double() - ours.mu(s)[:, None] * x) / ours.std(s)[:, None]
    monkeypatch.setattr(estimators.torch, "rand", lambda size, **_: ((s - lo) / (hi - lo))[None])
    monkeypatch.setattr(estimators.torch, "randn", lambda size, **_: z)
    bound = log_prob_bound(ours, reference.net, x, 1, torch.Generator(), prior="official")
    s0 = reference.result(f"{process}/S0").double()
    reference.check(-(bound + s0) / (hi - lo), f"{process}/bound_integrand_EM")


@official
@pytest.mark.data
def test_entropy_rate(reference, process, monkeypatch):
    monkeypatch.setattr(
        estimators.torch, "randn", lambda size, **_: reference["rate_z"].expand(size)
    )
    times = reference.result(f"{process}/rate_times").double()
    curves = entropy_curves(
        PROCESSES[OFFICIAL[process]],
        reference.net,
        reference["x"],
        Window(times, torch.ones_like(times)),
        torch.Generator(),
    )
    reference.check(curves.neural, f"{process}/rate_neural")
