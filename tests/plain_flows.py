"""TarFlow and STARFlow written down plainly, one image at a time, on official state dicts.

Nothing here is shared with the flow that it checks: sums, loops and matrix products, float64.
"""

import math

import torch


# ------------------------------------------------------------------------------- state dicts
class Maker:
    """Random tensors, large enough that each of them matters, and so that scales stay near 1."""

    def __init__(self, seed=0):
        self.rng = torch.Generator().manual_seed(seed)
        self.state = {}

    def put(self, name, *shape, scale=0.5, offset=0.0):
        values = torch.randn(*shape, generator=self.rng, dtype=torch.float64)
        self.state[name] = offset + scale * values

    def linear(self, name, fan_in, fan_out, scale=1.0):
        self.put(name + ".weight", fan_out, fan_in, scale=scale * fan_in**-0.5)
        self.put(name + ".bias", fan_out, scale=scale / 2)

    def norm(self, name, width):
        self.put(name + ".weight", width, offset=1.0)
        self.put(name + ".bias", width)

    def layers(self, name, width, depth):
        for layer in range(depth):
            at = f"{name}.attn_blocks.{layer}"
            self.norm(f"{at}.attention.norm", width)
            self.linear(f"{at}.attention.qkv", width, 3 * width)
            self.linear(f"{at}.attention.proj", width, width)
            self.norm(f"{at}.mlp.norm", width)
            self.linear(f"{at}.mlp.main.0", width, 4 * width)
            self.linear(f"{at}.mlp.main.2", 4 * width, width)


def tarflow_state(
    tokens=9, channels=12, width=16, blocks=3, layers=2, classes=3, scales=True, seed=0
):
    """In the layout of the published AFHQ checkpoint."""
    make = Maker(seed)
    make.state["var"] = torch.ones(tokens, channels, dtype=torch.float64)
    for k in range(blocks):
        at = f"blocks.{k}"
        make.linear(at + ".proj_in", channels, width)
        make.put(at + ".pos_embed", tokens, width)
        if classes:
            make.put(at + ".class_embed", classes, 1, width)
        make.state[at + ".attn_mask"] = torch.ones(tokens, tokens).tril()
        make.layers(at, width, layers)
        make.linear(at + ".proj_out", width, channels * (2 if scales else 1), 0.2)
    return make.state


def starflow_state(
    tokens=9,
    channels=12,
    width=16,
    depths=(1, 2),
    prompt=(4, 5),
    everywhere=False,
    seed=0,
):
    """In the layout of the published text-to-image checkpoint; ``prompt`` is (P, E) or None."""
    make = Maker(seed)
    ahead, features = prompt or (0, 0)
    for k, depth in enumerate(depths):
        at = f"blocks.{k}"
        make.linear(at + ".proj_in", channels, width)
        make.linear(at + ".proj_out", width, 2 * channels, 0.2)
        make.put(at + ".sos_embed", 1, 1, channels)
        make.put(at + ".final_norm.weight", width)
        make.state[at + ".attn_mask"] = torch.ones(tokens + ahead, tokens + ahead).tril()
        make.layers(at, width, depth)
        if prompt and (everywhere or k == len(depths) - 1):
            make.linear(at + ".proj_txt", features, width)
    make.state["var"] = torch.ones(tokens, channels, dtype=torch.float64)
    for name in ("freqs_cos", "freqs_sin"):
        make.state["feat_rope." + name] = torch.zeros(tokens + ahead, 64)
    return make.state


# ---------------------------------------------------------------------------- images as tokens
def patches(image, p, order):
    """(T, C p p): row after row; features (channel, row, column) or (row, column, channel)."""
    channels, height, width = image.shape
    inside = [(i, j) for i in range(p) for j in range(p)]
    rows = []
    for top in range(0, height, p):
        for left in range(0, width, p):
            if order == "channel":
                row = [image[c, top + i, left + j] for c in range(channels) for i, j in inside]
            else:
                row = [image[c, top + i, left + j] for i, j in inside for c in range(channels)]
            rows.append(torch.stack(row))
    return torch.stack(rows)


# -------------------------------------------------------------------------------- transformer
def linear(state, name, h):
    return h @ state[name + ".weight"].T + state[name + ".bias"]


def layer_norm(state, name, h):
    centred = h - h.mean(1, keepdim=True)
    unit = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return unit * state[name + ".weight"] + state[name + ".bias"]


def turned(vector, angles):
    """Features (2i, 2i + 1) turned by the i-th angle."""
    vector = vector.clone()
    for i, angle in enumerate(angles):
        # tables of cosines and sines are float32
        cos, sin = torch.tensor([math.cos(angle), math.sin(angle)]).float().double()
        a, b = vector[2 * i].clone(), vector[2 * i + 1].clone()
        vector[2 * i], vector[2 * i + 1] = a * cos - b * sin, a * sin + b * cos
    return vector


