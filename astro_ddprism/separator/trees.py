"""Priors and draws as trees of arrays, numbers and names, for files; and back."""

__all__ = ["draws_from_tree", "draws_tree", "priors_from_tree", "priors_tree"]

from dataclasses import fields

import torch

from ..diffusion.networks import Network
from ..diffusion.posteriors.base import Priors
from ..diffusion.priors.build import build_denoiser
from ..diffusion.priors.gaussian import GaussianPrior
from ..diffusion.priors.mixture import GaussianMixture
from ..diffusion.sampling.chains import Draws
from ..diffusion.scratch import empty_rows, mappings, row_parts
from ..io.mapped import register, release_pages
from .state import checked_numbers, positive


def priors_tree(priors: Priors) -> dict:
    """Priors as plain arrays in dictionaries, in the precision in which they were computed.

    Parameters
    ----------
    priors : Priors

    Returns
    -------
    tree : dict
    """
    return {
        "networks": {source: network.to_tree() for source, network in priors.networks.items()},
        "sigma_max": dict(priors.sigma_max),
        "gaussians": {
            source: {name: _array(getattr(prior, name)) for name in ("mean", "factor", "log_scale")}
            for source, prior in priors.gaussians.items()
        },
        "mixtures": {
            source: {f.name: _array(getattr(mixture, f.name)) for f in fields(mixture)}
            for source, mixture in priors.mixtures.items()
        },
        "denoisers": {source: _weights(network) for source, network in priors.denoisers.items()},
        "learned": [
            {"sources": list(sources), "weights": _weights(network)}
            for sources, network in priors.learned.items()
        ],
    }


def priors_from_tree(
    tree, source_shapes, noise, posterior, execution, *, told_more=False
) -> Priors:
    """Turn a tree that `priors_tree` made back into priors.

    Parameters
    ----------
    tree : mapping
        The tree.
    source_shapes : dict of str to tuple of int
        Shapes of the sources.
    noise : NoiseSchedule
        The noise schedule where a source does not need more.
    posterior : PosteriorMethod
        Builds what it has learned.
    execution : Execution
        Where the priors live.
    told_more : bool
        Whether networks of posteriors may be told more than those of the tree were: that comes
        first of what they are told, and makes no difference to begin with.

    Returns
    -------
    priors : Priors
    """
    device = execution.torch_device
    for name in ("gaussians", "mixtures", "denoisers", "learned"):
        checked_numbers(tree.get(name, {}), name)
    gaussians, mixtures = (
        {
            source: kind(**{k: torch.tensor(array, device=device) for k, array in arrays.items()})
            for source, arrays in tree.get(name, {}).items()
        }
        for name, kind in (("gaussians", GaussianPrior), ("mixtures", GaussianMixture))
    )
    priors = Priors(
        noise,
        {source: Network.from_tree(network) for source, network in tree["networks"].items()},
        gaussians,
        mixtures,
        {
            source: positive(f"sigma_max of {source}", top)
            for source, top in tree["sigma_max"].items()
        },
    )
    for source, arrays in tree["denoisers"].items():
        weights = {name: torch.tensor(array) for name, array in arrays.items()}
        denoiser = build_denoiser(
            priors.networks[source],
            source_shapes[source],
            priors.schedule(source),
            float(weights["data_scale"]),
            mixtures.get(source),
        ).to(device)
        denoiser.load_state_dict(weights)
        priors.denoisers[source] = denoiser.requires_grad_(False)
    for saved in tree["learned"]:
        sources = tuple(saved["sources"])
        shapes = {source: source_shapes[source] for source in sources}
        weights = {name: torch.tensor(array) for name, array in saved["weights"].items()}
        learned = posterior.method_for(shapes).build(
            shapes, float(weights["data_scale"]), priors.schedule(*sources), execution
        )
        if told_more:
            weights = _as_told_more(weights, learned.state_dict())
        learned.load_state_dict(weights)
        priors.learned[sources] = learned.requires_grad_(False)
    return priors


def draws_tree(state, *, empty: bool) -> dict:
    """The draws that a fit goes on from; ``empty``: of one that has ended."""
    if empty:
        return {"draws": {}, "samples": {}, "seeing": {}, "held_out": {}}
    for mapping in mappings():  # of draws in files, whose memory who writes them gives back
        register(mapping)
    return {
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
        "seeing": {source: _array(x) for source, x in state.seeing.items()},
        "held_out": {source: _array(x) for source, x in state.held_out.items()},
    }


def draws_from_tree(tree) -> dict:
    """What `draws_tree` told, by the names of `~astro_ddprism.diffusion.learning.em.EMState`."""
    return {
        "draws": {
            view: Draws(
                _table(arrays["x"]),
                *(torch.tensor(arrays[name]) for name in ("chi2", "good")),
                n_redrawn=int(arrays["n_redrawn"]),
            )
            for view, arrays in tree["draws"].items()
        },
        **{
            name: {source: torch.tensor(x) for source, x in tree.get(name, {}).items()}
            for name in ("samples", "seeing", "held_out")
        },
    }


def _as_told_more(weights, like) -> dict:
    """Weights of a network with fewer inputs, with weights of 0 for those before them."""
    new = dict(weights)
    for name, weight in weights.items():
        shape = like[name].shape if name in like else weight.shape
        if weight.ndim == 4 and shape[1] > weight.shape[1]:
            more = weight.new_zeros(len(weight), shape[1] - weight.shape[1], *weight.shape[2:])
            new[name] = torch.cat([more, weight], dim=1)
    return new


def _table(array) -> torch.Tensor:
    table = empty_rows(*array.shape)
    for rows in row_parts(len(array), array[:1].nbytes):
        table[rows] = torch.tensor(array[rows])
        release_pages()
    return table


def _weights(network) -> dict:
    return {name: _array(value) for name, value in network.state_dict().items()}


def _array(tensor):
    return tensor.detach().cpu().numpy()
