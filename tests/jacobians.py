"""What the tests of the flows share: random weights, and Jacobians by autograd."""

import torch


def shaken(module, scale=0.2, seed=0):
    """The module in float64 with all parameters moved off their (often zero) start."""
    rng = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p += scale * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return module.eval()


def images(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)).double()


def logdet_by_autograd(function, x):
    """log |det J| of a map from one sample to one sample, for each row of x."""

    def flat(row):
        return function(row.reshape(1, *x.shape[1:])).flatten()

    rows = [torch.autograd.functional.jacobian(flat, row) for row in x.flatten(1)]
    return torch.stack([torch.linalg.slogdet(j).logabsdet for j in rows])
