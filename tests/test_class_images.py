"""ClassImages: numbers in [-1, 1], labels that stay with their images, flips by (seed, update)."""

from itertools import islice
from types import SimpleNamespace

from datamodules import ClassImages, DataError, class_images, load
from datamodules.class_images import SETS, _centred

import numpy as np
import pytest
import torch


def small(**options) -> ClassImages:
    """Fifty digits to train on, twenty to evaluate on."""
    given = {"source": "digits", "n_per_class": 5, "n_eval_per_class": 2, "batch_size": 8}
    return ClassImages(**{**given, **options})


def attached(step: int, rank: int = 0, world: int = 1, **options) -> ClassImages:
    data = small(**options)
    data.trainer = SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=1
    )
    return data


def first(data: ClassImages, n: int) -> list:
    return list(islice(data.train_dataloader(), n))


def equal(one: list, two: list) -> bool:
    pairs = zip(one, two, strict=True)
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def refuse(*args, **kwargs):
    raise AssertionError("data were read")


# -------------------------------------------------------------------------------- which numbers
def test_all_256_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    x = _centred(levels)
    assert x.dtype == torch.float32
    # as the division is rounded in single precision, and then the difference
    want = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    assert np.array_equal(x.numpy(), want)
    assert (float(x[0]), float(x[255])) == (-1, 1)
    assert torch.equal(x.add(1).mul(127.5).round().to(torch.uint8), levels)


def test_values_and_types():
    data = small(flip=True)
    for x, c in [*first(data, 3), *data.val_dataloader(), (data.x_train, data.c_train)]:
        assert (x.dtype, c.dtype) == (torch.float32, torch.int64)
        assert x.shape == (len(c), 1, 8, 8)
        assert (float(x.min()), float(x.max())) == (-1, 1)


# -------------------------------------------------------------------------------- which images
@pytest.mark.parametrize("n", [5, 147])
def test_the_first_of_each_class_in_the_sets_order(n):
    for split, x, c in (
        ("train", small(n_per_class=n).x_train, small(n_per_class=n).c_train),
        ("test", small(n_eval_per_class=n).x_eval, small(n_eval_per_class=n).c_eval),
    ):
        whole = load("digits", split)
        rows = np.sort(np.concatenate([np.flatnonzero(whole.labels == k)[:n] for k in range(10)]))
        assert c.tolist() == whole.labels[rows].tolist()
        np.testing.assert_array_equal(x.add(1).mul(127.5).round(), whole.images[rows])


def test_box_averages_and_any_split_held_out():
    data = small(size=4, eval_split="train", n_eval_per_class=3)
    np.testing.assert_array_equal(
        data.x_eval.add(1).mul(127.5).round(), load("digits", size=4).images[: len(data.x_eval)]
    )
    assert data.image_shape == data.x_train.shape[1:] == (1, 4, 4)


def test_every_held_out_image_is_seen_once_in_order():
    data = small(flip=True)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert {type(b) for b in batches} == {tuple}
        assert [len(c) for _, c in batches] == [8, 8, 4]
        assert torch.equal(torch.cat([x for x, _ in batches]), data.x_eval)
        assert torch.equal(torch.cat([c for _, c in batches]), data.c_eval)


def test_images_are_the_readers_own():
    data = small()
    for x in (data.x_train, first(data, 1)[0][0], next(iter(data.val_dataloader()))[0]):
        x.zero_()
    assert float(data.x_train.max()) == float(data.x_eval.max()) == 1


# -------------------------------------------------------------------------------- batches
def test_labels_stay_with_their_images():
    data = small()
    batches = first(data, data.updates_per_epoch)
    assert [len(c) for _, c in batches] == [8] * 6 + [2]
    got = {x.numpy().tobytes(): int(c) for b in batches for x, c in zip(*b, strict=True)}
    want = zip(data.x_train, data.c_train, strict=True)
    assert got == {x.numpy().tobytes(): int(c) for x, c in want}
    assert torch.cat([c for _, c in batches]).tolist() != data.c_train.tolist()


def test_flips_change_half_of_the_images_and_no_label():
    options = {"n_per_class": 146, "batch_size": 146}
    plain, flipped = (first(small(flip=f, **options), 11) for f in (False, True))
    shares = []
    for (x, c), (y, d) in zip(plain, flipped, strict=True):
        assert torch.equal(c, d)
        kept, mirrored = ((y == v).flatten(1).all(1) for v in (x, x.flip(3)))
        assert (kept | mirrored).all()
        shares.append(float(mirrored.float().mean()))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)  # 3.4 standard errors of 1460 draws
    assert len(set(shares)) > 5  # each update draws its own


