"""What every test starts from: the torchvision guard, one thread, checked shapes, an own cache."""

from datamodules import _torchvision  # noqa: F401  (the guard; must come before lightning)

import beartype  # noqa: F401  (what loads under the hook below, libraries too, compiles afresh)
import lightning  # noqa: F401
import pytest
import torch
import torchmetrics  # noqa: F401
from jaxtyping import install_import_hook

torch.set_num_threads(1)

# Shapes and types in signatures are checked wherever tests call; these modules load after this.
install_import_hook(["lightning_modules", "datamodules"], "beartype.beartype")


@pytest.fixture(autouse=True)
def default_dtype():
    """A test may change the default dtype; the next one starts with the old."""
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """The session's cache folder."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache_folder, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("ENTROFLOW_CACHE", str(cache_folder))
