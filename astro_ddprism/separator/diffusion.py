"""Diffusion priors of several sources, learned from views, and the posterior under them."""

__all__ = ["DiffusionSourceSeparator"]

import logging
import math
from dataclasses import dataclass, fields, replace

from astropy import units as u
from astropy.table import QTable

from ..diffusion import ranks
from ..diffusion.learning.em import EMState, ExpectationMaximization
from ..diffusion.learning.symmetries import SYMMETRIES, symmetries_of
from ..diffusion.learning.training import Trainer, Training
from ..diffusion.learning.warmstart import WarmStart
from ..diffusion.networks import Network
from ..diffusion.posteriors.base import PosteriorMethod, Priors
from ..diffusion.posteriors.moment_matching import MomentMatching
from ..diffusion.priors.build import build_denoiser, default_network
from ..diffusion.priors.likelihood import log_prob
from ..diffusion.priors.schedule import NoiseSchedule
from ..diffusion.random import seeded
from ..diffusion.sampling.chains import Chains, draw_sources
from ..diffusion.sampling.prior import draw_prior
from ..errors import InputError
from ..io.reading import reason_of
from ..registry import MOST_REPEATS, option
from .base import SourceSeparator
from .configured import SEPARATORS
from .plan import FitBar, duration_text, plan_fit
from .trees import draws_from_tree, draws_tree, priors_from_tree, priors_tree

logger = logging.getLogger(__name__)

# Purpose of random numbers outside the fit.
_LIKELIHOOD = 102


