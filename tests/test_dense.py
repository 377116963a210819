"""DenseFlow: its published size, its networks against the authors' arrays, its mathematics."""

import copy

from lightning_modules.eiw_flow import DenseFlow, VariationalDequantizer
from lightning_modules.eiw_flow.dense import CrossUnit, DenseStack
from lightning_modules.eiw_flow.dense_nets import CouplingNet, NystroemAttention, pseudo_inverse
from lightning_modules.eiw_flow.layers import AffineCoupling, FlowStep
from lightning_modules.eiw_flow.multiscale import Encoding
from lightning_modules.flows import Noise, bits_per_dim

import pytest
import torch
from jacobians import images, logdet_by_autograd, shaken
from official import DTYPES, arrays
from torch.nn import functional as F

TINY = {"growth": 2, "mid": 8, "net_depth": 2, "net_growth": 4, "embed": 4}


def tiny(**options):
    torch.manual_seed(0)
    return DenseFlow((1, 8, 8), (2, 2), (1, 1), **{**TINY, **options})


def stack(units=3):
    torch.manual_seed(0)
    return DenseStack(4, units, 2, 2, lambda i, o: CouplingNet(i, o, 8, 2, 4, 4))


def normal(z):
    return torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1)


# ------------------------------------------------------------------------ the published size
def trainable(*modules):
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)


