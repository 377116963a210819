"""Pickled batches: what arrays need is built, whatever else a pickle asks for is refused."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct

from datamodules.cache import DataError
from datamodules.image_batches import load_batch
from datamodules.pickles import unpickle

import numpy as np
import pytest

BATCH = {
    "data": np.arange(24, dtype=np.uint8).reshape(2, 12),
    "labels": [3, 1],
    "filenames": ["a.png", "b.png"],
    "mean": np.linspace(0, 1, 12),
}


def refused(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        unpickle("some batch", content)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("some batch ")
    return message


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_batches_of_python_3_are_read(protocol):
    read = unpickle("x", pickle.dumps({**BATCH, b"batch_label": b"\xff1"}, protocol))
    assert read["batch_label"] == b"\xff1"
    assert {key: read[key] for key in ("labels", "filenames")} == {
        key: BATCH[key] for key in ("labels", "filenames")
    }
    for key in ("data", "mean"):
        assert read[key].dtype == BATCH[key].dtype
        np.testing.assert_array_equal(read[key], BATCH[key])
    read["data"][0] = 0  # ours to change


def python_2(array: np.ndarray) -> bytes:
    """A dict with one array as Python 2 and numpy 1 wrote it: byte strings, numpy.core."""

    def text(data: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(data)) + data

    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    kind = b"cnumpy\ndtype\n(U\x02u1I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntb"
    shape = b"".join(b"I%d\n" % n for n in array.shape)
    state = b"(I1\n(" + shape + b"t" + kind + b"I00\n" + text(array.tobytes()) + b"tb"
    return b"\x80\x02}(U\x04data" + head + state + b"U\x06labels](K\x03K\x01eu."


def test_batches_of_python_2_are_read():
    content = python_2(BATCH["data"])
    assert pickle.loads(content, encoding="latin1")["labels"] == [3, 1]  # the test's own pickle
    images, labels = load_batch("x", content, 2)
    np.testing.assert_array_equal(images.reshape(2, 12), BATCH["data"])
    np.testing.assert_array_equal(labels, [3, 1])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Calls(os.system, "touch run"), "posix.system"),
        (Calls(eval, "open('run', 'w')"), "builtins.eval"),
        (Calls(getattr, "x", "upper"), "builtins.getattr"),
        (Calls(np.load, "run"), "numpy.load"),
        (Calls(np.frombuffer, b"xx"), "numpy.frombuffer"),
        (pickle.PickleBuffer, "pickle.PickleBuffer"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_by_name(
    tmp_path, monkeypatch, call, name, protocol
):
    monkeypatch.chdir(tmp_path)
    for value in ({**BATCH, "evil": call}, {"data": [call]}, call):
        content = pickle.dumps(value, protocol)
        said = refused(content)
        known = {name, name.replace("builtins", "__builtin__")}  # protocols of Python 2
        assert any(f"wants {n}, which no data batch needs" in said for n in known), said
    assert not list(tmp_path.iterdir())


def test_other_ways_to_a_call_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inst = b"(S'touch run'\niposix\nsystem\n."
    assert "wants posix.system" in refused(inst)
    assert "wants os.system" in refused(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")
    assert "wants numpy.ndarray.tofile" in refused(
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    )
    codec = b"c_codecs\nencode\n(U\x01aU\x03zlptR."
    assert "bytes by way of" in refused(codec.replace(b"zlp", b"hex"))
    call = b"cnumpy\nndarray\n(I1000000000\ntR."
    assert "an array made by a call" in refused(call)
    assert not list(tmp_path.iterdir())


def test_our_own_functions_cannot_be_changed():
    state = b"N}U\x0c__defaults__)s\x86b."  # (None, {"__defaults__": ()}), set by BUILD
    for name in (b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray"):
        assert "state for what is no array" in refused(b"\x80\x02c" + name + b"\n" + state)


def array_state(shape=b"(I0\nt", kind=b"U\x01b", state=b"") -> bytes:
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    return b"\x80\x02}U\x01a" + head + shape + kind + b"tR" + state + b"s."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\x80\x04.",
        b"\x80\x63.",
        np.random.default_rng(0).bytes(500),
        pickle.dumps(BATCH, 2)[:-1],
        pickle.dumps(BATCH, 2)[:100],
        pickle.dumps(BATCH, 4)[:-20],
        b"\x80\x02}q\x00" + b"}" * 1000 + b"b" * 1000,
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo of two thousand million places
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"xx.",  # more bytes than there are
        b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
        b"Pid\n.",
        b"\x80\x02\x82\x01.",
        array_state(shape=b"(I1000000000000\nt"),
        array_state(state=b"(I1\n(I1000000000000\ntU\x01bI00\nU\x01xtb"),
        b"\x80\x02cnumpy\ndtype\n(U\x01OI0\nI1\ntR.",
        b"I" + b"9" * 5000 + b"\n.",
    ],
    ids=lambda content: content[:20].hex(),
)
def test_nonsense_is_one_line(content):
    assert "truncated or no data batch" in refused(content) or "holds a" in refused(content)


@pytest.mark.parametrize("value", [[1, 2], 7, "text", {1: 2}, np.zeros(3)])
def test_what_is_no_dict_is_named(value):
    assert f"holds a {type(value).__name__}" in refused(pickle.dumps(value, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": None}, "no `data` of bytes"),
        ({"data": BATCH["data"].astype(np.float32)}, "no `data` of bytes"),
        ({"data": BATCH["data"].reshape(-1)}, "no `data` of bytes"),
        ({"data": BATCH["data"][:, :9]}, "9 bytes an image, not 3 x 2 x 2"),
        ({"labels": None}, "no `labels` that are integers"),
        ({"labels": ["a", "b"]}, "no `labels` that are integers"),
        ({"labels": [[3], [1]]}, "no `labels` that are integers"),
        ({"labels": [3.0, 1.0]}, "no `labels` that are integers"),
        ({"labels": [3]}, "2 images but labels of shape (1,)"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(change, said):
    with pytest.raises(DataError, match="some batch") as caught:
        load_batch("some batch", pickle.dumps({**BATCH, **change}, 2), 2)
    assert said in str(caught.value)


def test_a_list_that_would_unfold_without_end_is_no_labels():
    labels = [0, 1]
    for _ in range(60):
        labels = [labels, labels]
    content = pickle.dumps({**BATCH, "labels": labels}, 2)
    assert sum(1 for _ in pickletools.genops(content)) < 2000
    with pytest.raises(DataError, match="no `labels` that are integers"):
        load_batch("some batch", content, 2)