@SEPARATORS.register("diffusion")
@dataclass(eq=False)
class DiffusionSourceSeparator(SourceSeparator):
    r"""Diffusion priors of several sources, learned from views, and the posterior under them.

    The observations of a view are :math:`y = \sum_\beta A^\beta x^\beta + \eta`. `fit` learns a
    diffusion prior of every source :math:`x^\beta` by expectation maximization; `sample` draws all
    sources of an observation from their joint posterior, or each from its prior; `log_prob`
    evaluates the priors.

    Parts (`~astro_ddprism.separator.parts`) are objects, their names, which stand for the defaults,
    or tables of a name and options, as in a TOML file.

    Parameters
    ----------
    sources : sequence of str, optional
        The sources that the dataset must hold; by default whatever it holds.
    device : str, optional
        Short for an ``execution`` on this device: ``"auto"`` (a GPU where there is one), ``"cpu"``,
        ``"cuda"``, ...
    execution : Execution
        Where and how to compute.
    seed : int
        Of all random numbers: the same seed on the same device repeats a fit, and the draws of an
        observation depend on nothing but the seed and the observation's id.
    progress : bool
        Whether to show progress bars on standard error.
    network : Network, optional
        The network of the priors, ``"unet"`` or ``"mlp"``; by default a U-Net for images and a
        perceptron for sources of one axis.
    posterior : PosteriorMethod
        How observations of several sources are separated: ``"moment-matching"`` (the denoisers of
        all sources and their Jacobians; any sources and operators), ``"amortized"`` (a network
        trained on simulated observations; for images that share one pixel grid), ``"mixture"``
        (exact, for sources of a few numbers), ``"gaussian"`` (exact, under the Gaussian priors of
        the warm start alone), ``"gibbs"`` (one source at a time), or ``"langevin"``
        (noise-annealed Langevin dynamics).
    schedule : NoiseSchedule
        Range of the noise scales.
    warm_start : WarmStart
        The closed-form priors that a stage begins with.
    training : Training
        How much, and how, networks are trained.
    chains : Chains
        How chains run, and which are kept.
    n_em_iterations : int or dict of str to int
        EM iterations of each stage, after the one that trains the networks on the warm start; or by
        source.
    symmetries : dict of str to tuple of str, optional
        For each source, which of ``"rotations"`` (by right angles) and ``"flips"`` leave its prior
        as it is. By default both for square images and none otherwise.

    Attributes
    ----------
    priors_ : dict of str to `~astro_ddprism.diffusion.priors.denoiser.SourceDenoiser`
        The denoiser of each source.
    posterior_ : dict of tuple of str to torch.nn.Module
        What the posterior method has learned, by the sources of the views that it is for.
    history_ : astropy.table.QTable
        One row for each EM iteration and source: the training loss, the median and mean reduced
        chi-squared of the draws, the power of the source (mean square of its pixels), the numbers
        of chains drawn, drawn again and left out, and the times of both steps.
    sources_, source_shapes_, unit_, noise_scale_, training_, device_
        See `~astro_ddprism.separator.base.SourceSeparator`.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
    >>> rng = np.random.default_rng(1)
    >>> data, mixing = rng.normal(0, 2, (64, 2)), {"a": np.eye(2)}
    >>> views = MultiViewDataset.from_arrays({
    ...     "first": {"data": data, "variance": 1.0, "mixing": mixing},
    ... })
    >>> separator = DiffusionSourceSeparator(
    ...     device="cpu", progress=False, n_em_iterations=0,
    ...     training={"n_first_images": 640}, chains={"n_steps": 4},
    ... ).fit(views)
    >>> separator.sample(views["first"], n_samples=3).samples["a"].shape
    (3, 64, 2)
    >>> separator.sample(n_samples=5)["a"].shape
    (5, 2)
    """

    network: Network | None = None
    posterior: PosteriorMethod = option(MomentMatching())
    schedule: NoiseSchedule = option(NoiseSchedule())
    warm_start: WarmStart = option(WarmStart())
    training: Training = option(Training())
    chains: Chains = option(Chains())
    n_em_iterations: int | dict[str, int] = option(3, least=0, most=MOST_REPEATS)
    symmetries: dict[str, tuple[str, ...]] | None = option(None, choices=SYMMETRIES)

    @classmethod
    def from_priors(cls, models, **options) -> "DiffusionSourceSeparator":
        """A separator whose priors are given: each that of a source of some model.

        Sources may share a prior: they are then exchangeable, and so are their draws
        (`~astro_ddprism.evaluate.metrics.best_permutation`). A prior may come from clean images:
        from a model that was fitted to a view of one source and little noise.

        Parameters
        ----------
        models : dict of str to DiffusionSourceSeparator, path-like, or tuple
            For each source its model, or the file or the name of it; if that has several sources,
            a tuple of it and which one is meant.
        **options
            Of the separator, such as ``posterior``. The noise schedule is that of the models.

        Returns
        -------
        DiffusionSourceSeparator
            It is fitted: it draws, evaluates, and can be written.

        Raises
        ------
        InputError
            If there is no such source, or models disagree about the unit or the flux that is 1
            inside.
        """
        parts, read = {}, {}
        for source, model in models.items():
            model, *named = model if isinstance(model, tuple) else (model,)
            if not isinstance(model, DiffusionSourceSeparator):
                device = options.get("device", "auto")
                model = read[model] = read.get(model) or cls.read(model, device, progress=False)
            known = model.sources_
            name = named[0] if named else known[0]
            if name not in known or (not named and len(known) > 1):
                raise InputError(
                    f"models[{source!r}]: found {name if named else 'no source'}, expected which "
                    f"of {', '.join(known)}"
                )
            parts[source] = model, name
        first = next(iter(parts.values()))[0]
        for source, (model, _) in parts.items():
            for what in ("unit_", "noise_scale_", "schedule"):
                own, other = getattr(model, what), getattr(first, what)
                if own != other:
                    raise InputError(
                        f"models[{source!r}]: found {what} {own}, expected {other}, as of the first"
                    )
        fitted, priors = first._learned, Priors(first.schedule)
        for part in ("networks", "gaussians", "mixtures", "sigma_max", "denoisers"):
            held = {s: (getattr(m._learned.state.priors, part), n) for s, (m, n) in parts.items()}
            getattr(priors, part).update({s: of[n] for s, (of, n) in held.items() if n in of})
        separator = cls(**{"schedule": first.schedule, "execution": first.execution, **options})
        separator._fitted = replace(
            fitted,
            sources=tuple(parts),
            source_shapes={s: m.source_shapes_[n] for s, (m, n) in parts.items()},
            before_psf={s: m._learned.before_psf[n] for s, (m, n) in parts.items()},
            state=EMState(priors),
            file=None,
        )
        return separator

    # -- what was learned ------------------------------------------------------------------------

    @property
    def priors_(self):
        """The denoiser of each source."""
        return dict(self._learned.state.priors.denoisers)

    @property
    def posterior_(self):
        """What the posterior method has learned, by the sources of the views that it is for."""
        return dict(self._learned.state.priors.learned)

    @property
    def history_(self):
        """One row for each EM iteration and source."""
        fitted = self._learned
        history = QTable(rows=fitted.state.history)
        if len(history):
            history["power"] = history["power"].value * (fitted.noise_scale * fitted.unit) ** 2
            for name in ("e_step_time", "m_step_time"):
                history[name] = history[name].value * u.s
        return history

    # -- the method ------------------------------------------------------------------------------

    @property
    def _seeing(self):
        return getattr(getattr(self.posterior, "variety", None), "seeing", ())

    def _fit(self, task):
        shapes, state = task.source_shapes, task.begin
        if state is None:
            state = EMState(Priors(self.schedule, self._networks(shapes)))
        self._check_seeing(task.loaders)
        self._check_networks(task, state.priors)
        steps = plan_fit(self, task.loaders, shapes, state)
        seconds = sum(step.seconds for step in steps)
        text = "the fit takes %s on this machine (%s), in %d steps"
        logger.info(text, duration_text(seconds), self.device_, len({s.title for s in steps}))
        with FitBar(steps, self.progress and ranks.is_first()) as track:
            em = ExpectationMaximization(
                task.loaders,
                symmetries=symmetries_of(self.symmetries, shapes),
                posterior=self.posterior,
                warm_start=self.warm_start,
                trainer=Trainer(self.training, self.execution, track),
                chains=self.chains,
                n_em_iterations=self._n_em_iterations(shapes),
                seed=self.seed,
                track=track,
            )
            for _ in em.run(state):
                task.save(state, [s for stage in em.stages[state.stage :] for s in stage.sources])
        return state

    def _provenance(self, seed):
        told = super()._provenance(seed)
        balanced = getattr(self.posterior, "flux_factors", {})
        if balanced:
            told["flux_prior"] = f"uniform in the logarithm: {', '.join(balanced)}"
        return told

    def _draw(self, state, loader, index, rows, track):
        return draw_sources(
            self.posterior.method_for(loader.source_shapes, state.priors),
            state.priors,
            loader,
            index,
            rows,
            chains=self.chains,
            batch_size=self.execution.n_for(sum(map(math.prod, loader.source_shapes.values()))),
            track=track,
        )

    def _draw_prior(self, state, source, rows, track):
        return draw_prior(
            state.priors.denoisers[source],
            state.priors.gaussians[source],
            self.source_shapes_[source],
            rows,
            chains=self.chains,
            batch_size=self.execution.n_for(math.prod(self.source_shapes_[source])),
            track=track,
        )

    def _log_prob(self, state, source, values, *, n_probes, seed, track):
        # The probability flow ODE is integrated from the sources to the top of the noise schedule
        # (Song et al. 2021, arXiv:2011.13456, equation 39). By default the trace is exact up to 32
        # features, and estimated from 4 probes beyond.
        with seeded(seed, _LIKELIHOOD, device=self.device_):
            return log_prob(
                state.priors.denoisers[source],
                values,
                state.priors.gaussians[source],
                n_probes=n_probes,
                batch_size=self.execution.n_at_a_time,
                track=track,
            )

    def _state_tree(self, state, *, draws):
        return {
            "stage": state.stage,
            "iteration": state.iteration,
            **priors_tree(state.priors),
            **draws_tree(state, empty=not draws),
            # Pairs, since a YAML mapping has no order.
            "history": [
                [name, [row[name] for row in state.history]] for name in (state.history or [{}])[0]
            ],
        }

    def _from_tree(self, tree, source_shapes, *, told_more=False):
        priors = priors_from_tree(
            tree,
            source_shapes,
            self.schedule,
            self.posterior,
            self.execution,
            told_more=told_more,
        )
        history = dict(tree["history"])
        return EMState(
            priors,
            stage=int(tree["stage"]),
            iteration=int(tree["iteration"]),
            **draws_from_tree(tree),
            history=[
                dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)
            ],
        )

    def _begin_from(self, initial, fitted):
        """The priors of another separator, as the beginning of a fit."""
        found = initial._learned
        label = f"initial: {found.name or 'the model'}"
        if not isinstance(initial, DiffusionSourceSeparator):
            raise InputError(
                f"{label}: found a {type(initial).__name__}, expected diffusion priors"
            )
        agree = [
            ("sources", set(fitted.sources), set(found.sources)),
            ("shapes", fitted.source_shapes, found.source_shapes),
            ("light before a PSF", fitted.before_psf, found.before_psf),
            ("network", self._networks(fitted.source_shapes), found.state.priors.networks),
        ]
        both = {type(self.posterior), type(initial.posterior)}
        if len(both) == 1 and self.posterior.learns:
            # What a network looks like decides whether its weights fit.
            own, other = (_networks_of(s.posterior) for s in (self, initial))
            agree.append(("network of the posterior", own, other))
        for what, own, other in agree:
            if own != other:
                raise InputError(f"{label}: found {what} {other}, expected {own}, as of this fit")
        if not all(self._n_em_iterations(fitted.source_shapes).values()):
            raise InputError(
                f"n_em_iterations: found {self.n_em_iterations} with a model to start from, "
                "expected one or more"
            )
        tree = initial._state_tree(found.state, draws=False)
        if len(both) > 1:
            tree["learned"] = []
        begin = {"stage": 0, "iteration": 0, "history": []}
        return self._from_tree({**tree, **begin}, fitted.source_shapes, told_more=True)

    def _networks(self, shapes) -> dict[str, Network]:
        return {source: self.network or default_network(shape) for source, shape in shapes.items()}

    def _n_em_iterations(self, sources) -> dict[str, int]:
        if isinstance(self.n_em_iterations, int):
            return dict.fromkeys(sources, self.n_em_iterations)
        missing = [source for source in sources if source not in self.n_em_iterations]
        if missing:
            raise InputError(
                f"n_em_iterations: found none of {', '.join(missing)}, expected one for each source"
            )
        return self.n_em_iterations

    def _check_networks(self, task, priors):
        """Find out before the work what cannot be built."""
        try:
            with seeded(self.seed, device=self.device_):
                for source, shape in task.source_shapes.items():
                    build_denoiser(priors.networks[source], shape, priors.schedule(source), 1.0)
                for loader in task.loaders.values():
                    shapes = loader.source_shapes
                    method = self.posterior.method_for(shapes)
                    if method.learns:
                        method.build(shapes, 1.0, priors.schedule(*shapes), self.execution)
        except InputError:
            raise
        except Exception as error:  # whatever those who build networks raise, memory among it
            raise InputError(f"network: cannot be built as it is ({reason_of(error)})") from error

    def _check_seeing(self, loaders):
        for name, loader in loaders.items() if self._seeing else ():
            if loader.seeing is None:
                raise InputError(
                    f"view {name!r}: found no width of the PSF through which its sources are seen, "
                    "expected one, as Variety.seeing changes it: give it as psf_fwhm (--psf-fwhm)"
                )

    def _check_dataset(self, dataset):
        super()._check_dataset(dataset)
        held = tuple(dataset.sources)
        named = {"symmetries": self.symmetries or {}}
        if not isinstance(self.n_em_iterations, int):
            named["n_em_iterations"] = self.n_em_iterations
        for name in ("flux_factors", "templates"):
            named[name] = getattr(self.posterior, name, ())
        for name, sources in named.items():
            unknown = sorted(set(sources) - set(held))
            if unknown:
                raise InputError(
                    f"{name}: unknown source {', '.join(unknown)}; expected {', '.join(held)}"
                )


def _networks_of(part) -> dict[str, Network]:
    """The networks that a part describes, by the name of the field."""
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, Network)}
