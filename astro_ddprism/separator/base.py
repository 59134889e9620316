r"""What every separator is: learn from views, separate observations, keep what was learned.

The observations of a view are :math:`y = \sum_\beta A^\beta x^\beta + \eta`. `SourceSeparator.fit`
learns what the sources :math:`x^\beta` are like; `SourceSeparator.sample` draws all sources of an
observation from their joint posterior, or each from its prior; `SourceSeparator.log_prob` evaluates
priors. Checks, units, seeds, files and provenance are here; a method writes `_fit`, `_draw`,
`_state_tree` and `_from_tree`, and what it can do of `_draw_prior` and `_log_prob`, in the core's
units.

Fluxes are linear throughout; inside, they are in units of the median noise of the dataset that the
separator was fitted to, ``noise_scale_``. Maggies are those of the AB system.
"""

__all__ = ["SourceSeparator", "Task"]

import abc
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Self, overload

import numpy as np
import torch
from astropy import units as u

from ..diffusion import ranks
from ..diffusion.random import Rows
from ..errors import InputError
from ..io.asdf import write_tree
from ..io.outputs import locked
from ..posterior.samples import PosteriorSamples
from ..progress import Progress
from ..steps import step
from ..units import AB_FLUX
from .checks import as_dataset, as_seed, as_view, usable
from .configured import SEPARATORS
from .loader import ViewLoader
from .model import Model
from .state import FittedState

logger = logging.getLogger(__name__)

# Purposes of random numbers outside the fit.
_POSTERIOR, _PRIOR = 100, 101


@dataclass(frozen=True)
class Task:
    """What a method is given to learn from.

    Attributes
    ----------
    loaders : dict of str to `~astro_ddprism.diffusion.observation.Loader`
        The observations of the views.
    source_shapes : dict of str to tuple of int
        The sources, and their shapes.
    track : callable
        Called with an iterable and a description; returns the iterable in a progress bar.
    begin
        The state to go on from: None, that of a model, or that of an unfinished fit.
    save : callable
        Called with a state, and the sources that it has not learned yet, wherever a fit that is
        killed later could go on.
    """

    loaders: Mapping
    source_shapes: dict[str, tuple[int, ...]]
    track: Callable
    begin: object = None
    save: Callable | None = None


