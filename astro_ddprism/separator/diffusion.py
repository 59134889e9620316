"""Learn the priors of sources from views, and separate observations with them."""

import contextlib
import hashlib
import logging
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from astropy import units as u
from astropy.table import QTable

from .. import __version__
from ..diffusion.learning.em import ExpectationMaximization
from ..diffusion.priors.likelihood import log_prob as diffusion_log_prob
from ..diffusion.random import Rows, seeded
from ..diffusion.sampling.prior import sample_prior
from ..errors import InputError, NotFittedError
from ..io.asdf import read_tree, write_tree
from ..models import find_model
from ..posterior.samples import PosteriorSamples
from ..progress import Progress
from ..units import AB_FLUX
from .assembly import Assembly
from .fitted import FittedState
from .options import check_options
from .state import digest, in_half_precision, tree_from_state

__all__ = ["DiffusionSourceSeparator"]

logger = logging.getLogger(__name__)

# Purposes of random numbers outside the fit.
_POSTERIOR, _PRIOR, _LIKELIHOOD = range(100, 103)


# Equal to itself alone: parameters do not tell what was learned.
@dataclass(eq=False)
class DiffusionSourceSeparator:
    r"""Diffusion priors of several sources, learned from views, and the posterior under them.

    The observations of a view are :math:`y = \sum_\beta A^\beta x^\beta + \eta`. `fit` learns a
    diffusion prior of every source :math:`x^\beta` by expectation maximization; `sample` draws all
    sources of an observation from their joint posterior, or each from its prior; `log_prob`
    evaluates the priors.

    Fluxes are linear throughout; inside, they are in units of the median noise of the dataset that
    the separator was fitted to, ``noise_scale_``. Maggies are those of the AB system.

    Parameters
    ----------
    sources : sequence of str, optional
        The sources that the dataset must hold; by default whatever it holds.
    device : str
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ...
    seed : int
        Of all random numbers: the same seed on the same device repeats a fit.
    progress : bool
        Whether to show progress bars on standard error.
    network : str or None
        ``"unet"`` or ``"mlp"``; by default a U-Net for images and a perceptron for sources of one
        axis.
    network_options : dict
        Options of the network, see `astro_ddprism.diffusion.networks.base`.
    precision : str
        ``"float32"``, or ``"bfloat16"`` for the networks' arithmetic.
    symmetries : dict of str to sequence of str, optional
        For each source, which of ``"rotations"`` (by right angles) and ``"flips"`` leave its prior
        as it is. By default both for square images and none otherwise.
    sigma_min, sigma_max : float
        Range of the noise schedule in units of the noise. ``sigma_max`` grows for each source to
        ten times the root mean square of its warm start's prior where that is more.
    warm_start_rank, warm_start_rank_new : int
        Latent dimensions of the warm start's Gaussian priors: in the first stage, and of sources
        that are learned beside known ones.
    warm_start_iterations : int
        EM iterations of the Gaussian warm start.
    warm_start_components : int
        Most components of the mixtures of Gaussians from which sources of a few numbers start.
    posterior : str
        How observations of several sources are separated: ``"moment-matching"`` (the denoisers of
        all sources and their Jacobians; any sources and operators), or ``"amortized"`` (a network
        trained on simulated observations; for images that share one pixel grid).
    posterior_options : dict
        Options of the network of an amortized posterior, a U-Net; by default ``network_options``.
    n_posterior_images : int
        Images, repeats included, that an amortized posterior is trained on in its first M-step;
        later ones take a third.
    flux_factors : dict of str to sequence of float
        Sources whose draws are multiplied by factors in this range when an amortized posterior is
        trained, such that all fluxes are equally frequent: measured fluxes then are not pulled to
        where most of the population is.
    templates : sequence of str
        Sources whose images are centred on them and look much alike turned by half a turn, as
        galaxies do. An amortized posterior learns them from symmetric parts of their draws, and
        of all light at first.
    n_em_iterations : int
        EM iterations of each stage, after the one that trains the networks on the warm start.
    n_first_images, n_images : int
        Images, repeats included, that a network is trained on in its first and in each later
        M-step.
    train_batch_size : int
        Images in a training step.
    learning_rate : float
        Peak learning rate.
    sampler : str
        ``"ancestral"``, ``"adams-bashforth"`` (the probability flow by exponential multi-steps;
        fewer steps where priors are near Gaussian), ``"predictor-corrector"``, ``"ddim"`` or
        ``"heun"``.
    n_steps : int
        Steps of a chain.
    chain_start : float
        The time in (0, 1] at which chains begin, from their perturbed first draws: 1 is
        ``sigma_max``, 0 ``sigma_min``, logarithmic in between.
    solver : str
        ``"gmres"``, ``"cg"`` or ``"dense"`` (exact, for observations of a few numbers).
    solver_iterations : int
        Iterations of the solver in each step.
    max_chi2 : float
        Reduced chi-squared beyond which a chain contradicts its observation.
    n_candidates : int
        Chains for each draw. One is kept; those whose residual noise does not explain are the less
        likely.
    n_redraws : int
        How often a chain that contradicts its observation is drawn again before it is left out.
    batch_size : int
        Observations that are worked on at a time; memory grows with it.

    Attributes
    ----------
    sources_ : tuple of str
        The sources that were learned.
    source_shapes_ : dict of str to tuple of int
        Their shapes.
    unit_ : astropy.units.Unit
        Unit of flux.
    noise_scale_ : float
        The flux, in ``unit_``, that is 1 inside: the dataset's median noise, or what it was in the
        model that the fit started from.
    training_ : `~astro_ddprism.separator.checks.TrainingData`
        What it was learned from: numbers of observations, and pixel scale, PSF, noise and bands of
        the images.
    history_ : astropy.table.QTable
        One row for each EM iteration and source: the training loss, the median and mean reduced
        chi-squared of the draws, the power of the source (mean square of its pixels), the numbers
        of chains drawn, drawn again and left out, and the times of both steps.

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
    ...     device="cpu", progress=False, n_em_iterations=0, n_first_images=640, n_steps=4
    ... ).fit(views)
    >>> separator.sample(views["first"], n_samples=3).samples["a"].shape
    (3, 64, 2)
    >>> separator.sample(n_samples=5)["a"].shape
    (5, 2)
    """

    sources: tuple[str, ...] | None = None
    device: str = "auto"
    seed: int = 0
    progress: bool = True
    network: str | None = None
    network_options: dict = field(default_factory=dict)
    precision: str = "float32"
    symmetries: dict | None = None
    sigma_min: float = 0.1
    sigma_max: float = 100.0
    warm_start_rank: int = 64
    warm_start_rank_new: int = 6
    warm_start_iterations: int = 4
    warm_start_components: int = 128
    posterior: str = "moment-matching"
    posterior_options: dict = field(default_factory=dict)
    n_posterior_images: int = 120_000
    flux_factors: dict = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    n_em_iterations: int = 3
    n_first_images: int = 40_000
    n_images: int = 16_000
    train_batch_size: int = 32
    learning_rate: float = 3e-3
    sampler: str = "ancestral"
    n_steps: int = 16
    chain_start: float = 0.7
    solver: str = "gmres"
    solver_iterations: int = 2
    max_chi2: float = 2.0
    n_candidates: int = 1
    n_redraws: int = 1
    batch_size: int = 128

    # What was fitted, as a whole: replaced at the end of a fit, and never changed.
    _fitted = None
    sources_ = property(lambda self: self._learned.sources)
    source_shapes_ = property(lambda self: self._learned.source_shapes)
    unit_ = property(lambda self: self._learned.unit)
    noise_scale_ = property(lambda self: self._learned.noise_scale)
    training_ = property(lambda self: self._learned.training)

    def __post_init__(self):
        self.sources = None if self.sources is None else tuple(self.sources)
        check_options(self)
        self.templates = tuple(self.templates)

    @classmethod
    def from_config(cls, config):
        """Make a separator from a mapping of its parameters.

        Parameters
        ----------
        config : mapping of str to object
            Parameters by name.

        Returns
        -------
        DiffusionSourceSeparator

        Raises
        ------
        InputError
            If a name is no parameter.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise InputError(
                f"configuration: unknown {', '.join(unknown)}; expected names out of "
                f"{', '.join(sorted(known))}"
            )
        return cls(**config)

    @property
    def config(self):
        """The parameters by name, as `from_config` takes them."""
        return asdict(self)

    def fit(self, dataset, *, initial=None, checkpoint=None, resume=False):
        """Learn the priors of all sources of a dataset.

        Parameters
        ----------
        dataset : MultiViewDataset
            The views.
        initial : DiffusionSourceSeparator or path-like, optional
            A model of the same sources to start from (to fine-tune), or its file or name. Its
            priors take the place of the warm start and of the first training.
        checkpoint : path-like, optional
            An ASDF file that is replaced after every EM iteration, from which a fit that was killed
            can go on.
        resume : bool
            Go on from ``checkpoint``. The fit ends where an unbroken one would have.

        Returns
        -------
        DiffusionSourceSeparator
            The separator itself.

        Raises
        ------
        InputError
            If the dataset does not hold the sources asked for, the checkpoint is of another fit, or
            ``initial`` has other sources, shapes or networks. What was learned before stays as it
            was, as it does if the fit is interrupted.
        """
        check_options(self)
        self._check_dataset(dataset)
        if initial is not None and not isinstance(initial, DiffusionSourceSeparator):
            initial = self.read(initial, self.device)
        known = None if initial is None else initial._learned
        fitted = FittedState.before(dataset, known)
        if initial is not None:
            self._check_initial(fitted, initial)
            fitted = fitted.with_em(self._beginning(fitted, known.em), self._assembly)
        fingerprint = self._fingerprint(dataset, initial)
        if resume:
            fitted = self._resume(checkpoint, fingerprint)
        assembly, device = self._assembly(fitted), self._torch_device()
        with seeded(self.seed, device=device):  # what cannot be built is found before the work
            for source in fitted.sources:
                assembly.denoiser(source, 1.0)
            for sources in {view.sources for view in dataset.values()}:
                if assembly.amortizes(sources):
                    assembly.posterior(sources, 1.0)
        progress = Progress(self.progress)
        em = ExpectationMaximization(
            dataset,
            make_sampler=assembly.sampler,
            make_denoiser=assembly.denoiser,
            amortizes=assembly.amortizes,
            make_posterior=assembly.posterior,
            source_shapes=fitted.source_shapes,
            symmetries={s: assembly.symmetries(s) for s in fitted.sources},
            settings=self.config,
            device=device,
            track=progress,
        )
        for state in em.run(fitted.em):
            if checkpoint is not None:
                unfinished = [s for stage in em.stages[state.stage :] for s in stage.sources]
                own = {"fingerprint": fingerprint, "unfinished": unfinished}
                write_tree(checkpoint, {**self._tree(fitted), **own}, overwrite=True)
        self._fitted = fitted
        return self

    @property
    def history_(self):
        """One row for each EM iteration and source."""
        fitted = self._learned
        history = QTable(rows=fitted.em.history)
        if len(history):
            history["power"] = history["power"].value * (fitted.noise_scale * fitted.unit) ** 2
            for name in ("e_step_time", "m_step_time"):
                history[name] = history[name].value * u.s
        return history

    def sample(self, view=None, n_samples=1, *, seed=None):
        """Draw from the joint posterior of observations, or from the priors.

        Parameters
        ----------
        view : View, optional
            The observations, of any of the learned sources.
        n_samples : int
            Number of draws (for each observation).
        seed : int, optional
            Of the random numbers; by default the separator's.

        Returns
        -------
        PosteriorSamples or dict of str to Quantity
            Joint posterior samples; or, without a view, prior samples of every source, each of
            shape ``(n_samples, *shape)``.

        Raises
        ------
        InputError
            If the view's sources, their shapes, its unit or whether it has a PSF do not fit the
            model.
        """
        fitted = self._learned
        check_options(self)
        if int(n_samples) < 1:
            raise InputError(f"n_samples: {n_samples}; expected a positive integer")
        seed = self.seed if seed is None else seed
        if view is None:
            return self._sample_priors(n_samples, seed)
        fitted.check_view(view)
        state = fitted.em
        sampler = self._assembly(fitted).sampler(
            state.denoisers, state.gaussians, state.mixtures, state.posteriors
        )
        index = np.repeat(np.arange(len(view)), n_samples)
        progress = Progress(self.progress)
        draws = sampler.draw(
            view,
            index,
            lambda batches: progress(batches, "posterior samples"),
            rows=Rows.of(
                seed,
                _POSTERIOR,
                ids=view.ids[index],
                samples=np.tile(np.arange(n_samples), len(view)),
                device=self._torch_device(),
            ),
            start=self.chain_start,
        )
        failed = int((~draws.good).sum())
        if failed:
            logger.info(
                "view %r: %d of %d posterior samples contradict their observation, "
                "see their reduced chi-squared",
                view.name,
                failed,
                len(index),
            )
        x = draws.x.unflatten(0, (len(view), n_samples)).transpose(0, 1).numpy()
        sizes = np.cumsum([np.prod(fitted.source_shapes[s]) for s in view.sources])[:-1]
        scale = fitted.scale(view)
        samples = {
            source: part.reshape(n_samples, len(view), *fitted.source_shapes[source]) * scale
            for source, part in zip(view.sources, np.split(x, sizes, axis=-1), strict=True)
        }
        return PosteriorSamples(samples, view, provenance=self._provenance(seed))

    def log_prob(self, x, source, *, n_probes=None, seed=None, return_error=False):
        """Log density of candidate sources under a learned prior.

        The probability flow ODE is integrated from the sources to the top of the noise schedule
        (Song et al. 2021, arXiv:2011.13456, equation 39).

        Parameters
        ----------
        x : Quantity or ndarray, shape (N, *shape)
            Candidates; without a unit in ``unit_``.
        source : str
            Which source they are candidates of.
        n_probes : int, optional
            Probes of Hutchinson's estimator of the divergence; by default the trace is exact up to
            32 features, and estimated from 4 probes beyond.
        seed : int, optional
            Of the probes.
        return_error : bool
            Whether to return the standard error as well.

        Returns
        -------
        log_prob : ndarray, shape (N,)
            In nats, of the density over fluxes in ``unit_``.
        error : ndarray, shape (N,)
            Standard error of the trace's estimate, if ``return_error``.

        Raises
        ------
        InputError
            If the source was not learned or the candidates have another shape or unit.
        """
        check_options(self)
        if source not in self.sources_:
            raise InputError(f"source: {source!r}; expected one of {', '.join(self.sources_)}")
        shape = self.source_shapes_[source]
        try:
            values = u.Quantity(x, getattr(x, "unit", self.unit_)).to_value(self.unit_, AB_FLUX)
        except u.UnitConversionError as error:
            raise InputError(f"x: unit {x.unit}; expected {self.unit_}") from error
        if values.shape[1:] != shape:
            raise InputError(f"x: shape {values.shape}; expected (N, {', '.join(map(str, shape))})")
        values = torch.as_tensor(values / self.noise_scale_, dtype=torch.float32)
        progress = Progress(self.progress)
        with seeded(self.seed if seed is None else seed, _LIKELIHOOD, device=self._torch_device()):
            log_prob, error = diffusion_log_prob(
                self._state.denoisers[source],
                values,
                self._state.gaussians[source],
                n_probes=n_probes,
                batch_size=self.batch_size,
                track=lambda batches: progress(batches, "log_prob"),
            )
        log_prob = log_prob.cpu().numpy() - np.prod(shape) * np.log(self.noise_scale_)
        return (log_prob, error.cpu().numpy()) if return_error else log_prob

    def write(self, path, overwrite=False, *, weights="float32"):
        """Write the model as an ASDF file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool
            Whether an existing file may be replaced.
        weights : str
            ``"float32"``, as they are, or ``"float16"``: half the size, for models that are handed
            on. All that is computed with them stays in the separator's own precision.

        Raises
        ------
        InputError
            If the file exists and ``overwrite`` is not set.
        """
        fitted = self._learned
        if weights not in {"float32", "float16"}:
            raise InputError(f"weights: found {weights!r}, expected float32 or float16")
        tree = self._tree(fitted)
        tree["em"]["draws"] = tree["em"]["samples"] = {}
        if weights == "float16":
            tree["em"] = in_half_precision(tree["em"])
        write_tree(path, tree, overwrite=overwrite, compression="zlib")
        self._fitted = replace(fitted, file=Path(path))

    @classmethod
    def read(cls, path, device="auto", *, progress=True):
        """Read a model.

        Parameters
        ----------
        path : path-like
            A file that `write` left, or the name of a model that comes with the package
            (`astro_ddprism.models.list_models`).
        device : str
            Where to compute with it.
        progress : bool
            Whether to show progress bars on standard error.

        Returns
        -------
        DiffusionSourceSeparator

        Raises
        ------
        InputError
            If the file is no model, damaged, of a newer version, or the checkpoint of an unfinished
            fit; or there is no model of this name.
        """
        path = find_model(path)
        tree = read_tree(path, "model")
        try:
            separator = cls.from_config({**tree["config"], "device": device, "progress": progress})
        except (InputError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no model of this version: {error}") from error
        fitted = separator._load(tree, path)
        missing = [
            s
            for s in fitted.sources
            if s not in fitted.em.denoisers or s in tree.get("unfinished", ())
        ]
        if missing or fitted.em.iteration > 0:
            learning = ", ".join(missing or fitted.sources)
            raise InputError(
                f"{path}: an unfinished fit, still learning {learning}; "
                "expected a model whose fit has ended (go on with fit and resume)"
            )
        separator._fitted = replace(fitted, file=Path(path))
        return separator

    # What follows serves the methods above.

    def _check_dataset(self, dataset):
        held = tuple(dataset.sources)
        if self.sources is not None and set(self.sources) != set(held):
            raise InputError(
                f"dataset: holds the sources {', '.join(held)}; expected {', '.join(self.sources)}"
            )
        for option in ("symmetries", "flux_factors", "templates"):
            unknown = sorted(set(getattr(self, option) or ()) - set(held))
            if unknown:
                raise InputError(
                    f"{option}: unknown source {', '.join(unknown)}; expected {', '.join(held)}"
                )

    @property
    def _learned(self) -> FittedState:
        """The record of the last fit that ended."""
        if self._fitted is None:
            raise NotFittedError("this separator has learned nothing yet; call fit or read a model")
        return self._fitted

    @property
    def _state(self):
        """The priors that were learned."""
        return self._learned.em

    def _check_initial(self, fitted, initial):
        """Refuse a model to start from whose priors are of other sources than the dataset's."""
        known = initial._learned
        label = f"initial: {known.name or 'the model'}"
        assemblies = self._assembly(fitted), initial._assembly(known)
        agree = [
            ("sources", set(fitted.sources), set(known.sources)),
            ("shapes", fitted.source_shapes, known.source_shapes),
            ("light before a PSF", fitted.psf, known.psf),
            ("network", *(assembly.networks() for assembly in assemblies)),
        ]
        if self.posterior == initial.posterior == "amortized":
            options = (assembly.posterior_options() for assembly in assemblies)
            agree.append(("network of the posterior", *options))
        for what, own, found in agree:
            if own != found:
                raise InputError(f"{label}: found {what} {found}, expected {own}, as of this fit")
        if self.n_em_iterations < 1:
            raise InputError(
                f"n_em_iterations: found {self.n_em_iterations} with a model to start from, "
                "expected one or more"
            )

    def _beginning(self, fitted, known):
        """The tree of a model's priors, as a fit begins from them."""
        tree, amortizes = tree_from_state(known), self._assembly(fitted).amortizes
        tree |= {"stage": 0, "iteration": 0, "draws": {}, "samples": {}, "history": []}
        tree["sigma_max"] = {s: max(self.sigma_max, top) for s, top in known.sigma_max.items()}
        tree["posteriors"] = [
            saved for saved in tree["posteriors"] if amortizes(tuple(saved["sources"]))
        ]
        return tree

    def _assembly(self, fitted) -> Assembly:
        """What builds the networks and samplers of a record."""
        shapes, device = fitted.source_shapes, self._torch_device()
        return Assembly(self, shapes, fitted.em.sigma_max, fitted.scale, device)

    def _torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device: found {self.device!r}, which this machine or torch does not have; "
                "expected auto, cpu, cuda, ..."
            ) from error
        return device

    def _sample_priors(self, n_samples, seed):
        progress, samples = Progress(self.progress), {}
        for source in self.sources_:
            rows = Rows.of(
                seed,
                _PRIOR,
                ids=np.repeat(source, n_samples),
                samples=np.arange(n_samples),
                device=self._torch_device(),
            )
            x = sample_prior(
                self._state.denoisers[source],
                self._state.gaussians[source],
                self.source_shapes_[source],
                rows,
                sampler=self.sampler,
                n_steps=4 * self.n_steps,
                batch_size=self.batch_size,
                track=lambda batches, source=source: progress(batches, f"{source} prior"),
            )
            samples[source] = u.Quantity(x.numpy() * self.noise_scale_, self.unit_)
        return samples

    def _provenance(self, seed):
        provenance = {"version": __version__, "seed": seed}
        file = self._learned.file
        if file is not None:
            with contextlib.suppress(OSError):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                provenance |= {"model": str(file.name), "sha256": digest}
        return provenance

    def _fingerprint(self, dataset, initial=None) -> str:
        """What must agree between a checkpoint and the fit that goes on from it."""
        views = {
            name: {
                instrument: {
                    "unit": str(image.unit),
                    "data": image.data,
                    "variance": image.variance,
                    "mask": image.mask,
                    "noise": None if image.noise is None else image.noise.state(),
                    "mixing": {source: op.state() for source, op in image.mixing.items()},
                }
                for instrument, image in view.images.items()
            }
            for name, view in dataset.items()
        }
        begin = {} if initial is None else {"initial": tree_from_state(initial._state)}
        return digest({"views": views, "config": self._model_config(), **begin})

    def _model_config(self):
        """The parameters, but for those of the machine and of who watches."""
        return {k: v for k, v in self.config.items() if k not in ("device", "progress")}

    def _resume(self, checkpoint, fingerprint):
        if checkpoint is None:
            raise InputError("resume: no checkpoint; expected the file to go on from")
        tree = read_tree(checkpoint, "model")
        if tree.get("fingerprint") != fingerprint:
            raise InputError(
                f"{checkpoint}: the checkpoint of a fit to other data or with another "
                "configuration; expected one of this fit"
            )
        return self._load(tree, checkpoint)

    def _tree(self, fitted):
        return {
            "kind": "model",
            "config": {
                **self._model_config(),
                "sources": None if self.sources is None else [*self.sources],
                "templates": [*self.templates],
            },
            **fitted.tree(),
        }

    def _load(self, tree, path) -> FittedState:
        try:
            return FittedState.from_tree(tree, self._assembly)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise InputError(f"{path}: no model of this version: {error}") from error
