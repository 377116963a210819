"""What Shuffle costs, and whether a flow inverts: (model, datamodule) -> numbers."""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

from datamodules import DensityImages
from lightning_modules import EIWFlow
from lightning_modules.eiw_flow import ChannelOrder, DenseFlow, VariationalDequantizer
from lightning_modules.flows import Noise, bits_per_dim
from lightning_modules.randomness import step_generator

import torch
from torch import Tensor, nn

__all__ = ["inversion", "kept", "memory", "parameters", "saturated", "timings"]

_BATCH, _WARM_UP, _TURNS = 16, 3, 30
LARGE = (248, 616)  # channels that the published flow orders


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def parameters(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Trainable parameters of the published flow, built without memory, and of this one."""
    found: dict[str, float] = {}
    with torch.device("meta"):
        for name, order in (("vanilla", "identity"), ("shuffle", "eiw")):
            args = {"reduction": 16}
            flow = EIWFlow(DenseFlow(order=order, order_args=args), VariationalDequantizer())
            found[f"published_{name}"] = float(_count(flow))
    more = found["published_shuffle"] - found["published_vanilla"]
    order = _count(model.net.orders)
    return found | {
        "published_more": more,
        "published_percent": 100 * more / found["published_vanilla"],
        "order_parameters": float(order),
        "order_percent": 100 * order / (_count(model) - order),
    }


def _without(model: EIWFlow) -> EIWFlow:
    """The same flow with its channels left as they are."""
    twin = copy.deepcopy(model)
    twin.net.orders = nn.ModuleList(ChannelOrder(len(o.perm)) for o in model.net.orders)
    return twin


def timings(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Medians, in ms, of a training step, a likelihood and a sample, with Shuffle and without.

    Both flows take turns on the same images; on a GPU each turn waits for the device.
    """
    shape = model.net.shape
    rng = step_generator(0, "images", device=model.device)
    top = 2**data.bits
    x = torch.randint(top, (_BATCH, *shape), generator=rng, device=model.device).float()
    pair = {"shuffle": copy.deepcopy(model), "vanilla": _without(model)}
    calls: dict[str, Callable[[EIWFlow], Any]] = {
        "train": lambda flow: _step(flow, x),
        "likelihood": lambda flow: _likelihood(flow, x),
        "sample": lambda flow: flow.sample(_BATCH, _noise(flow)),
    }
    found: dict[str, float] = {}
    for what, call in calls.items():
        spent: dict[str, list[float]] = {name: [] for name in pair}
        for turn in range(_WARM_UP + _TURNS):
            for name, flow in sorted(pair.items(), reverse=bool(turn % 2)):
                flow.train(what == "train")
                begun = time.perf_counter()
                call(flow)
                if x.is_cuda:
                    torch.cuda.synchronize()
                if turn >= _WARM_UP:
                    spent[name].append(1e3 * (time.perf_counter() - begun))
        for name, times in spent.items():
            low, middle, high = statistics.quantiles(times, n=10)[::4]
            found |= {
                f"{what}_{name}_ms": middle,
                f"{what}_{name}_p10_ms": low,
                f"{what}_{name}_p90_ms": high,
            }
        ratios = [a / b for a, b in zip(spent["shuffle"], spent["vanilla"], strict=True)]
        found[f"wall_ratio_{what}"] = statistics.median(ratios)
    return found


def memory(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """MB that a training step keeps for its backward pass, with Shuffle and without.

    That is what its peak is made of, and unlike a peak it is the same on every machine.
    """
    x = torch.zeros(_BATCH, *model.net.shape, device=model.device)
    sizes = {"shuffle": kept(copy.deepcopy(model), x), "vanilla": kept(_without(model), x)}
    found = {f"kept_{name}_mb": size / 1e6 for name, size in sizes.items()}
    return found | {"memory_ratio": sizes["shuffle"] / sizes["vanilla"]}


def kept(model: EIWFlow, x: Tensor) -> int:
    """Bytes of all tensors that autograd saves in a training step, each storage once."""
    storages: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        whole = saved.untyped_storage()
        storages[whole.data_ptr()] = whole.nbytes()  # the graph holds it: no address comes twice
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        _step(model.train(), x)
    return sum(storages.values())


def _noise(model: EIWFlow) -> Noise:
    return Noise(step_generator(0, "timing", device=model.device))


def _step(model: EIWFlow, x: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    log_prob, kl = model.terms(x, _noise(model))
    (bits_per_dim(log_prob.mean(), model.net.dims) + model.lam * sum(kl)).backward()


@torch.no_grad()
def _likelihood(model: EIWFlow, x: Tensor) -> None:
    model(x, _noise(model))


# ----------------------------------------------------------------------------- inversion
@torch.no_grad()
def inversion(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Greatest error of a round trip, both precisions; whether orders outlive a reload."""
    found: dict[str, float] = {}
    x = data.x_eval[:64]
    twin = copy.deepcopy(model).cpu()
    for dtype, name in ((torch.float32, "single"), (torch.float64, "double")):
        flow = twin.to(dtype)
        y, _ = flow.dequantizer(x.to(dtype), Noise(step_generator(0, "inversion")))
        latents = flow.net(y, Noise(step_generator(0, "inversion noise"))).latents
        found[f"error_{name}"] = float((flow.net.inverse(latents) - y).abs().max())
    fresh = copy.deepcopy(twin)
    for order in fresh.net.orders:
        order.perm.copy_(order.perm.flip(0))
    fresh.load_state_dict(twin.state_dict())
    pairs = zip(fresh.net.orders, model.net.orders, strict=True)
    found["orders_reloaded"] = float(all(torch.equal(a.perm, b.perm.cpu()) for a, b in pairs))
    tied = [len(o.perm) - len(o.weights().unique()) for o in model.net.orders if o.solver]
    return found | {"ties": float(sum(tied))}


def saturated(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """The published solvers of 248 and 616 channels: zeros, a bijection, steps without NaN."""
    found: dict[str, float] = {}
    for channels in LARGE:
        with torch.random.fork_rng():
            torch.manual_seed(model.seed)
            order = ChannelOrder(channels, "eiw_snapshot", reduction=16).train()
            u = torch.randn(4, channels, 2, 2)
        weights = order.weights()
        assert weights is not None
        optimizer = torch.optim.Adamax(order.parameters(), 1e-3)
        finite = True
        for _ in range(5):
            optimizer.zero_grad()
            order.kl(u, order(u)).backward()
            finite &= all(bool(p.grad.isfinite().all()) for p in order.parameters())
            optimizer.step()
        with torch.no_grad():
            error = (order.eval().inverse(order(u)) - u).abs().max()
        found |= {
            f"zeros_{channels}": float((weights == 0).float().mean()),
            f"kept_as_vanilla_{channels}": float(
                (order.initial[: channels // 2] < channels // 2).float().mean()
            ),
            f"finite_{channels}": float(finite),
            f"error_{channels}": float(error),
            f"bijection_{channels}": float(len(order.perm.unique()) == channels),
        }
    return found