@dataclass(eq=False)
class SourceSeparator(Model):
    """Learns the sources of views, and separates observations into them.

    Parameters
    ----------
    sources : sequence of str, optional
        The sources that the dataset must hold; by default whatever it holds.
    device : str, optional
        Short for an ``execution`` on this device: ``"auto"`` (a GPU where there is one), ``"cpu"``,
        ``"cuda"``, ...
    execution : Execution
        Where and how to compute.
    in_units_of_noise : bool
        Whether fluxes are learned in units of the noise of each view's images: for models of
        several bands, depths or surveys, whose images then need no zero point.
    seed : int
        Of all random numbers: the same seed on the same device repeats a fit, and the draws of an
        observation depend on nothing but the seed and the observation's id.
    progress : bool
        Whether to show progress bars on standard error.

    Attributes
    ----------
    sources_ : tuple of str
        The sources that were learned.
    source_shapes_ : dict of str to tuple of int
        Their shapes.
    before_psf_ : bool
        Whether any of them is light before a PSF.
    unit_ : astropy.units.Unit
        Unit of flux.
    noise_scale_ : float
        The flux, in ``unit_``, that is 1 inside: the dataset's median noise, or what it was in the
        model that the fit started from; 1 of no unit in units of the noise.
    training_ : `~astro_ddprism.separator.checks.TrainingData`
        What it was learned from: numbers of observations, and pixel scale, PSF, noise and bands of
        the images.
    device_ : torch.device
        Where it computes.
    """

    # -- learning --------------------------------------------------------------------------------

    def fit(self, dataset, *, initial=None, checkpoint=None, resume=False) -> Self:
        """Learn the sources of a dataset.

        Parameters
        ----------
        dataset : MultiViewDataset
            The views.
        initial : SourceSeparator or path-like, optional
            A model of the same sources to start from (to fine-tune), or its file or name.
        checkpoint : path-like, optional
            An ASDF file that is replaced wherever a fit that was killed could go on.
        resume : bool
            Go on from ``checkpoint``. The fit ends where an unbroken one would have.

        Returns
        -------
        SourceSeparator
            The separator itself.

        Raises
        ------
        InputError
            If the dataset does not hold the sources asked for, the checkpoint is of another fit, or
            ``initial`` does not fit. What was learned before stays as it was, as it does if the fit
            is interrupted.
        """
        dataset = as_dataset(dataset)
        self._check_dataset(dataset)
        if initial is not None and not isinstance(initial, SourceSeparator):
            initial = type(self).read(initial, self.execution.device)
        fingerprint = self._fingerprint(dataset, initial)
        fitted = FittedState.before(
            dataset,
            None if initial is None else initial._learned,
            of_noise=self.in_units_of_noise,
            seeing=self._seeing,
        )
        fitted = replace(fitted, fingerprint=fingerprint)
        begin = None
        alone = checkpoint is not None and ranks.is_first()
        with locked(checkpoint) if alone else nullcontext():
            if resume:
                fitted = self._resume(checkpoint, fingerprint)
                begin = fitted.state
            elif initial is not None:
                begin = self._begin_from(initial, fitted)

            saved = resume

            def save(state, unfinished):
                nonlocal saved
                saved = saved or checkpoint is not None
                if checkpoint is not None and ranks.is_first():
                    tree = self._tree(replace(fitted, state=state), draws=True)
                    write_tree(checkpoint, {**tree, "unfinished": list(unfinished)}, overwrite=True)

            loaders = {
                name: ViewLoader(
                    view, fitted.scale(view), self.execution.torch_device, usable(view)
                )
                for name, view in dataset.items()
            }
            task = Task(loaders, fitted.source_shapes, self._bars, begin, save)
            try:
                state = self._fit(task)
            except BaseException as error:
                if saved or isinstance(error, KeyboardInterrupt):
                    error.add_note(_how_to_go_on(checkpoint, saved))
                raise
        self._fitted = replace(fitted, state=state)
        return self

    # -- drawing ---------------------------------------------------------------------------------

    @overload
    def sample(
        self, view: None = None, n_samples: int = 1, *, seed=None
    ) -> dict[str, u.Quantity]: ...

    @overload
    def sample(self, view: object, n_samples: int = 1, *, seed=None) -> PosteriorSamples: ...

    @step("sampling")
    def sample(self, view=None, n_samples=1, *, seed=None):
        """Draw from the joint posterior of observations, or from the priors.

        Parameters
        ----------
        view : View, MultiInstrumentView or MultiViewDataset, optional
            The observations, of any of the learned sources; of a dataset, its view that holds the
            most sources.
        n_samples : int
            Number of draws (for each observation).
        seed : int or numpy.random.Generator, optional
            Of the random numbers; by default the separator's. A generator draws one.

        Returns
        -------
        PosteriorSamples or dict of str to Quantity
            Joint posterior samples; or, without a view, prior samples of every source, each of
            shape ``(n_samples, *shape)``.

        Raises
        ------
        InputError
            If the view's sources, their shapes, its unit or whether it has a PSF do not fit the
            model; or it is no view: the message says how views are made of what was given.
        """
        fitted = self._learned
        if not isinstance(n_samples, int | np.integer) or n_samples < 1:
            raise InputError(f"n_samples: found {n_samples!r}, expected a positive integer")
        seed = as_seed(self.seed if seed is None else seed)
        if view is None:
            return {
                source: self._prior_samples(source, n_samples, seed) for source in self.sources_
            }
        view = as_view(view)
        fitted.check_view(view)
        scale, device = fitted.scale(view), self.device_
        used = usable(view)
        index = np.repeat(used, n_samples)
        rows = Rows.of(
            seed,
            _POSTERIOR,
            ids=view.ids[index],
            samples=np.tile(np.arange(n_samples), len(used)),
            device=device,
        )
        progress = self._bars
        draws = self._draw(
            fitted.state,
            ViewLoader(view, scale, device),
            index,
            rows,
            lambda batches: progress(batches, "posterior samples"),
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
        x = np.full((n_samples, len(view), draws.x.shape[1]), np.nan, np.float32)
        x[:, used] = draws.x.unflatten(0, (len(used), n_samples)).transpose(0, 1).numpy()
        sizes = np.cumsum([np.prod(self.source_shapes_[s]) for s in view.sources])[:-1]
        samples = {
            source: part.reshape(n_samples, len(view), *self.source_shapes_[source]) * scale
            for source, part in zip(view.sources, np.split(x, sizes, axis=-1), strict=True)
        }
        return PosteriorSamples(samples, view, provenance=self._provenance(seed), device=device)

    def _prior_samples(self, source, n_samples, seed) -> u.Quantity:
        rows = Rows.of(
            seed,
            _PRIOR,
            ids=np.repeat(source, n_samples),
            samples=np.arange(n_samples),
            device=self.device_,
        )
        progress = self._bars
        x = self._draw_prior(
            self._learned.state, source, rows, lambda batches: progress(batches, f"{source} prior")
        )
        x = x.reshape(n_samples, *self.source_shapes_[source])
        return u.Quantity(x.numpy() * self.noise_scale_, self.unit_)

    def log_prob(self, x, source, *, n_probes=None, seed=None, return_error=False):
        """Log density of candidate sources under a learned prior.

        Parameters
        ----------
        x : Quantity or ndarray, shape (N, *shape)
            Candidates; without a unit in ``unit_``.
        source : str
            Which source they are candidates of.
        n_probes : int, optional
            Random probes, for methods that estimate it by such.
        seed : int or numpy.random.Generator, optional
            Of the probes.
        return_error : bool
            Whether to return the standard error as well.

        Returns
        -------
        log_prob : ndarray, shape (N,)
            In nats, of the density over fluxes in ``unit_``.
        error : ndarray, shape (N,)
            Standard error of its estimate, if ``return_error``.

        Raises
        ------
        InputError
            If the source was not learned or the candidates have another shape or unit.
        """
        fitted = self._learned
        if source not in fitted.sources:
            raise InputError(f"source: {source!r}; expected one of {', '.join(fitted.sources)}")
        shape = fitted.source_shapes[source]
        try:
            values = u.Quantity(x, getattr(x, "unit", fitted.unit)).to_value(fitted.unit, AB_FLUX)
        except u.UnitConversionError as error:
            raise InputError(f"x: unit {x.unit}; expected {fitted.unit}") from error
        if values.shape[1:] != shape:
            raise InputError(f"x: shape {values.shape}; expected (N, {', '.join(map(str, shape))})")
        values = torch.as_tensor(values / fitted.noise_scale, dtype=torch.float32)
        progress = self._bars
        log_prob, error = self._log_prob(
            fitted.state,
            source,
            values.to(self.device_),
            n_probes=n_probes,
            seed=as_seed(self.seed if seed is None else seed),
            track=lambda batches: progress(batches, "log_prob"),
        )
        log_prob = log_prob.cpu().numpy() - np.prod(shape) * np.log(fitted.noise_scale)
        return (log_prob, error.cpu().numpy()) if return_error else log_prob

    @property
    def _seeing(self) -> tuple[float, ...]:
        """The range of widths of the PSF, in pixels, beside the images' own; or none."""
        return ()

    @property
    def _bars(self) -> Progress:
        return Progress(self.progress and ranks.is_first())

    # -- what a method writes --------------------------------------------------------------------

    @abc.abstractmethod
    def _fit(self, task: Task):
        """Learn, and return the state of what was learned."""

    @abc.abstractmethod
    def _draw(self, state, loader, index, rows: Rows, track):
        """Draw all sources once for each observation of ``index``.

        Returns `~astro_ddprism.diffusion.sampling.chains.Draws`, in their order.
        """

    def _draw_prior(self, state, source, rows: Rows, track) -> torch.Tensor:  # noqa: ARG002
        """Draw a source from its prior, once for each row: ``(B, ...)`` on the CPU."""
        raise InputError(f"{SEPARATORS.name_of(self)}: found a method without prior draws")

    def _log_prob(self, state, source, values, *, n_probes, seed, track):  # noqa: ARG002
        """Log density of vectors ``(N, *shape)``, and its error, each of shape ``(N,)``."""
        raise InputError(f"{SEPARATORS.name_of(self)}: found a method without densities")

    def _begin_from(self, initial: "SourceSeparator", fitted: FittedState):  # noqa: ARG002
        """The state of a fit that starts from another model."""
        raise InputError(f"initial: {SEPARATORS.name_of(self)} does not start from models")

    def _check_dataset(self, dataset):
        held = tuple(dataset.sources)
        if self.sources is not None and set(self.sources) != set(held):
            raise InputError(
                f"dataset: holds the sources {', '.join(held)}; expected {', '.join(self.sources)}"
            )


def _how_to_go_on(checkpoint, saved) -> str:
    """What to do after an interruption."""
    if not saved:
        then = "" if checkpoint is None else f" (nothing was written to {checkpoint} yet)"
        return f"what the separator had learned before is as it was; begin the fit anew{then}"
    return (
        "what the separator had learned before is as it was; to go on from the last EM iteration, "
        f"fit(..., checkpoint={str(checkpoint)!r}, resume=True) (ddprism fit --resume)"
    )
