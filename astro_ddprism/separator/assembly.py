"""Networks and samplers, built as the parameters of a separator say."""

__all__ = ["Assembly"]

import torch
from azula.noise import VESchedule

from ..diffusion.learning.symmetries import SYMMETRIES
from ..diffusion.networks.base import BACKBONES
from ..diffusion.posteriors.amortized import AmortizedPosterior
from ..diffusion.posteriors.solvers import SOLVERS
from ..diffusion.priors.denoiser import SourceDenoiser
from ..diffusion.priors.mixture import MixtureResidualDenoiser
from ..diffusion.sampling.chains import JointSampler
from ..errors import InputError


class Assembly:
    """Builds what a separator learns and draws with.

    Parameters
    ----------
    parameters : `~astro_ddprism.DiffusionSourceSeparator`
        Whose parameters they are.
    source_shapes : dict of str to tuple of int
        Shapes of all sources.
    sigma_max : dict of str to float
        The largest noise scales of the priors that are known: those of the warm start, which fills
        it in; the parameters' own until then.
    scale : callable
        Called with a view; returns the flux, in the view's unit, that is 1 in the core.
    device : torch.device
        Where networks are and chains run.
    """

    def __init__(self, parameters, source_shapes, sigma_max, scale, device):
        self.parameters = parameters
        self.source_shapes = source_shapes
        self.scale = scale
        self.device = device
        self._sigma_max = sigma_max

    def schedule(self, sources, factor=1) -> VESchedule:
        """The noise schedule of chains of some sources, to the largest of their noise scales."""
        own = self.parameters
        top = max(self._sigma_max.get(source, own.sigma_max) for source in sources)
        return VESchedule(own.sigma_min, factor * top)

    def symmetries(self, source) -> tuple[str, ...]:
        """Symmetries of a source; those of a square image if the parameters do not tell.

        Raises
        ------
        InputError
            If the parameters tell symmetries of a source that is no square image.
        """
        shape = self.source_shapes[source]
        square = len(shape) == 3 and shape[-1] == shape[-2]
        chosen = (self.parameters.symmetries or {}).get(source, SYMMETRIES if square else ())
        if chosen and not square:
            raise InputError(
                f"symmetries[{source!r}]: {list(chosen)} of a source of shape {shape}; "
                "expected a square image"
            )
        return tuple(chosen)

    def networks(self) -> tuple[dict[str, str], dict]:
        """What the networks of the priors are: names by source, and options."""
        names = {source: self._network(source) for source in self.source_shapes}
        return names, _listed(self.parameters.network_options)

    def posterior_options(self) -> dict:
        """Options of the networks of amortized posteriors."""
        return _listed(getattr(self.parameters, self._posterior_option()))

    def denoiser(self, source, data_scale, mixture=None) -> SourceDenoiser:
        """An untrained denoiser of a source.

        Raises
        ------
        InputError
            If no network can be built so.
        """
        label, shape = f"the source {source!r}", self.source_shapes[source]
        backbone = self._backbone(
            self._network(source), shape, SourceDenoiser, "network_options", label
        )
        if mixture is None:
            denoiser = SourceDenoiser(backbone, self.schedule([source]), data_scale)
        else:
            denoiser = MixtureResidualDenoiser(
                backbone, self.schedule([source]), data_scale, mixture
            )
        return denoiser.to(self.device)

    def amortizes(self, sources) -> bool:
        """Whether sources have an amortized posterior: several images of one shape do."""
        shapes = {self.source_shapes[source] for source in sources}
        several = len(sources) > 1 and len(shapes) == 1 and all(len(shape) == 3 for shape in shapes)
        return self.parameters.posterior == "amortized" and several

    def posterior(self, sources, data_scale) -> AmortizedPosterior:
        """An untrained denoiser of the joint posterior of sources.

        Raises
        ------
        InputError
            If no network can be built so.
        """
        bands, *size = self.source_shapes[sources[0]]
        label = f"the posterior of {', '.join(sources)}"
        shape, option = (len(sources) * bands, *size), self._posterior_option()
        backbone = self._backbone("unet", shape, AmortizedPosterior, option, label)
        # Its chains begin far above any light: there is no prior to say where it may be.
        schedule = self.schedule(sources, 10)
        precision = getattr(torch, self.parameters.precision)
        return AmortizedPosterior(backbone, schedule, data_scale, precision).to(self.device)

    def sampler(self, denoisers, gaussians, mixtures, posteriors) -> JointSampler:
        """A sampler of the joint posterior under some priors."""
        own = self.parameters
        return JointSampler(
            denoisers,
            gaussians,
            mixtures,
            posteriors,
            schedule=self.schedule,
            source_shapes=self.source_shapes,
            scale=self.scale,
            device=self.device,
            sampler=own.sampler,
            n_steps=own.n_steps,
            solver=SOLVERS[own.solver](own.solver_iterations),
            batch_size=own.batch_size,
            max_chi2=own.max_chi2,
            n_candidates=own.n_candidates,
            n_redraws=own.n_redraws,
        )

    def _network(self, source) -> str:
        is_image = len(self.source_shapes[source]) == 3
        return self.parameters.network or ("unet" if is_image else "mlp")

    def _posterior_option(self) -> str:
        return "posterior_options" if self.parameters.posterior_options else "network_options"

    def _backbone(self, name, shape, denoiser, option, label):
        options = getattr(self.parameters, option)
        try:
            return BACKBONES[name](shape, denoiser.n_features, **options)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{option}: no {name} for {label} of shape {shape} with {options}: {error}"
            ) from error


def _listed(options) -> dict:
    """Options as a file keeps them, with lists for tuples."""
    return {k: list(value) if isinstance(value, tuple) else value for k, value in options.items()}
