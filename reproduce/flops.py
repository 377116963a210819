"""What one update of a model computes, counted without data and almost without memory.

A DataModule takes part by ``example_batch(n=None)``: what its training loader yields, a tensor or
a tuple of tensors with ``n`` rows, or as many as an update takes, without reading data. A module
whose updates are not all alike takes part by ``stages()``: it puts itself into one stage after
another and yields the number of updates of each, None for the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reproduce.cells import override
from reproduce.errors import RequestError

__all__ = ["Update", "build_on", "training_flops"]


@dataclass(frozen=True)
class Update:
    """What an update costs, forward and backward.

    Attributes:
        flops: in the last stage, which most models have alone.
        rows: of its batch.
        images: whether these are images.
        before: (FLOPs of an update, updates) of each earlier stage.
    """

    flops: int = 0
    rows: int = 0
    images: bool = False
    before: tuple[tuple[int, int], ...] = ()


def training_flops(built: Any, config: Mapping[str, Any]) -> Update:
    """That of what ``build_on`` made on the meta device; what it trains has gradients afterwards.

    Nothing is computed, unless the numbers themselves decide what is, as in an adaptive solver:
    then two rows are, on the CPU, and scaled to the batch.

    Raises:
        RequestError: a model that cannot be run.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from reproduce.training import one_line

    try:
        with torch.device("meta"):
            return _update(built, built.datamodule.example_batch())
    except (RuntimeError, NotImplementedError):  # what has no form there may have a fake one
        pass
    try:
        # fake tensors have no memory either, and there are random generators for their device
        with FakeTensorMode(allow_non_fake_inputs=True):
            built.model.to_empty(device="cpu")
            return _update(built, built.datamodule.example_batch())
    except RuntimeError:
        built = build_on(config, "cpu")
    rows = len(_data(built.datamodule.example_batch()))
    try:
        found = _update(built, built.datamodule.example_batch(2))
    except Exception as error:
        name = config["model"]["class_path"]
        raise RequestError(f"cannot price {name}: {one_line(error)}") from error
    before = tuple((round(flops * rows / 2), n) for flops, n in found.before)
    return Update(round(found.flops * rows / 2), rows, found.images, before)


def _update(built: Any, batch: Any) -> Update:
    model, counts = built.model, []
    for updates in model.stages() if hasattr(model, "stages") else (None,):
        counts.append((_count(built, batch), updates))
    *before, (flops, _) = counts
    data = _data(batch)
    return Update(flops, len(data), data.ndim == 4, tuple(before))


def _count(built: Any, batch: Any) -> int:
    """FLOPs of one training step, forward and backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = built.model
    model.trainer = built.trainer
    model.log = model.log_dict = lambda *args, **kwargs: None  # they ask for a running loop
    if not model.automatic_optimization:
        model.optimizers = lambda: (_Still(), _Still())  # a generator's and its judge's
        model.manual_backward = lambda loss: loss.backward()
    # the CPU's fused attention counts as nothing; the plain one is matrix products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = model.training_step(batch, 0)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if model.automatic_optimization:
            loss.backward()
    return counter.get_total_flops()


class _Still:
    """An optimizer that leaves everything as it is."""

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...

    @property
    def optimizer(self) -> "_Still":
        return self


def _data(batch: Any) -> Any:
    """The rows of a batch, without labels."""
    return batch[0] if isinstance(batch, list | tuple) else batch


def build_on(config: Mapping[str, Any], device: str) -> Any:
    """``model``, ``datamodule`` and ``trainer`` of a config, whatever machine it asks for."""
    import torch

    from reproduce.training import build, one_line

    config = override(dict(config), {})
    config["trainer"] |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    config["trainer"] |= {"precision": "32-true", "logger": False, "enable_progress_bar": False}
    try:
        with torch.device(device):
            return build(config)
    except Exception as error:
        name = config["model"]["class_path"]
        raise RequestError(f"cannot build {name}: {one_line(error)}") from error
