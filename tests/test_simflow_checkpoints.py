"""Official checkpoints through the converter, against plain formulas; to a file and back."""

import json
import math

from lightning_modules.flows import bits_per_dim
from lightning_modules.simflow.checkpoints import export, load, read
from lightning_modules.simflow.flow import TokenFlow

import plain_flows as plain
import pytest
import torch
from jacobians import images
from safetensors import safe_open
from safetensors.torch import save_file

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def typed(state, dtype):
    return {k: v.to(dtype) for k, v in state.items()}


def check(found, expected, dtype):
    """Latents, and nats per dimension, of a batch against (z, logdet) of each sample."""
    z = torch.stack([z for z, _ in expected])
    log_prob = torch.stack([plain.log_prob(*pair) for pair in expected])
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.z, z.to(dtype), rtol=tolerance, atol=tolerance)
    nats, plainly = found.log_prob / z[0].numel(), log_prob.to(dtype) / z[0].numel()
    torch.testing.assert_close(nats, plainly, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
class TestTarFlow:
    """Patches of 2 x 2 pixels of 3 channels on a grid of 3 x 3, as AFHQ's of 8 x 8 on 32 x 32."""

    def test_likelihood_of_images_with_labels(self, dtype, tmp_path):
        state, x = plain.tarflow_state(), images(4, 3, 6, 6)
        torch.save(typed(state, dtype), tmp_path / "afhq.pth")
        model = read(tmp_path / "afhq.pth", head_dim=8)
        shape = model.flow.shape
        assert (shape.grid, shape.channels, shape.width, shape.classes) == ((3, 3), 12, 16, 3)
        assert [len(block.layers) for block in model.flow.blocks] == [2, 2, 2]
        assert model.patch == 2
        labels = [0, 2, -1, 1]
        found = model.flow(model.tokens(x.to(dtype)), torch.tensor(labels))
        expected = [
            plain.tarflow(state, plain.patches(image, 2, "channel"), label, 8)
            for image, label in zip(x, labels, strict=True)
        ]
        check(found, expected, dtype)
        bits = bits_per_dim(found.log_prob, model.flow.dims) + math.log2(128)
        plainly = torch.stack([plain.tarflow_bits(*pair) for pair in expected])
        torch.testing.assert_close(bits, plainly.to(dtype), rtol=0, atol=TOLERANCE[dtype])
        assert torch.equal(model.images(model.tokens(x)), x)

    def test_shifts_alone_without_classes(self, dtype):
        """The prior's variance, which then is not one, is kept."""
        state = plain.tarflow_state(classes=0, scales=False)
        state["var"] = state["var"] * torch.linspace(0.5, 2.0, 12)
        x = images(2, 3, 6, 6)
        model = read(typed(state, dtype), head_dim=8)
        found = model.flow(model.tokens(x.to(dtype)))
        expected = [plain.tarflow(state, plain.patches(image, 2, "channel"), -1, 8) for image in x]
        assert not found.logdet.any()
        z = torch.stack([z for z, _ in expected])
        torch.testing.assert_close(found.z, z.to(dtype), rtol=0, atol=TOLERANCE[dtype])
        normal = torch.distributions.Normal(0.0, state["var"].sqrt())
        prior = normal.log_prob(z).mean((1, 2)).to(dtype)
        torch.testing.assert_close(found.log_prob / 108, prior, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
class TestSTARFlow:
    """Heads of 32 features: 4 + 4 + 8 pairs turn with row, column and place in the prompt."""

    def test_likelihood_with_a_prompt_in_the_deep_block(self, dtype):
        state = plain.starflow_state(width=32, depths=(1, 1, 2))
        x, prompts = images(2, 3, 6, 6), images(2, 4, 5, seed=1)
        model = read(typed(state, dtype), "starflow", head_dim=32, image_channels=3)
        assert model.flow.shape.prompt == (4, 5)
        assert [block.prompt is None for block in model.flow.blocks] == [True, True, False]
        found = model.flow(model.tokens(x.to(dtype)), prompts.to(dtype))
        expected = [
            plain.starflow(state, plain.patches(image, 2, "pixel"), prompt, (3, 3), (4, 4, 8), 32)
            for image, prompt in zip(x, prompts, strict=True)
        ]
        check(found, expected, dtype)

    def test_a_label_is_a_prompt_of_one_token(self, dtype):
        """In all blocks; the other order, exponential scales, heads of 8, and latents."""
        state = plain.starflow_state(channels=4, prompt=(1, 4), everywhere=True)
        x, labels = images(3, 4, 3, 3), [2, -1, 0]
        model = read(
            typed(state, dtype),
            "starflow",
            head_dim=8,
            prompt_pairs=2,
            scale="exp",
            soft_clip=None,
            flip_first=False,
        )
        assert (model.flow.shape.classes, model.patch) == (3, 1)
        found = model.flow(model.tokens(x.to(dtype)), torch.tensor(labels))
        one_hot = torch.eye(4).double()
        expected = [
            plain.starflow(
                state, plain.patches(latent, 1, "pixel"), one_hot[[label]], (3, 3), (1, 1, 2), 8,
                softplus=False, l2r=False, clip=None,
            )
            for latent, label in zip(x, labels, strict=True)
        ]  # fmt: skip
        check(found, expected, dtype)

    def test_without_start_token_norm_and_prompt_on_another_grid(self, dtype):
        """Trained on 3 x 3 tokens, used on 2 x 4: positions keep the first one's side."""
        state = plain.starflow_state(channels=4, prompt=None)
        state = {k: v for k, v in state.items() if "sos" not in k and "final" not in k}
        x = images(2, 4, 2, 4)
        model = read(typed(state, dtype), "starflow", head_dim=8, grid=(2, 4))
        assert not model.flow.shape.start_token
        found = model.flow(model.tokens(x.to(dtype)))
        expected = [
            plain.starflow(state, plain.patches(v, 1, "pixel"), None, (2, 4), (2, 2), 8, side=3)
            for v in x
        ]
        check(found, expected, dtype)


def test_half_precision_weights_become_single():
    model = read(typed(plain.tarflow_state(), torch.bfloat16), head_dim=8)
    assert {p.dtype for p in model.flow.parameters()} == {torch.float32}


class TestFiles:
    @pytest.mark.parametrize("family", ["tarflow", "starflow", "labels"])
    def test_a_flow_comes_back_as_it_was(self, family, tmp_path):
        y, options = torch.tensor([1, -1]), {"head_dim": 8}
        if family == "tarflow":
            state = plain.tarflow_state()
            state["var"] *= 2
        elif family == "starflow":
            y, options = images(2, 4, 5), {"head_dim": 16, "image_channels": 3}
            state = plain.starflow_state()
        else:
            options |= {"prompt_pairs": 1, "flip_first": False}
            state = plain.starflow_state(prompt=(1, 4), everywhere=True)
        model = read(state, "tarflow" if family == "tarflow" else "starflow", **options)
        export(model, tmp_path / "deep" / "flow.safetensors")
        before = torch.get_rng_state()
        again = load(tmp_path / "deep" / "flow.safetensors")
        assert torch.equal(torch.get_rng_state(), before)
        assert again.flow.shape == model.flow.shape
        assert (again.patch, again.order) == (model.patch, model.order)
        x = images(2, 9, 12)
        torch.testing.assert_close(again.flow(x, y).log_prob, model.flow(x, y).log_prob)
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["flow.safetensors"]

    def test_our_own_flow_trains_on(self, tmp_path):
        torch.manual_seed(0)
        flow = TokenFlow(2, (2, 3), width=16, layers=(1, 2), head_dim=8, classes=3)
        export(flow, tmp_path / "flow.safetensors")
        again = load(tmp_path / "flow.safetensors").flow
        assert {k: v.tolist() for k, v in again.state_dict().items()} == {
            k: v.tolist() for k, v in flow.state_dict().items()
        }
        again.log_prob(torch.randn(2, 6, 2), torch.tensor([0, 1])).sum().backward()
        assert all(p.grad is not None for p in again.parameters())

    def test_official_names_as_safetensors(self, tmp_path):
        state = typed(plain.tarflow_state(), torch.float32)
        save_file(state, tmp_path / "afhq.safetensors")
        x = images(1, 9, 12).float()
        one, two = (read(s, head_dim=8) for s in (tmp_path / "afhq.safetensors", state))
        torch.testing.assert_close(one.flow.log_prob(x), two.flow.log_prob(x))

    def test_files_that_are_no_flows_are_one_line(self, tmp_path):
        path = tmp_path / "flow.safetensors"
        save_file({"weight": torch.zeros(2)}, path)
        with pytest.raises(ValueError, match="is no exported flow"):
            load(path)
        export(read(plain.tarflow_state(), head_dim=8), path)
        with safe_open(path, "pt") as file:
            state = {k: file.get_tensor(k) for k in file.keys()}
            about = json.loads(file.metadata()["token_flow"])
        about["flow"]["gates"] = 3
        save_file(state, path, {"token_flow": json.dumps(about)})
        with pytest.raises(ValueError, match="no exported flow that this version knows"):
            load(path)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(ValueError, match="is damaged"):
            load(path)
        with pytest.raises(OSError, match=r"none\.safetensors"):
            load(tmp_path / "none.safetensors")


def without(state, *parts):
    return {k: v for k, v in state.items() if not any(part in k for part in parts)}


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                lambda s: without(s, "qkv"),
                r"are missing: blocks\.0\.attn_blocks\.0\.attention\.qkv\.weight, .* and 9 more",
            ),
            (
                lambda s: s | {"ema.weight": s["var"]},
                r"names that are not of a tarflow checkpoint: ema\.weight; choose",
            ),
            (
                lambda s: {f"module.{k}": v for k, v in s.items()},
                r"names that are not of a tarflow checkpoint: module\.var, .* and \d+ more",
            ),
            (
                lambda s: s | {"blocks.1.pos_embed": s["blocks.1.pos_embed"][:4]},
                r"blocks\.1\.pos_embed is \(4, 16\), .* is \(9, 16\)",
            ),
            (lambda s: without(s, "blocks.1."), r"blocks are \[0, 2\]"),
            (lambda s: {"model": s, "step": 3}, "no bare state dict: 'model' is a dict"),
            (lambda s: {}, r"blocks are \[\]"),
            (
                lambda s: plain.tarflow_state(tokens=6),
                "6 tokens are no square grid: give grid",
            ),
            (
                lambda s: plain.tarflow_state(channels=8),
                "8 features are no square patches of images of 3 channels: give image_channels",
            ),
        ],
    )  # fmt: skip
    def test_weights_that_do_not_fit(self, change, says):
        with pytest.raises(ValueError, match=says):
            read(change(plain.tarflow_state()), head_dim=8)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"layout": "glow"}, "unknown layout 'glow': choose one of tarflow, starflow"),
            ({"heads": 3}, "a flow has no heads"),
            ({}, "heads of 64 features do not divide a width of 16"),
            ({"head_dim": 8, "layout": "starflow"}, r"starflow .*class_embed"),
        ],
    )
    def test_arguments(self, options, says):
        with pytest.raises(ValueError, match=says):
            read(plain.tarflow_state(), **options)

    def test_a_prompt_whose_length_nothing_tells(self):
        state = without(plain.starflow_state(), "attn_mask", "feat_rope")
        options = {"layout": "starflow", "head_dim": 16}
        with pytest.raises(ValueError, match=r"give prompt=\(P, 5\)"):
            read(state, **options)
        assert read(state, prompt=(7, 5), **options).flow.shape.prompt == (7, 5)
        with pytest.raises(ValueError, match="unknown tokens are no square grid: give grid"):
            read(without(state, "var"), prompt=(7, 5), **options)
        with pytest.raises(ValueError, match="heads of 8 features have 4 pairs to turn"):
            read(state, "starflow", head_dim=8, prompt=(7, 5))

    def test_folders_and_pickles_with_code(self, tmp_path):
        with pytest.raises(ValueError, match=r"is a folder, perhaps of FSDP: .* dcp_to_torch"):
            read(tmp_path)
        torch.save(plain.tarflow_state() | {"run": print}, tmp_path / "code.pth")
        with pytest.raises(ValueError, match="holds more than tensors") as caught:
            read(tmp_path / "code.pth")
        assert "\n" not in str(caught.value)
        torch.save(torch.zeros(2), tmp_path / "tensor.pth")
        with pytest.raises(ValueError, match="is no state dict but a Tensor"):
            read(tmp_path / "tensor.pth")
