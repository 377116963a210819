"""StoredImages: which images, in what order, as what numbers; lazily, and told apart."""

import os
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

from datamodules import DataError, StoredImages, load, stored_images
from datamodules.stored_images import KNOWN

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

REAL = os.environ.get("ENTROFLOW_DATA")


def small(**options) -> StoredImages:
    """Fifty digits to train on, 21 to evaluate on."""
    given = {"source": "digits", "n_per_class": 5, "n_eval": 21, "batch_size": 8}
    return StoredImages(**{**given, **options})


def first(data: StoredImages, n: int) -> list:
    return list(islice(data.train_dataloader(), n))


def refuse(*args, **kwargs):
    raise AssertionError("data were read")


# -------------------------------------------------------------------------------- which images
@pytest.mark.parametrize("n", [1, 5, 146])
def test_the_first_of_each_class_in_the_sets_order(n):
    whole, data = load("digits"), small(n_per_class=n, labelled=True)
    taken = [np.flatnonzero(whole.labels == c)[:n] for c in range(10)]
    rows = np.sort(np.concatenate(taken))
    assert data.c_train.tolist() == whole.labels[rows].tolist()
    np.testing.assert_array_equal(data.x_train.mul(255).round(), whole.images[rows])
    assert data.n_train == len(data.c_train) == 10 * n


@pytest.mark.parametrize("n", [147, 10_000])
def test_a_class_that_has_fewer_gives_all_it_has(n):
    labels = load("digits").labels
    data = small(n_per_class=n, labelled=True)
    want = [min(n, int((labels == c).sum())) for c in range(10)]
    assert torch.bincount(data.c_train).tolist() == want
    assert data.n_train == sum(want)
    assert data.updates_per_epoch == -(-sum(want) // 8)


def test_held_out_images_are_the_first_of_their_split_whatever_else_is_asked():
    test = load("digits", "test")
    for options in ({}, {"seed": 3}, {"n_per_class": 7}, {"labelled": True}, {"batch_size": 2}):
        data = small(**options)
        np.testing.assert_array_equal(data.x_eval.mul(255).round(), test.images[:21])
        if data.labelled:
            assert data.c_eval.tolist() == test.labels[:21].tolist()
    assert torch.equal(small(n_eval=9).x_eval, small().x_eval[:9])


def test_any_split_can_be_held_out():
    np.testing.assert_array_equal(
        small(eval_split="train", labelled=True).c_eval, load("digits", "train").labels[:21]
    )


def test_box_averages():
    whole, data = load("digits", size=4), small(size=4, n_per_class=10_000)
    np.testing.assert_array_equal(data.x_train.mul(255).round(), whole.images)
    assert data.x_eval.shape == (21, 1, 4, 4)


# -------------------------------------------------------------------------------- which numbers
def test_values_are_float32_in_the_unit_interval():
    data = small(n_per_class=50)
    (batch, *_) = data.val_dataloader()
    for x in (data.x_train, data.x_eval, data.train_points(30)[0], batch, *first(data, 3)):
        assert (x.dtype, x.shape[1:]) == (torch.float32, (1, 8, 8))
        assert (float(x.min()), float(x.max())) == (0, 1)
    # a division, as ToTensor does it: a product with 1/255 rounds otherwise
    levels = torch.from_numpy(np.unique(load("digits").images)).float() / 255
    assert torch.equal(data.x_train.unique(), levels)


def test_training_images_are_kept_as_bytes():
    data = small(labelled=True)
    images, labels = data.train_dataloader().dataset.arrays
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert data.c_train.dtype == data.c_eval.dtype == torch.int64


def test_images_are_the_readers_own():
    data = small()
    data.x_train.zero_()
    data.x_eval.zero_()
    first(data, 1)[0].zero_()
    assert float(data.x_train.max()) == float(data.x_eval.max()) == 1


@pytest.mark.parametrize(("n", "got"), [(7, 7), (1000, 50)])
def test_the_first_training_points(n, got):
    data = small(labelled=True)
    x, c = data.train_points(n)
    assert torch.equal(x, data.x_train[:got])
    assert torch.equal(c, data.c_train[:got])
    assert len(x) == got


def test_without_labels_there_are_none():
    data = small()
    assert data.c_train is data.c_eval is data.train_points(7)[1] is None


# -------------------------------------------------------------------------------- batches
def rows(batches: list) -> torch.Tensor:
    """Which training image each row is."""
    x = small().x_train.flatten(1)
    found = [(x == row).all(1).nonzero()[0] for row in torch.cat(batches).flatten(1)]
    return torch.cat(found)


def test_an_epoch_is_every_image_once_in_an_order_of_the_seeds():
    epoch = [rows(first(small(seed=k), 7)) for k in (0, 0, 1)]
    for order in epoch:
        assert order.sort().values.tolist() == list(range(50))
    assert torch.equal(epoch[0], epoch[1])
    assert not torch.equal(epoch[0], epoch[2])
    assert epoch[0].tolist() != list(range(50))
    assert [len(b) for b in first(small(), 8)] == [8] * 6 + [2, 8]
    assert small().updates_per_epoch == 7


def test_labels_stay_with_their_images():
    data = small(labelled=True)
    batches = first(data, 7)
    assert {type(b) for b in batches} == {tuple}
    got = {x.numpy().tobytes(): int(c) for b in batches for x, c in zip(*b, strict=True)}
    want = zip(data.x_train, data.c_train, strict=True)
    assert got == {x.numpy().tobytes(): int(c) for x, c in want}
    bare = first(small(), 7)
    assert all(torch.equal(x, y) for (x, _), y in zip(batches, bare, strict=True))


@pytest.mark.parametrize("labelled", [False, True])
def test_every_held_out_image_is_seen_once_in_order(labelled):
    data = small(labelled=labelled)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        chunks = list(loader)
        if labelled:
            assert {type(c) for c in chunks} == {tuple}
            assert torch.cat([c for _, c in chunks]).tolist() == data.c_eval.tolist()
            chunks = [x for x, _ in chunks]
        assert [len(c) for c in chunks] == [8, 8, 5]
        assert torch.equal(torch.cat(chunks), data.x_eval)
        assert len(loader) == 3


def attached(step: int, rank: int = 0, world: int = 1) -> StoredImages:
    data = small()
    data.trainer = SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=1
    )
    return data


