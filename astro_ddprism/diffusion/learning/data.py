"""What networks are trained on: drawn images, and what would be observed of them."""

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from ...errors import InputError
from ..masks import lost_pixels
from ..parallel import on_device, room
from ..scratch import Drawn, row_parts, some_rows
from ..variety import Variety, centroids
from .symmetries import permutations, permuted
from .templates import symmetric_templates

__all__ = [
    "Simulations",
    "Turns",
    "Windows",
    "data_scale",
    "images",
    "images_of",
    "of_each",
]

# Quantiles of flux that are the faintest and the brightest, and the width of a bin of log flux.
FAINTEST, BRIGHTEST, FLUX_BIN = 0.05, 0.95, 0.35
# Of images more than these a quantile is that of some.
MOST_SORTED = 1 << 23
# Neighbours that are read at once from what does not fit on a device, and how many such runs there
# are at a time at least; fewest steps between two.
RUN, LEAST_RUNS, LEAST_STEPS = 1024, 8, 500


def images(
    samples: Tensor,
    symmetries: tuple[str, ...],
    device: torch.device,
    flux_factors: tuple[float, float] | None = None,
    *,
    about_pixel: bool = False,
    known: Tensor | None = None,
):
    """Images of one source to train on; they, and all that draws among them, are on the device.

    Parameters
    ----------
    samples : torch.Tensor or Drawn
        Clean sources, of shape ``(N, *shape)``, on any device. What lies in a file stays there, on
        a processor: those of a batch are read.
    symmetries : tuple of str
        Symmetries of the source; every image is transformed at random.
    device : torch.device
        Where to train.
    flux_factors : tuple of float, optional
        Images are multiplied by factors in this range, so that all fluxes become equally frequent:
        uniform in the logarithm, from that of faint samples (the quantile 0.05) by the lower factor
        to that of bright ones (0.95) by the upper one. So a prior of flux that is steep, as counts
        of galaxies are, becomes uninformative over the range of the samples and beyond.
    about_pixel : bool
        Whether images are transformed about the pixel of their position instead of their middle
        (`~astro_ddprism.diffusion.learning.symmetries.permutations`).
    known : torch.Tensor, optional
        What is known of each sample, of shape ``(N, ...)``.

    Returns
    -------
    callable
        Called with a number of images; returns a tuple of one tensor, ``(B, *shape)``, and of what
        is known of these.
    """
    if not isinstance(samples, Drawn):
        samples = samples.to(device).contiguous()
    elif device.type != "cpu":
        samples = on_device(samples, torch.arange(len(samples)), device)
    group = torch.zeros(1)
    if symmetries:
        group = permutations(symmetries, samples.shape[-2:], about_pixel=about_pixel).to(device)
    population = None if flux_factors is None else _FluxBalanced(samples, flux_factors)

    given = () if known is None else (known.to(device),)

    def draw(n: int) -> tuple[Tensor, ...]:
        if population is None:
            index = torch.randint(len(samples), (n,), device=device)
            x = samples[index]
        else:
            index, factor = population.draw(n)
            x = factor.view(-1, *(1,) * (samples.ndim - 1)) * samples[index]
        return permuted(x, group), *(each[index] for each in given)

    return draw


class _FluxBalanced:
    """Samples and factors whose products are uniform in the logarithm of their flux."""

    def __init__(self, samples: Tensor, factors: tuple[float, float]):
        flux = of_each(samples, lambda x: x.flatten(1).sum(dim=1))
        faint = flux.clip(min=0).quantile(FAINTEST).clip(min=1.0)
        log_flux, self._order = flux.clip(min=faint).log().sort()
        bins = ((log_flux - log_flux[0]) / FLUX_BIN).long()
        weight = 1 / torch.bincount(bins)[bins].double()
        self._log_flux = log_flux
        self._below = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
        self._low, self._high = map(math.log, factors)
        # Nothing is beyond the reach of the factors.
        self._first = log_flux[0] + self._low
        self._last = log_flux.quantile(BRIGHTEST) + self._high

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Some samples' rows and factors."""
        device = self._below.device
        wanted = self._first + (self._last - self._first) * torch.rand(n, device=device)
        # Of the samples within reach, any.
        start = torch.searchsorted(self._log_flux, wanted - self._high)
        end = torch.searchsorted(self._log_flux, wanted - self._low, right=True)
        start = start.clip(max=len(self._log_flux) - 1)
        end = torch.maximum(end, start + 1)
        u = torch.rand(n, dtype=torch.float64, device=device)
        place = self._below[start].lerp(self._below[end], u)
        row = (torch.searchsorted(self._below, place, right=True) - 1).clip(start, end - 1)
        factor = (wanted - self._log_flux[row]).clip(self._low, self._high).exp()
        return self._order[row], factor


