"""Other people's weights: what needs them, whether they are here and right, and how to get them.

Each is known by its SHA-256. What cannot be verified is not fetched.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from datamodules.cache import cache_root, locked, one_line, writing
from datamodules.pixels import Progress
from lightning_modules.weights import cached, located, sha256_of

from reproduce.errors import RequestError

__all__ = ["Weights", "describe", "fetch", "known"]

BLOCK = 1 << 20
TIMEOUT_S = 60


@dataclass(frozen=True)
class Weights:
    """One file of weights.

    Attributes:
        file: its published name.
        sha256: of its content, in hex; empty where none is known to us.
        url: where it is published.
        variable: of the environment, names a copy; empty where the caller gives a path.
        place: where it lies if it came with a package.
    """

    name: str
    what: str
    needed_by: str
    licence: str
    file: str
    sha256: str
    url: str
    variable: str = ""
    place: Path | None = None

    def path(self) -> Path | None:
        """Where it is looked for, None if nowhere: the file need not be there."""
        return located(self.variable, self.file) if self.variable else self.place

    def fault(self) -> str:
        """What is wrong with the file at ``path``; empty if it is the published one."""
        path = self.path()
        if path is None:
            return "not here"
        try:
            found = sha256_of(path)
        except OSError as error:
            return f"{path}: {error.strerror}"
        if found != self.sha256:
            return f"{path} is another file, its sha256 is {found[:12]}..."
        return ""


def known() -> tuple[Weights, ...]:
    """All that the suite can use."""
    from lightning_modules.simflow import alignment, losses

    from torchvision.models import VGG16_Weights

    from reproduce.evaluators import inception

    return (
        Weights(
            "inception",
            "Inception v3 as torch-fidelity has it",
            "FID, KID, precision and recall of eiw-quality at tiers gpu and paper",
            "none stated for the weights; torch-fidelity's own is Apache-2.0",
            inception.FILE,
            inception.SHA256,
            f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{inception.FILE}",
            inception.VARIABLE,
        ),
        Weights(
            "vgg16",
            "VGG16 of torchvision, the backbone of LPIPS",
            "the perceptual loss of SimFlow at tier paper",
            "torchvision's is BSD-3-Clause; trained on ImageNet, which has terms of its own",
            losses.FILE,
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            VGG16_Weights.IMAGENET1K_V1.url,
            losses.VARIABLE,
        ),
        Weights(
            "lpips",
            "heads of LPIPS v0.1 for VGG16",
            "the perceptual loss of SimFlow at tier paper",
            "BSD-2-Clause",
            "vgg.pth",
            "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            "torchmetrics, which is installed with the suite",
            place=Path(losses.heads_of_torchmetrics()),
        ),
        Weights(
            "dinov2",
            "ViT-B/14 of DINOv2",
            "the teacher of SimFlow's alignment at tier paper (with timm)",
            "Apache-2.0",
            alignment.FILE,
            "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
            f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/{alignment.FILE}",
            alignment.VARIABLE,
        ),
        Weights(
            "tarflow",
            "TarFlow of AFHQ at 256 x 256",
            "no target; lightning_modules.simflow.checkpoints.read(path) reads it",
            "not known to us",
            "afhq_model_8_768_8_8_0.07.pth",
            "",
            "https://ml-site.cdn-apple.com/models/tarflow/afhq256/afhq_model_8_768_8_8_0.07.pth",
        ),
        Weights(
            "starflow",
            "STARFlow of 3B parameters, from text to 256 x 256",
            'no target; lightning_modules.simflow.checkpoints.read(path, "starflow") reads it',
            "Apple's ML Research Model licence: research only",
            "starflow_3B_t2i_256x256.pth",
            "",
            "https://github.com/apple/ml-starflow tells where",
        ),
    )


def describe(one: Weights) -> list[str]:
    """What there is to say about one of them, in lines."""
    if one.sha256:
        sha256 = one.sha256
        state = one.fault() or f"yes, and its sha256 is right: {one.path()}"
        if one.path() is None:
            state = f"no; make weights NAME={one.name} fetches it"
    else:
        sha256 = "not known to us, so it is not fetched"
        state = "not looked for: the path is given where it is read"
    rows = {
        "needed by": one.needed_by,
        "licence": one.licence,
        "from": one.url,
        "sha256": sha256,
        "variable": one.variable,
        "here": state,
    }
    return [f"{one.name}: {one.what}, {one.file}"] + [
        f"  {key:10} {value}" for key, value in rows.items() if value
    ]


def fetch(name: str) -> Iterator[str]:
    """Bring the file into the cache, unless it is here; lines that say what happens.

    It appears under its name once its SHA-256 is right. What was broken off is taken up.

    Raises:
        RequestError: an unknown name; a file that cannot be verified or whose place is not ours;
            a network that does not answer; another content than the published.
        DataError: the cache cannot be written or has no room.
    """
    table = {one.name: one for one in known()}
    if name not in table:
        raise RequestError(f"unknown weights {name!r}: choose one of {', '.join(table)}")
    one = table[name]
    if not one.sha256:
        raise RequestError(
            f"{name} is not fetched, as no checksum of it is known to us: get {one.file} yourself "
            f"({one.url}) and give its path where it is read"
        )
    fault = one.fault()
    if not fault:
        yield f"{name}: found, and its sha256 is right: {one.path()}"
        return
    if one.place is not None:
        raise RequestError(f"{fault}: it comes with {one.url}; install that again")
    if os.environ.get(one.variable):
        raise RequestError(
            f"{one.variable} goes before the cache, but {fault}: correct it or unset it"
        )
    root, target = cache_root(), cached(one.file)  # the one below the other
    with locked(target):
        if one.fault():  # no other process was faster
            yield f"{name}: fetching {one.url} to {target}"
            partial = target.with_name(f"{target.name}.partial")
            _receive(one, partial)
            found = sha256_of(partial)
            if found != one.sha256:
                partial.unlink()
                raise RequestError(
                    f"what {one.url} gave is not {one.file}: its sha256 is {found[:12]}..., not "
                    f"{one.sha256[:12]}...; nothing was kept, run the same command again"
                )
            with writing(root):
                partial.replace(target)
    yield f"{name}: fetched {target.stat().st_size:,} bytes, and their sha256 is right: {target}"


def _receive(one: Weights, partial: Path) -> None:
    """Append to ``partial`` what it lacks of the file."""
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "entroflow"} | ({"Range": f"bytes={done}-"} if done else {})
    progress = Progress(f"fetching {one.file}")
    try:
        with urlopen(Request(one.url, headers=headers), timeout=TIMEOUT_S) as answer:
            done = done if answer.status == 206 else 0
            total = done + int(answer.headers.get("Content-Length") or 0)
            room = shutil.disk_usage(partial.parent).free
            if room < total - done:
                raise RequestError(
                    f"{one.file} has {total:,} bytes, but {partial.parent} has room for {room:,}; "
                    "set ENTROFLOW_CACHE to a folder with more"
                )
            file = partial.open("ab" if done else "wb")
            try:
                while block := answer.read(BLOCK):
                    with writing(cache_root()):
                        file.write(block)
                    done += len(block)
                    progress(f"{done:,} of {total:,} bytes")
                with writing(cache_root()):
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                with suppress(OSError):  # on a full disk closing fails too
                    file.close()
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError) and error.code == 416 and done:
            return  # nothing is missing
        raise RequestError(
            f"{one.url} cannot be fetched ({one_line(error)}); with the network run `make weights "
            f"NAME={one.name}` again, without it set {one.variable} to a copy of {one.file}"
        ) from None
    if done < total:
        raise RequestError(
            f"{one.url} broke off after {done:,} of {total:,} bytes: `make weights "
            f"NAME={one.name}` goes on from there"
        )