def test_denseflow_74_10_has_the_published_counts():
    with torch.device("meta"):
        noise = VariationalDequantizer()
        plain, shuffled = (DenseFlow(order=order) for order in ("identity", "eiw"))
    assert plain.outputs == ((248, 8, 8), (616, 4, 4), (308, 4, 4))
    assert plain.latent_shapes == [(124, 8, 8), (308, 4, 4), (308, 4, 4)]
    blocks = [t for s in plain.stacks for t in s.transforms if isinstance(t, DenseStack)]
    assert [b.widths[-1] for b in blocks] == [62, 154, 308]
    assert trainable(plain, noise) == 130_647_294
    assert trainable(shuffled, noise) == 130_922_462
    assert trainable(*(o.solver for o in shuffled.orders)) == 220_912
    assert trainable(*(o.guider for o in shuffled.orders)) == 54_256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 10, 8)}, "10 x 8 pixels cannot be halved 3 times"),
        ({"shape": (1, 8, 8)}, "the last scale has 1 x 1: take fewer scales or embed = 0"),
        ({"units": (1, 1)}, "units for 2 scales, modules for 3"),
    ],
)
def test_what_cannot_be_built(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        DenseFlow(**options)


# -------------------------------------------------------------------------- the bijections
class TestStack:
    """One block as a bijection of (x, eta) with eta given."""

    def augmented(self, block, n, dtype=torch.float64, **options):
        x = images(n, 4, 2, 2, **options).to(dtype)
        etas = [images(n, 2, 2, 2, seed=i).to(dtype) for i in range(1, len(block.units))]
        return x, etas

    def test_logdet_is_that_of_the_jacobian(self):
        block = shaken(stack(), 0.2)
        x, etas = self.augmented(block, 2)
        whole = torch.cat([x, *etas], 1)

        def image(v):
            return block(v[:, :4], Noise(given=v[:, 4:].split(2, 1)))

        y, logdet = image(whole)
        assert y.shape == whole.shape
        exact = logdet_by_autograd(lambda v: image(v)[0], whole)
        torch.testing.assert_close(logdet, exact - normal(torch.cat(etas, 1)), rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
    def test_round_trip(self, dtype, atol):
        block = shaken(stack(4), 0.1).to(dtype)
        x, etas = self.augmented(block, 3, dtype)
        y, _ = block(x, Noise(given=etas))
        back, noise = block.inverse_with_noise(y)
        torch.testing.assert_close(back, x, rtol=0, atol=atol)
        torch.testing.assert_close(noise, etas, rtol=0, atol=atol)
        torch.testing.assert_close(block.inverse(y), x, rtol=0, atol=atol)

    def test_a_unit_s_output_does_not_condition_its_successor_s_noise(self):
        """Noise before unit 1 sees the input; before unit 2, the input and unit 0's output."""
        block = shaken(stack(), 0.2)
        assert [c.net[0].in_channels for c in block.cross] == [4, 8]
        seen = []
        for cross in block.cross:
            cross.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        x, etas = self.augmented(block, 2)
        block(x, Noise(given=etas))
        assert torch.equal(seen[0], x)
        assert torch.equal(seen[1], torch.cat([x, block.units[0](x)[0]], 1))

    def test_it_starts_with_noise_alone(self):
        block = stack(2).double().eval()
        x, etas = self.augmented(block, 2)
        y, _ = block(x, Noise(given=etas))
        _, noise = block.inverse_with_noise(y)
        cross = block.cross[0]
        added, share = cross(x, Noise(given=etas))
        assert torch.equal(added, etas[0])
        torch.testing.assert_close(share, -normal(etas[0]))
        torch.testing.assert_close(noise, etas)


class TestFlow:
    def noise(self, n):
        shapes = [(2, 4, 4), (2, 2, 2)]
        return [images(n, *shape, seed=i) for i, shape in enumerate(shapes, 1)]

    @pytest.mark.parametrize("embed", [0, 4])
    def test_its_bound_is_the_density_on_the_augmented_space(self, embed):
        net, x = shaken(tiny(order="random", embed=embed), 0.1), images(1, 1, 8, 8)
        etas = self.noise(1)
        sizes = [t[0].numel() for t in (x, *etas)]

        def flat(tensors):
            return torch.cat([t.flatten(1) for t in tensors], 1)

        def encode(v):
            given, *noise = v.split(sizes, 1)
            shaped = [t.reshape(1, *e.shape[1:]) for t, e in zip(noise, etas, strict=True)]
            return net(given.reshape(1, 1, 8, 8), Noise(given=shaped))

        whole = flat([x, *etas])
        encoding = encode(whole)
        assert isinstance(encoding, Encoding)
        exact = logdet_by_autograd(lambda v: flat(encode(v).latents), whole)
        exact = exact + normal(encoding.latents[0]) + net.last.log_prob(encoding.latents[1])
        torch.testing.assert_close(
            encoding.log_prob, exact - normal(flat(etas)), atol=1e-9, rtol=0
        )

    @pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
    def test_images_come_back(self, dtype, atol):
        net, x = shaken(tiny(order="reverse"), 0.1).to(dtype), images(3, 1, 8, 8).to(dtype)
        latents = net(x, Noise(torch.Generator().manual_seed(1))).latents
        assert [z.shape[1:] for z in latents] == [torch.Size(s) for s in net.latent_shapes]
        torch.testing.assert_close(net.inverse(latents), x, rtol=0, atol=atol)
        assert net.sample(2, Noise(torch.Generator().manual_seed(2))).shape == (2, 1, 8, 8)

    def test_every_parameter_learns(self):
        net, x = shaken(tiny(), 0.1).train(), images(8, 1, 8, 8)
        net(x, Noise(torch.Generator().manual_seed(1))).log_prob.mean().backward()
        assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_bf16_in_the_networks_of_a_training_step_alone(self):
        net, x = shaken(tiny(bf16=True), 0.05).float(), images(8, 1, 8, 8).float()
        plain = tiny()
        plain.load_state_dict(net.state_dict())

        def log_prob(model):
            return copy.deepcopy(model)(x, Noise(torch.Generator().manual_seed(1))).log_prob

        assert torch.equal(log_prob(net), log_prob(plain.eval()))
        for model in (net, plain):
            model.train()
            for module in model.modules():
                if hasattr(module, "initialized"):
                    module.initialized.fill_(True)
        rough, exact = log_prob(net), log_prob(plain)
        assert rough.dtype == torch.float32
        assert not torch.equal(rough, exact)
        assert bits_per_dim(rough - exact, 64).abs().mean() < 0.02


# ------------------------------------------------------------------ the authors' arrays
TOLERANCE = {"f64": 1e-10, "f32": 1e-5}  # of reference/README.md

RENAMED = {
    "dn.transform.": "",
    ".nn.": ".layers.",
    "mha.out_transform": "attention.out",
    "mha": "attention",
    "mix_conv": "mix",
}


def loaded(module, weights, prefix):
    """The module with the authors' weights under our names, every one of them."""
    state = {}
    for name, value in weights.items():
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            state[name] = value
    module.load_state_dict(state)
    return module.eval()


def close(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.data
@pytest.mark.parametrize("kind", TOLERANCE)
class TestReference:
    def conditioner(self, kind):
        a = arrays("f3a_conditioner")
        net = loaded(CouplingNet(6, 12, 16, 7, 8, 8), a, "w/").to(DTYPES[kind])
        theirs = {k.removeprefix(f"{kind}/"): v for k, v in a.items() if k.startswith(kind)}
        return net, a["x"].to(DTYPES[kind]), theirs

    def test_conditioner(self, kind):
        net, x, theirs = self.conditioner(kind)
        atol = TOLERANCE[kind]
        first, block, last = net
        h = first(x)
        close(h, theirs["after_in_conv"], atol)
        close(block.attention(h), theirs["attention_branch"], atol)
        close(torch.nn.Sequential(*list(block.dense)[:-1])(h), theirs["dense_before_gate"], atol)
        close(block.dense(h), theirs["dense_branch"], atol)
        close(block(h), theirs["after_block"], atol)
        close(last(block(h)), theirs["output"], atol)
        close(net(x), theirs["output"], atol)

    def test_attention_at_other_sizes(self, kind):
        net, x, theirs = self.conditioner(kind)
        for size in (4, 2):
            h = net[0](x)[:, :, :size, :size]
            close(net[1].attention(h), theirs[f"attention_branch_{size}x{size}"], TOLERANCE[kind])

    def test_pseudo_inverse(self, kind):
        _, _, theirs = self.conditioner(kind)
        close(pseudo_inverse(theirs["pinv_in"]), theirs["pinv_out"], TOLERANCE[kind])

    def test_batch_norm_in_training(self, kind):
        net, x, theirs = self.conditioner(kind)
        close(net.train()(x), theirs["train_mode_output"], TOLERANCE[kind])
        norm = net[1].mix[0]
        close(norm.running_mean, theirs["train_mode_running_mean_after"], TOLERANCE[kind])
        close(norm.running_var, theirs["train_mode_running_var_after"], TOLERANCE[kind])

    def test_coupling(self, kind):
        a, dtype, atol = arrays("f3b_affine_coupling"), DTYPES[kind], TOLERANCE[kind]
        net = loaded(CouplingNet(6, 12, 8, 2, 8, 4), a, "w/coupling_net.0.").to(dtype)
        coupling, x = AffineCoupling(net), a["x"].to(dtype)
        z, logdet = coupling(x)
        close(z, a[f"{kind}/z"], atol)
        close(logdet, a[f"{kind}/logdet"], 10 * atol)
        close(coupling.inverse(z), a[f"{kind}/inverse_of_z"], atol)
        step = FlowStep(x.shape[1], net).to(dtype).eval()
        step.mix.weight.data.copy_(torch.eye(x.shape[1]))
        close(step(x)[0], a[f"{kind}/switched"], atol)

    def test_cross_unit(self, kind):
        a, dtype, atol = arrays("f3d_cross_unit"), DTYPES[kind], TOLERANCE[kind]
        cross = CrossUnit(7, 3).to(dtype)
        cross.net.load_state_dict(
            {k.split(".", 1)[1]: v for k, v in a.items() if k.startswith("w/")}
        )
        x, eta = a["x"].to(dtype), a["eta"].to(dtype)
        added, share = cross(x, Noise(given=[eta]))
        close(added, a[f"{kind}/eta_hat"], atol)
        close(share, a[f"{kind}/loglik_term"], 10 * atol)
        close(cross.inverse(x, added), eta, atol)


# -------------------------------------------------------------------------- the networks
def test_pseudo_inverse_of_a_regular_matrix():
    matrix = torch.eye(4).double() + 0.2 * images(5, 4, 4)
    torch.testing.assert_close(pseudo_inverse(matrix, 12), torch.linalg.inv(matrix))


def test_attention_that_sees_everything_in_one_token_per_landmark():
    """At 2 x 2 pixels the landmarks are the tokens: by hand, with the iteration's inverse."""
    torch.manual_seed(0)
    attention, x = NystroemAttention(4, 2).double(), images(3, 4, 2, 2)
    q, k, v = attention.qkv(x).reshape(3, 4, 6).chunk(3, -1)
    between = F.softmax(q @ k.mT / 4, -2)
    out = F.softmax(q @ k.mT / 2, -2) @ pseudo_inverse(between) @ F.softmax(q @ k.mT / 2, -2) @ v
    exact = attention.out((out + v).reshape(3, 2, 2, 2))
    torch.testing.assert_close(attention(x), exact)