def test_a_function_of_seed_and_update():
    assert equal(first(small(flip=True, seed=3), 9), first(small(flip=True, seed=3), 9))
    assert not equal(first(small(flip=True, seed=3), 1), first(small(flip=True, seed=4), 1))
    # one batch is the whole set in both updates: only order and flips can differ
    one, two = first(small(flip=True, batch_size=50), 2)
    mirrored = [
        {x.numpy().tobytes() for x in batch[0]} - {x.numpy().tobytes() for x in small().x_train}
        for batch in (one, two)
    ]
    assert mirrored[0]
    assert mirrored[0] != mirrored[1]


@pytest.mark.parametrize("step", [3, 7, 16])
def test_a_resumed_run_gets_the_batches_it_would_have_got(step):
    whole = first(small(flip=True), step + 9)[step:]
    assert equal(whole, first(attached(step, flip=True), 9))


def test_two_devices_share_a_batch():
    whole = first(small(flip=True), 6)
    parts = [first(attached(0, rank, 2, flip=True), 6) for rank in range(2)]
    for one, *two in zip(whole, *parts, strict=True):
        assert [len(c) for _, c in two] == [4, 4]
        for k in range(2):
            assert torch.equal(torch.cat([p[k] for p in two]), one[k])


# -------------------------------------------------------------------------------- without reading
@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"size": 4}, {"batch_size": 64}, {"n_per_class": 999, "batch_size": 2000}],
)
def test_an_example_batch_looks_like_a_training_batch(options, n):
    data = small(**options)
    real, made = first(data, 1)[0], data.example_batch(n)
    assert type(made) is type(real) is tuple
    for a, b in zip(real, made, strict=True):
        assert (b.dtype, b.shape) == (a.dtype, (n or len(a), *a.shape[1:]))


def test_what_is_known_of_a_source_is_not_read(monkeypatch):
    monkeypatch.setattr(class_images, "load", refuse)
    for source, (shape, classes, least) in SETS.items():
        data = ClassImages(source, n_per_class=least, batch_size=4)
        with torch.device("meta"):
            x, c = data.example_batch()
        assert x.is_meta
        assert c.is_meta
        assert x.shape == (4, *shape) == (4, *data.image_shape)
        assert (data.n_classes, data.n_train) == (classes, least * classes)
    data = ClassImages("imagenet256", batch_size=256, eval_split="val", flip=True)
    assert data.example_batch(2)[0].shape == (2, 3, 256, 256)
    assert (data.n_classes, data.n_train) == (1000, 1_281_167)
    assert data.updates_per_epoch == 5005
    assert ClassImages("imagenet512").image_shape == (3, 512, 512)


def test_what_is_not_known_is_read(monkeypatch):
    known = small()
    monkeypatch.setattr(class_images, "SETS", {})
    data = small(batch_size=60)
    assert data.example_batch()[0].shape == (50, 1, 8, 8)
    assert (data.n_train, data.n_classes, data.image_shape) == (50, 10, known.image_shape)
    # what is known is so
    assert (known.n_train, known.n_classes) == (50, 10)


# -------------------------------------------------------------------------------- fingerprints
def test_fingerprint_tells_data_apart():
    options = [{}, {"n_per_class": 6}, {"n_eval_per_class": 3}, {"size": 4}]
    options += [{"eval_split": "train"}, {"n_per_class": 999}]
    prints = [small(**o).fingerprint for o in options]
    assert len(set(prints)) == len(prints)
    assert small(seed=9, batch_size=3, flip=True).fingerprint == prints[0]
    # a whole split's is the set's own, which is what its images and labels have
    part = small(n_per_class=999)._train
    assert part.fingerprint == class_images.fingerprint(part.images().numpy(), part.labels.numpy())


# -------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("name", ["n_per_class", "n_eval_per_class", "batch_size"])
def test_nothing_to_take_is_an_error(name):
    with pytest.raises(DataError, match="at least 1"):
        small(**{name: 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "digit"}, r"unknown source 'digit'"),
        ({"eval_split": "val"}, r"digits has no split 'val'; it has train, test"),
        ({"size": 3}, r"no box average of 3 x 3"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options, message):
    with pytest.raises(DataError, match=message) as caught:
        assert small(**options).fingerprint
    assert "\n" not in str(caught.value)
