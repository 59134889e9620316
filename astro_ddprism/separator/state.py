"""The state of a fit as a tree of plain arrays, for ASDF: weights by name, never pickled."""

import hashlib

import numpy as np
import torch

from ..diffusion.learning.em import EMState
from ..diffusion.priors.gaussian import GaussianPrior
from ..diffusion.priors.mixture import GaussianMixture
from ..diffusion.sampling.chains import Draws

__all__ = ["digest", "in_half_precision", "state_from_tree", "tree_from_state"]

# Parts of a state's tree that hold the weights of networks.
_NETWORKS = ("denoisers", "posteriors")


def digest(tree):
    """SHA-256 of a tree of arrays, lists, numbers and strings.

    Parameters
    ----------
    tree : mapping
        The tree; the order of its keys counts.

    Returns
    -------
    digest : str
        Hexadecimal.

    Examples
    --------
    >>> digest({"a": [1.0, 2.0]}) == digest({"a": [1.0, 3.0]})
    False
    """
    sha256 = hashlib.sha256()

    def update(node):
        if isinstance(node, dict):
            node = list(node.items())
        if isinstance(node, (list, tuple)):
            sha256.update(f"{len(node)} items".encode())
            for part in node:
                update(part)
        elif isinstance(node, np.ndarray):
            sha256.update(f"{node.dtype} {node.shape}".encode())
            sha256.update(np.ascontiguousarray(node))
        else:
            sha256.update(repr(node).encode())

    update(tree)
    return sha256.hexdigest()


def tree_from_state(state):
    """Turn the state of a fit into a tree of arrays, lists and numbers.

    Parameters
    ----------
    state : `~astro_ddprism.diffusion.learning.em.EMState`
        What has been learned.

    Returns
    -------
    tree : dict
        Plain arrays in dictionaries, in the precision in which they were computed.
    """
    return {
        "stage": state.stage,
        "iteration": state.iteration,
        "sigma_max": dict(state.sigma_max),
        "gaussians": {
            source: {
                "mean": _array(prior.mean),
                "factor": _array(prior.factor),
                "log_scale": _array(prior.log_scale),
            }
            for source, prior in state.gaussians.items()
        },
        "mixtures": {
            source: {
                "weights": _array(mixture.weights),
                "means": _array(mixture.means),
                "covariances": _array(mixture.covariances),
            }
            for source, mixture in state.mixtures.items()
        },
        "denoisers": {
            source: {name: _array(value) for name, value in denoiser.state_dict().items()}
            for source, denoiser in state.denoisers.items()
        },
        "posteriors": [
            {
                "sources": list(sources),
                "weights": {name: _array(value) for name, value in posterior.state_dict().items()},
            }
            for sources, posterior in state.posteriors.items()
        ],
        "draws": {
            view: {
                "x": _array(draws.x),
                "chi2": _array(draws.chi2),
                "good": _array(draws.good),
                "n_redrawn": draws.n_redrawn,
            }
            for view, draws in state.draws.items()
        },
        "samples": {source: _array(x) for source, x in state.samples.items()},
        # Pairs, since a YAML mapping has no order.
        "history": [
            [name, [row[name] for row in state.history]] for name in (state.history or [{}])[0]
        ],
    }


def in_half_precision(tree):
    """The same tree with the weights of the networks, and nothing else, in half precision.

    Parameters
    ----------
    tree : mapping
        A tree of `tree_from_state`.

    Returns
    -------
    tree : dict
        It reads as the other does, with weights that are rounded to 11 bits.
    """

    def rounded(node):
        if isinstance(node, dict):
            return {name: rounded(part) for name, part in node.items()}
        if isinstance(node, list):
            return [rounded(part) for part in node]
        # A network's own numbers are arrays; single ones, such as the scale of the data, stay.
        is_weights = isinstance(node, np.ndarray) and node.dtype == np.float32 and node.ndim
        return node.astype(np.float16) if is_weights else node

    return {name: rounded(part) if name in _NETWORKS else part for name, part in tree.items()}


def state_from_tree(tree, make_denoiser, make_posterior, device):
    """Turn a tree that `tree_from_state` made back into the state of a fit.

    Parameters
    ----------
    tree : mapping
        The tree.
    make_denoiser : callable
        Called with the name of a source, its data scale and its mixture or None; returns a denoiser
        to hold the weights.
    make_posterior : callable
        Called with names of sources and their data scale; returns an amortized posterior to hold
        the weights.
    device : torch.device
        Where the state lives.

    Returns
    -------
    state : `~astro_ddprism.diffusion.learning.em.EMState`
        What had been learned.
    """
    mixtures = {
        source: GaussianMixture(
            **{name: torch.tensor(array, device=device) for name, array in arrays.items()}
        )
        for source, arrays in tree.get("mixtures", {}).items()
    }
    denoisers = {}
    for source, arrays in tree["denoisers"].items():
        weights = {name: torch.tensor(array) for name, array in arrays.items()}
        data_scale = float(weights["data_scale"])
        denoisers[source] = make_denoiser(source, data_scale, mixtures.get(source))
        denoisers[source].load_state_dict(weights)
        denoisers[source].requires_grad_(False)
    posteriors = {}
    for saved in tree.get("posteriors", []):
        weights = {name: torch.tensor(array) for name, array in saved["weights"].items()}
        posterior = make_posterior(tuple(saved["sources"]), float(weights["data_scale"]))
        posterior.load_state_dict(weights)
        posteriors[tuple(saved["sources"])] = posterior.requires_grad_(False)
    history = dict(tree["history"])
    return EMState(
        gaussians={
            source: GaussianPrior(
                **{name: torch.tensor(array, device=device) for name, array in arrays.items()}
            )
            for source, arrays in tree["gaussians"].items()
        },
        mixtures=mixtures,
        sigma_max={source: float(top) for source, top in tree["sigma_max"].items()},
        denoisers=denoisers,
        posteriors=posteriors,
        stage=int(tree["stage"]),
        iteration=int(tree["iteration"]),
        draws={
            view: Draws(
                *(torch.tensor(arrays[name]) for name in ("x", "chi2", "good")),
                n_redrawn=int(arrays["n_redrawn"]),
            )
            for view, arrays in tree["draws"].items()
        },
        samples={source: torch.tensor(x) for source, x in tree["samples"].items()},
        history=[
            dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)
        ],
    )


def _array(tensor):
    return tensor.detach().cpu().numpy()
