"""Trees of earlier layouts in today's: what reads old files.

A file has the version of its layout, by kind. Each function here brings a tree of one kind from the
versions before to one version; `migrate` applies those that a tree needs, one after the other, and
whoever reads a file knows today's layout alone.
"""

__all__ = ["migrate"]


def migrate(tree: dict) -> dict:
    """A tree in today's layout.

    Parameters
    ----------
    tree : dict
        What a file holds, with its ``kind`` and ``format_version``.

    Returns
    -------
    tree : dict
        It may share arrays with the other.
    """
    for version, step in _STEPS.get(tree["kind"], ()):
        if int(tree["format_version"]) < version:
            tree = {**step(tree), "format_version": version}
    return tree


def _model_4(tree):
    """Parts in place of flat options; noise scales by source; what posterior methods learned."""
    em, old = dict(tree["em"]), tree["config"]
    shapes = {source: tuple(shape) for source, shape in tree["source_shapes"].items()}
    # One number for all sources, where it was not said by source.
    em.setdefault("sigma_max", dict.fromkeys(shapes, tree.get("sigma_max")))
    em["learned"] = em.pop("posteriors", [])
    em["networks"] = {source: _model_4_network(old, shape) for source, shape in shapes.items()}
    kept = {k: v for k, v in tree.items() if k not in {"em", "config", "psf", "sigma_max"}}
    # Older files do not tell what they were trained on.
    unknown = {"n_observations": {}, "conditions": {}, "initial": ""}
    return {
        "training": unknown,
        **kept,
        "config": _model_4_config(old, shapes),
        "before_psf": tree["psf"],
        "state": em,
    }


def _model_4_network(old, shape):
    name = old["network"] or ("unet" if len(shape) == 3 else "mlp")
    return {"name": name, **old["network_options"]}


def _model_4_config(old, shapes):
    networks = [_model_4_network(old, shape) for shape in shapes.values()]
    same = all(network == networks[0] for network in networks)
    named = old["network"] is not None or old["network_options"]
    solver = {"name": old["solver"]}
    if old["solver"] != "dense":
        solver["iterations"] = old["solver_iterations"]
    posterior = {"name": "moment-matching", "solver": solver}
    if old.get("posterior") == "amortized":
        # The options of its network were those of the priors', if these were of the same kind.
        own = old["network_options"] if all(n["name"] == "unet" for n in networks) else {}
        posterior = {
            "name": "amortized",
            "network": {"name": "unet", **(old.get("posterior_options") or own)},
            "n_images": old["n_posterior_images"],
            "flux_factors": old.get("flux_factors") or {},
            "templates": old.get("templates") or [],
            "sampler": {"name": "adams-bashforth", "order": 2},
            "n_steps": 24,
            "n_starts": 3,
            "otherwise": posterior,
        }
    return {
        "method": "diffusion",
        "sources": old["sources"],
        "seed": old["seed"],
        "network": networks[0] if same and named else None,
        "posterior": posterior,
        "schedule": {"sigma_min": old["sigma_min"], "sigma_max": old["sigma_max"]},
        "warm_start": {
            "name": "gaussian",
            "rank": old["warm_start_rank"],
            "rank_new": old["warm_start_rank_new"],
            "iterations": old["warm_start_iterations"],
            "components": old["warm_start_components"],
        },
        "training": {
            "n_first_images": old["n_first_images"],
            "n_images": old["n_images"],
            "batch_size": old["train_batch_size"],
            "learning_rate": old["learning_rate"],
        },
        "chains": {
            "sampler": {"name": old["sampler"]},
            "n_steps": old["n_steps"],
            "start": old["chain_start"],
            "max_chi2": old["max_chi2"],
            "n_candidates": old["n_candidates"],
            "n_redraws": old["n_redraws"],
        },
        "n_em_iterations": old["n_em_iterations"],
        "symmetries": old["symmetries"],
        "execution": {"precision": old["precision"], "batch_size": old["batch_size"]},
    }


#: For each kind, the versions whose layouts changed, and how.
_STEPS = {"model": ((4, _model_4),)}
