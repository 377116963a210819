"""The fixture of a real Slurm with two nodes; `slurm_rig.py` says what it is made of."""

import pytest
import slurm_rig


@pytest.fixture(scope="session")
def slurm_session(tmp_path_factory):
    if reason := slurm_rig.missing():
        pytest.skip(reason)
    cluster = slurm_rig.Cluster(tmp_path_factory.mktemp("slurm"), leash=True)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm_cluster(slurm_session):
    """A `Cluster` with both nodes idle and no job; what the test leaves behind is cleared away.

    Import it, and `slurm_session`, where tests use it; such tests are marked `slurm` and `slow`.
    """
    yield slurm_session
    slurm_session.clear()