def attention(state, name, h, head_dim, angles):
    width = h.shape[1]
    qkv = linear(state, name + ".qkv", layer_norm(state, name + ".norm", h))
    q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
    heads = []
    for first in range(0, width, head_dim):
        own = slice(first, first + head_dim)
        queries, keys, values = q[:, own], k[:, own], v[:, own]
        if angles is not None:
            queries, keys = (
                torch.stack([turned(row, angle) for row, angle in zip(part, angles, strict=True)])
                for part in (queries, keys)
            )
        rows = []
        for t in range(len(h)):
            weights = (keys[: t + 1] @ queries[t] / math.sqrt(head_dim)).exp()
            rows.append(weights @ values[: t + 1] / weights.sum())
        heads.append(torch.stack(rows))
    return linear(state, name + ".proj", torch.cat(heads, 1))


def transformer(state, block, h, head_dim, angles=None):
    layer = 0
    while f"{block}.attn_blocks.{layer}.mlp.norm.weight" in state:
        at = f"{block}.attn_blocks.{layer}"
        h = h + attention(state, at + ".attention", h, head_dim, angles)
        up = linear(state, at + ".mlp.main.0", layer_norm(state, at + ".mlp.norm", h))
        gelu = up * (1 + torch.erf(up / math.sqrt(2))) / 2
        h = h + linear(state, at + ".mlp.main.2", gelu)
        layer += 1
    return h


def blocks_of(state):
    return sorted({key.split(".")[1] for key in state if key.startswith("blocks.")}, key=int)


# -------------------------------------------------------------------------------------- TarFlow
def tarflow(state, x, label, head_dim):
    """z (T, C) and the log-determinant of one sequence; label -1 is a dropped one."""
    total = 0.0
    tokens, channels = x.shape
    for k in blocks_of(state):
        at = f"blocks.{k}"
        order = list(range(tokens)) if int(k) % 2 == 0 else list(range(tokens))[::-1]
        x = x[order]
        h = linear(state, at + ".proj_in", x) + state[at + ".pos_embed"][order]
        if at + ".class_embed" in state:
            rows = state[at + ".class_embed"][:, 0]
            h = h + (rows.mean(0) if label < 0 else rows[label])
        out = linear(state, at + ".proj_out", transformer(state, at, h, head_dim))
        z = [x[0]]  # what is read at a token acts on the next one
        for t in range(1, tokens):
            if out.shape[1] == channels:
                z.append(x[t] - out[t - 1])
            else:
                a, m = out[t - 1, :channels], out[t - 1, channels:]
                z.append((x[t] - m) * torch.exp(-a))
                total = total - a.sum()
        x = torch.stack(z)[order]
    return x, total


def tarflow_bits(z, logdet):
    """Bits per dimension of 256 levels in [-1, 1], as the source writes it."""
    n = z.numel()
    prior = 0.5 * (z.square() + math.log(2 * math.pi)).sum() / n
    return (prior + math.log(128) - logdet / n) / math.log(2)


# ------------------------------------------------------------------------------------- STARFlow
def starflow_angles(grid, ahead, three, pairs, side=None):
    """Angles of every pair of features at every token.

    Args:
        ahead: tokens of the prompt that this block reads.
        three: a third axis, of the prompt.
        pairs: of each axis.
        side: that positions are scaled to.
    """
    height, width = grid
    mean = math.sqrt(height * width)
    side = side or mean
    where = [(0.0, 0.0, i / ahead * side) for i in range(ahead)]
    where += [(i / mean * side, j / mean * side, 0.0) for i in range(height) for j in range(width)]
    axes = 3 if three else 2
    return [
        [
            position[axis] * 10000.0 ** (-i / pairs[axis])
            for axis in range(axes)
            for i in range(pairs[axis])
        ]
        for position in where
    ]


def starflow(
    state, x, prompt, grid, pairs, head_dim, side=None, softplus=True, l2r=True, clip=4.0
):
    """z (T, C) and the log-determinant of one sequence; ``prompt`` is (P, E), or None."""
    total = 0.0
    tokens, channels = x.shape
    three = prompt is not None
    for k in blocks_of(state):
        at = f"blocks.{k}"
        flipped = int(k) % 2 == (0 if l2r else 1)
        order = list(range(tokens))[::-1] if flipped else list(range(tokens))
        x = x[order]
        start = state.get(at + ".sos_embed")
        read = x if start is None else torch.cat([start[0], x[:-1]])
        h, ahead = linear(state, at + ".proj_in", read), 0
        if at + ".proj_txt.weight" in state:
            ahead = len(prompt)
            h = torch.cat([linear(state, at + ".proj_txt", prompt), h])
        angles = starflow_angles(grid, ahead, three, pairs, side)
        h = transformer(state, at, h, head_dim, angles)[ahead:]
        if at + ".final_norm.weight" in state:
            h = h / (h.square().mean(1, keepdim=True) + 1e-6).sqrt()
            h = h * (1 + state[at + ".final_norm.weight"])
        out = linear(state, at + ".proj_out", h)
        if clip:
            out = clip * torch.tanh(out / clip)
        if start is None:
            out = torch.cat([torch.zeros(1, 2 * channels, dtype=out.dtype), out[:-1]])
        a, m = out[:, :channels], out[:, channels:]
        sigma = torch.log1p(torch.exp(a + 0.541324854612918)) if softplus else torch.exp(a)
        total = total - torch.log(sigma).sum()
        x = ((x - m) / sigma)[order]
    return x, total


def log_prob(z, logdet):
    """Nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum() + logdet
