"""The parts of a separator's configuration: small frozen objects that check themselves.

Each is found by name in a registry of its kind, to which packages add their own; a name stands for
its defaults, and a table of a ``name`` and options, as in a TOML file, for any of them.
"""

from ..diffusion.learning.moments import MomentWarmStart
from ..diffusion.learning.training import Training
from ..diffusion.learning.warmstart import WARM_STARTS, WarmStart
from ..diffusion.networks import MLP, NETWORKS, Network, UNet
from ..diffusion.parallel import Execution
from ..diffusion.posteriors.amortized import Amortized
from ..diffusion.posteriors.base import POSTERIORS, PosteriorMethod
from ..diffusion.posteriors.exact import ExactGaussian, ExactMixture
from ..diffusion.posteriors.gibbs import Gibbs
from ..diffusion.posteriors.langevin import Langevin
from ..diffusion.posteriors.moment_matching import MomentMatching
from ..diffusion.posteriors.solvers import CG, GMRES, SOLVERS, Dense, Solver
from ..diffusion.priors.schedule import NoiseSchedule
from ..diffusion.sampling.chains import Chains
from ..diffusion.sampling.samplers import (
    DDIM,
    SAMPLERS,
    AdamsBashforth,
    Ancestral,
    Heun,
    PredictorCorrector,
    Sampler,
)

__all__ = [
    "CG",
    "DDIM",
    "GMRES",
    "MLP",
    "NETWORKS",
    "POSTERIORS",
    "SAMPLERS",
    "SOLVERS",
    "WARM_STARTS",
    "AdamsBashforth",
    "Amortized",
    "Ancestral",
    "Chains",
    "Dense",
    "ExactGaussian",
    "ExactMixture",
    "Execution",
    "Gibbs",
    "Heun",
    "Langevin",
    "MomentMatching",
    "MomentWarmStart",
    "Network",
    "NoiseSchedule",
    "PosteriorMethod",
    "PredictorCorrector",
    "Sampler",
    "Solver",
    "Training",
    "UNet",
    "WarmStart",
]
