"""EIW-Flow (arXiv 2407.04958): a multi-scale flow that learns which channels to factor out."""

from lightning_modules.eiw_flow.cnf import ContinuousFlow, Integrator
from lightning_modules.eiw_flow.dense import DenseFlow
from lightning_modules.eiw_flow.dequantize import Uniform
from lightning_modules.eiw_flow.module import EIWFlow
from lightning_modules.eiw_flow.multiscale import Glow, MultiScale
from lightning_modules.eiw_flow.shuffle import ChannelOrder, Guider, Solver
from lightning_modules.eiw_flow.variational import VariationalDequantizer

__all__ = [
    "EIWFlow",
    "ChannelOrder",
    "ContinuousFlow",
    "DenseFlow",
    "Glow",
    "Guider",
    "Integrator",
    "MultiScale",
    "Solver",
    "Uniform",
    "VariationalDequantizer",
]