@pytest.mark.parametrize("step", [0, 3, 7, 16])
def test_a_resumed_run_gets_the_batches_it_would_have_got(step):
    whole = first(small(), step + 9)[step:]
    later = first(attached(step), 9)
    assert all(torch.equal(a, b) for a, b in zip(whole, later, strict=True))


def test_two_devices_share_a_batch():
    whole = first(small(), 6)
    parts = [first(attached(0, rank, 2), 6) for rank in range(2)]
    for one, *two in zip(whole, *parts, strict=True):
        assert [len(p) for p in two] == [4, 4]
        assert torch.equal(torch.cat(two), one)


class Watcher(LightningModule):
    """Remembers what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return (self.w - batch[0].mean()) ** 2

    def validation_step(self, batch, batch_idx):
        assert isinstance(batch, tuple)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def test_a_trainer_hands_on_what_the_loader_makes():
    module = Watcher()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_steps=9, enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=small(labelled=True))
    for (x, c), (y, d) in zip(module.seen, first(small(labelled=True), 9), strict=True):
        assert torch.equal(x, y)
        assert torch.equal(c, d)


# -------------------------------------------------------------------------------- without reading
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"size": 4}, {"batch_size": 64}, {"n_per_class": 999, "batch_size": 2000}],
)
@pytest.mark.parametrize("n", [None, 3])
def test_an_example_batch_looks_like_a_training_batch(labelled, options, n):
    data = small(labelled=labelled, **options)
    real, made = first(data, 1)[0], data.example_batch(n)
    assert type(real) is type(made)
    for a, b in zip(*(v if labelled else (v,) for v in (real, made)), strict=True):
        assert (b.dtype, b.shape) == (a.dtype, (n or len(a), *a.shape[1:]))


def test_what_is_known_of_a_source_is_not_read(monkeypatch):
    monkeypatch.setattr(stored_images, "load", refuse)
    for source, (shape, classes, least) in KNOWN.items():
        data = StoredImages(source, n_per_class=10, batch_size=32, labelled=True)
        with torch.device("meta"):
            x, c = data.example_batch()
        assert x.is_meta
        assert c.is_meta
        assert x.shape == (32, *shape)
        assert data.n_train == 10 * classes
        assert data.updates_per_epoch == -(-10 * classes // 32)
        data = StoredImages(source, n_per_class=10**6, batch_size=classes * least, size=4)
        assert data.example_batch().shape == (classes * least, shape[0], 4, 4)


def test_what_is_not_known_is_read(monkeypatch):
    known = small(batch_size=60).example_batch(), small().n_train
    monkeypatch.setattr(stored_images, "KNOWN", {})
    data = small(batch_size=60)
    assert data.example_batch().shape == known[0].shape == (50, 1, 8, 8)
    assert data.n_train == known[1] == 50


def check_known(source: str) -> None:
    shape, classes, least = KNOWN[source]
    data = load(source)
    assert data.images.shape[1:] == shape
    assert (len(data.classes), np.bincount(data.labels).min()) == (classes, least)


def test_what_is_known_of_digits_is_so():
    check_known("digits")


@pytest.mark.data
@pytest.mark.parametrize("source", ["mnist", "cifar10_lossless"])
def test_what_is_known_of_real_sets_is_so(source):
    if not REAL or not (Path(REAL) / source).is_dir():
        pytest.skip(f"ENTROFLOW_DATA has no folder {source}")
    check_known(source)
    data = StoredImages(source, n_per_class=100, labelled=True)
    assert data.n_train == len(data.c_train) == 1000
    assert torch.bincount(data.c_train).tolist() == [100] * 10
    assert data.c_eval.tolist() == load(source, "test").labels[:1000].tolist()


# -------------------------------------------------------------------------------- fingerprints
def test_fingerprint_tells_data_apart():
    options = [{}, {"n_per_class": 6}, {"n_eval": 22}, {"size": 4}, {"eval_split": "train"}]
    prints = [small(**o).fingerprint for o in options]
    assert len(set(prints)) == len(prints)
    same = small(seed=9, batch_size=3, labelled=True)
    assert same.fingerprint == prints[0]


@pytest.mark.parametrize("part", ["_train", "_held_out"])
@pytest.mark.parametrize("which", [0, 1])
def test_fingerprint_sees_each_image_and_label(part, which):
    data = small()
    changed = tuple(np.array(v) for v in getattr(data, part))
    changed[which][-1] += 1
    data.__dict__[part] = changed
    assert data.fingerprint != small().fingerprint


# -------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("name", ["n_per_class", "n_eval", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_nothing_to_take_is_an_error(name, value):
    with pytest.raises(DataError, match="at least 1"):
        small(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_eval": 298}, r"digits test has 297 images, not 298: set .*n_eval to 297 or less"),
        ({"source": "digit"}, r"unknown source 'digit'"),
        ({"eval_split": "val"}, r"digits has no split 'val'; it has train, test"),
        ({"size": 3}, r"no box average of 3 x 3"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options, message):
    with pytest.raises(DataError, match=message) as caught:
        assert small(**options).fingerprint
    assert "\n" not in str(caught.value)