class Turns:
    """Draws of several kinds, each as often as its weight says; which is next, no chance decides.

    Parameters
    ----------
    draws : sequence of callable
        Called with a number of images; see `images`.
    weights : sequence of float
        How often each takes its turn.
    renew : callable, optional
        Returns such draws again, of other parts of what does not fit on a device.
    n_rows : int
        How many rows the draws are of, where they can be renewed.
    """

    def __init__(self, draws, weights, renew=None, n_rows=0):
        self.draws = tuple(draws)
        self._shares = [weight / sum(weights) for weight in weights]
        self._due = [0.0] * len(self.draws)
        self._renew, self._n_rows = renew, n_rows

    @classmethod
    def of(cls, draw) -> "Turns":
        """Those of one draw; what takes turns stays as it is."""
        return draw if isinstance(draw, cls) else cls([draw], [1])

    def next(self) -> int:
        """The number of the draw whose turn it is."""
        self._due = [due + share for due, share in zip(self._due, self._shares, strict=True)]
        k = self._due.index(max(self._due))
        self._due[k] -= 1
        return k

    def phases(self, n_steps: int, batch_size: int):
        """Numbers of steps, all in all ``n_steps``, between which the draws become others.

        What is on a device takes part in about as many images as there are rows of it, and in no
        fewer than a few hundred steps.
        """
        if self._renew is None:
            yield n_steps
            return
        step = max(self._n_rows // batch_size, LEAST_STEPS)
        for done in range(0, n_steps, step):
            if done:
                self.draws = ()  # before there are others
                self.draws = tuple(self._renew())
            yield min(step, n_steps - done)


class Windows:
    """Rows of a table that does not fit on a device, some at a time.

    They come in runs of neighbours, as a disk reads them, in an order that torch's generator
    decides; all have come before one comes again.

    Parameters
    ----------
    n : int
        All rows.
    most : int
        Most rows at a time.
    """

    def __init__(self, n: int, most: int):
        self.n, self.most, self._waiting = n, most, []
        self._run = max(min(RUN, most // LEAST_RUNS), 1)

    @property
    def is_whole(self) -> bool:
        """Whether all fit."""
        return self.n <= self.most

    def next(self) -> Tensor:
        """Numbers of the rows that come next, on the host."""
        if not self._waiting:
            self._waiting = torch.randperm(-(-self.n // self._run)).tolist()
        k = max(self.most // self._run, 1)
        runs, self._waiting = self._waiting[:k], self._waiting[k:]
        rows = torch.tensor(sorted(runs))[:, None] * self._run + torch.arange(self._run)
        return rows[rows < self.n]


class Simulations:
    """Sources drawn from their priors, and what would be observed of them.

    Parameters
    ----------
    samples : dict of str to torch.Tensor
        Draws of each source of the views, of shape ``(N, *shape)``, in the views' order.
    loaders : sequence of Loader
        The observations of the views, whose operators and noise are used.
    symmetries : dict of str to tuple of str
        Symmetries of the sources.
    schedule : azula.noise.VESchedule
        The noise schedule of joint chains of the sources.
    learning : sequence of str
        The sources that are being learned.
    light : callable
        Called with one of these; returns all light of the views that hold it.
    seeing : mapping of str to torch.Tensor
        Of every draw, the width of the PSF through which it was seen, in pixels.
    held_out : mapping of str to torch.Tensor of bool
        Which draws are held out of what networks learn; none by default.

    Attributes
    ----------
    source_shapes : dict of str to tuple of int
    """

    def __init__(
        self, samples, loaders, *, symmetries, schedule, learning, light, seeing: Mapping,
        held_out: Mapping = MappingProxyType({}),
    ):  # fmt: skip
        self.samples, self.seeing, self.held_out = samples, seeing, held_out
        self.source_shapes = {source: tuple(x.shape[1:]) for source, x in samples.items()}
        self.schedule = schedule
        self._loaders = loaders
        self._symmetries = symmetries
        self._learning, self._light = learning, light

    @property
    def data_scale(self) -> float:
        """The largest typical root mean square of a source."""
        return max(data_scale(x) for x in self.samples.values())

    def of_templates(self, templates, *, all_light: bool) -> "Simulations":
        """The same with the symmetric parts of some sources in place of their draws.

        Parameters
        ----------
        templates : sequence of str
            The sources; those that are not being learned stay as they are.
        all_light : bool
            Whether to take all light of the views instead of the draws of the source.

        Returns
        -------
        Simulations

        Raises
        ------
        InputError
            If no image of such a source is symmetric.
        """
        samples, seeing, held_out = dict(self.samples), dict(self.seeing), dict(self.held_out)
        for source in set(templates) & set(self._learning) & set(samples):
            found, clean = symmetric_templates(
                self._light(source) if all_light else samples[source]
            )
            if not len(found):
                raise InputError(
                    f"templates: found no image of the source {source!r} that is symmetric about "
                    "its centre, expected some; leave it out of the templates"
                )
            samples[source], seeing[source] = found, seeing[source][clean]
            if source in held_out:
                held_out[source] = held_out[source][clean]
        return self._with(samples, seeing, held_out)

    def _with(self, samples, seeing, held_out=MappingProxyType({})) -> "Simulations":
        return Simulations(
            samples,
            self._loaders,
            symmetries=self._symmetries,
            schedule=self.schedule,
            learning=self._learning,
            light=self._light,
            seeing=seeing,
            held_out=held_out,
        )

    def split(self) -> "tuple[Simulations, Simulations | None]":
        """Those of draws to learn from, and those of draws that are held out.

        Observations are simulated under the conditions of all.

        Returns
        -------
        seen : Simulations
            All, where no draws of some source are held out.
        held_out : Simulations or None
        """
        if not all(s in self.held_out and self.held_out[s].any() for s in self.samples):
            return self, None
        return tuple(
            self._with(
                {s: some_rows(x, self.held_out[s] == held) for s, x in self.samples.items()},
                {s: x[self.held_out[s] == held] for s, x in self.seeing.items()},
            )
            for held in (False, True)
        )

    def draws(self, flux_factors, templates, variety: Variety) -> Turns:
        """Training data of a joint posterior.

        Parameters
        ----------
        flux_factors : dict of str to tuple of float
            Ranges of factors of the sources whose fluxes shall be equally frequent.
        templates : sequence of str
            Sources that lie at the pixel of their position.
        variety : Variety
            Conditions under which observations are simulated; those whose pixels share noise lose
            no pixels.

        Returns
        -------
        Turns
            Those of the views. Each is called with a number of images; returns joint vectors
            ``(B, D)``, and the `~astro_ddprism.diffusion.observation.JointObservation` of them.
        """
        device = self._loaders[0].device
        placed = [source in templates for source in self.samples]

        def of_view(priors, loader, masks, n):
            depth, seeing = None, None
            if variety.changes_conditions:
                depth, seeing = variety.conditions(n, device)
            parts = []
            for prior, template in zip(priors, placed, strict=True):
                x, own = prior(n)
                if variety.changes_light:
                    x = variety.seen(x, own, seeing, centroids(x) if template else None)
                parts.append(x.flatten(1))
            x = torch.cat(parts, dim=1)
            observation = loader.observe(torch.randint(len(loader), (n,), device=device))
            if variety.changes_conditions:
                observation = observation.under(depth, seeing)
            if masks:
                observation = observation.masked(partial(_lost_by_some, masks))
            return x, observation.simulated(x)

        most = room(device) / len(self.samples)
        samples = {s: Windows(len(x), _most_rows(x, most)) for s, x in self.samples.items()}
        views = [Windows(len(loader), loader.n_held) for loader in self._loaders]

        def draws():
            priors = []
            for source, x in self.samples.items():
                known = self.seeing[source]
                if not samples[source].is_whole:
                    rows = samples[source].next()
                    x, known = on_device(x, rows, device), known[rows.to(known.device)]
                factors = flux_factors.get(source)
                own = {"about_pixel": source in templates, "known": known}
                priors.append(images(x, self._symmetries[source], device, factors, **own))
            loaders = [
                loader if rows.is_whole else loader.part(rows.next().numpy())
                for loader, rows in zip(self._loaders, views, strict=True)
            ]
            return [
                partial(of_view, priors, each, variety.masks * each.independent) for each in loaders
            ]

        parts = [rows for rows in (*samples.values(), *views) if not rows.is_whole]
        return Turns(
            draws(),
            [len(loader) for loader in self._loaders],
            draws if parts else None,
            min((rows.most for rows in parts), default=0),
        )


def _lost_by_some(part, n, shape, device):
    some = torch.rand(n, 1, 1, 1, device=device) < part
    return lost_pixels(n, shape, device) & some


def data_scale(samples: Tensor) -> float:
    """Root mean square of a bright image, brighter than nine of ten."""
    rms = of_each(samples, lambda x: x.flatten(1).square().mean(dim=1).sqrt())
    rms = rms[:: -(-len(rms) // MOST_SORTED)]
    return float(rms.quantile(0.9))


def of_each(samples: Tensor, function) -> Tensor:
    """What a function makes of images, a part of them at a time."""
    size = 4 * math.prod(samples.shape[1:])
    return torch.cat([function(samples[rows]) for rows in row_parts(len(samples), size)])


def images_of(samples, symmetries, device):
    """The training data of a prior: `images`, or `Turns` of parts of samples that do not fit."""
    windows = Windows(len(samples), _most_rows(samples, room(device)))
    if windows.is_whole:
        return images(samples, symmetries, device)

    def draws():
        return [images(on_device(samples, windows.next(), device), symmetries, device)]

    return Turns(draws(), [1], draws, windows.most)


def _most_rows(samples, most: float) -> int:
    """How many images may be on a device at a time."""
    return int(min(max(most / (4 * math.prod(samples.shape[1:])), 1), len(samples)))
