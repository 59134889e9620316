"""What a fit does, step by step, and how long that takes on this machine.

The steps are those of `~astro_ddprism.diffusion.learning.em`. Their time is that of evaluating
networks, and of that the time is measured, in the second before the fit begins, on a batch of
noise. It is an estimate: what simulations, solvers and the warm start take beside is a factor.
"""

__all__ = ["FitBar", "Step", "duration_text", "plan_fit"]

import math
import time
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm

from ..diffusion.learning.stages import plan_stages
from ..diffusion.posteriors.amortized import AmortizedPosterior
from ..diffusion.priors.denoiser import SourceDenoiser
from ..diffusion.random import seeded
from ..progress import is_watched

# Of the time of a network's evaluations in training and in chains: what else is done beside them.
BESIDE = 1.3
# A training step costs about three evaluations, a product with a Jacobian about two.
TRAINING, PRODUCT = 3.0, 2.0
# Evaluations of a small network that a Gaussian draw or an iteration of the warm start is worth.
GAUSSIAN = 0.5


@dataclass(frozen=True)
class Step:
    """One step of a fit.

    Attributes
    ----------
    title : str
        What it is called.
    seconds : float
        How long it takes, by estimate.
    iterations : int
        Of its loop.
    """

    title: str
    seconds: float
    iterations: int


def plan_fit(separator, loaders, shapes, state) -> list[Step]:
    """The steps that lie before a fit of diffusion priors.

    Parameters
    ----------
    separator : DiffusionSourceSeparator
        Its configuration.
    loaders : mapping of str to Loader
        The observations of the views.
    shapes : dict of str to tuple of int
        The sources.
    state : EMState
        Where the fit begins.

    Returns
    -------
    steps : list of Step
    """
    return list(_Plan(separator, loaders, shapes, state).steps())


class _Plan:
    def __init__(self, separator, loaders, shapes, state):
        self.separator, self.loaders, self.shapes = separator, loaders, shapes
        self.state, self.known = state, set(state.priors.denoisers)
        self.learned = set(state.priors.learned)
        self.n_iterations = separator._n_em_iterations(shapes)
        self.costs = {}

    def steps(self):
        stages = plan_stages({name: loader.sources for name, loader in self.loaders.items()})
        for number, stage in enumerate(stages[self.state.stage :], self.state.stage):
            first = self.state.iteration if number == self.state.stage else 0
            last = max(self.n_iterations[source] for source in stage.sources)
            if first == 0 and set(stage.sources) <= self.known:
                first = 1
            names = ", ".join(stage.sources)
            if first == 0:
                n = sum(len(self.loaders[name]) for name in stage.views)
                rounds = getattr(self.separator.warm_start, "iterations", 1)
                cost = sum(self._cost(source) for source in stage.sources)
                yield Step(f"{names} warm start", n * rounds * GAUSSIAN * cost, rounds)
            for iteration in range(first, last + 1):
                for name in stage.views:
                    n, most = len(self.loaders[name]), self.separator.training.n_observations
                    n = min(n, most or n) if first < iteration < last else n
                    yield self._e_step(name, n, f"{names} E-step {iteration}/{last}")
                yield from self._m_steps(stage, names, iteration, last)

    def _e_step(self, name, n, title):
        loader, sources = self.loaders[name], self.loaders[name].sources
        method = self.separator.posterior.method_for(loader.source_shapes)
        _, n_steps = method.steps(self.separator.chains)
        if method.learns and sources in self.learned:
            each = n_steps * self._joint_cost(sources)
        elif any(source in self.known for source in sources):
            solver = getattr(getattr(method, "otherwise", method), "solver", None)
            products = 1 + getattr(solver, "iterations", 1)
            _, n_steps = getattr(method, "otherwise", method).steps(self.separator.chains)
            cost = sum(self._cost(source) for source in sources)
            each = n_steps * (1 + PRODUCT * products) * cost
        else:
            each = GAUSSIAN * sum(self._cost(source) for source in sources)
        batches = math.ceil(n / self.separator.execution.n_at_a_time)
        return Step(title, BESIDE * n * each, batches)

    def _m_steps(self, stage, names, iteration, last):
        held = dict.fromkeys(self.loaders[name].sources for name in stage.views)
        method_for = self.separator.posterior.method_for
        methods = {h: method_for({s: self.shapes[s] for s in h}) for h in held}
        training, learning = self.separator.training, set()
        for sources, method in methods.items():
            if method.learns and iteration >= min(method.n_matched, last):
                learning.add(sources)
                n_images = getattr(method, "n_images", training.n_first_images)
                n_images = n_images // 3 if sources in self.learned else n_images
                self.learned.add(sources)
                title = f"{names} posterior M-step {iteration}/{last}"
                yield self._training(title, n_images, self._joint_cost(sources))
        asking = {s for h in methods if h not in learning for s in h}
        for source in stage.sources:
            if iteration == last or source in asking:
                n_images = training.n_images if source in self.known else training.n_first_images
                self.known.add(source)
                title = f"{names} M-step {iteration}/{last}"
                yield self._training(title, n_images, self._cost(source))

    def _training(self, title, n_images, cost):
        n_steps = max(n_images // self.separator.training.batch_size, 20)
        seconds = BESIDE * TRAINING * cost * n_steps * self.separator.training.batch_size
        return Step(title, seconds, n_steps)

    def _cost(self, source) -> float:
        """Seconds of an evaluation of the network of a prior, for one image."""
        network = self.separator._networks(self.shapes)[source]
        return self._measured(network, self.shapes[source], SourceDenoiser.n_features)

    def _joint_cost(self, sources) -> float:
        bands, *size = self.shapes[sources[0]]
        network = getattr(self.separator.posterior, "network", None)
        network = network or self.separator._networks(self.shapes)[sources[0]]
        shape = (len(sources) * bands, *size)
        return self._measured(network, shape, AmortizedPosterior.n_features)

    def _measured(self, network, shape, n_features) -> float:
        key = network, shape, n_features
        if key not in self.costs:
            device = self.separator.device_
            n = self.separator.training.batch_size
            with seeded(0, device=device):
                backbone = network.build(shape, n_features).to(device)
                x = torch.randn(n, n_features, *shape, device=device)
            noise, times = torch.zeros(1, device=device), []
            for _ in range(3):
                began = time.perf_counter()
                loss = backbone(x, noise).square().mean()
                loss.backward()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - began)
            self.costs[key] = min(times) / n / TRAINING
        return self.costs[key]


def duration_text(seconds) -> str:
    """A duration as one would say it.

    Examples
    --------
    >>> from astro_ddprism.separator.plan import duration_text
    >>> [duration_text(s) for s in (3, 100, 5000, 90000)]
    ['less than a minute', 'about 2 minutes', 'about 1.4 hours', 'about 25 hours']
    """
    if seconds < 60:
        return "less than a minute"
    if seconds < 5400 / 1.5:
        n = round(seconds / 60)
        return f"about {n} minute{'s' * (n > 1)}"
    hours = seconds / 3600
    return f"about {hours:.2g} hours"


@dataclass
class FitBar:
    """One bar for all steps of a fit, in place of one each.

    Parameters
    ----------
    steps : list of Step
        What lies before it.
    shown : bool
        Whether there is a bar, where somebody looks.
    """

    steps: list[Step]
    shown: bool = True
    done: dict = field(default_factory=dict)

    def __post_init__(self):
        self.known = {}
        for step in self.steps:  # views of one stage share a title
            self.known[step.title] = self.known.get(step.title, 0.0) + step.seconds
        self.bar, self.at, self.total = None, 0.0, sum(self.known.values())

    def __enter__(self):
        self.bar = tqdm(
            total=self.total,
            disable=not (self.shown and is_watched()),
            leave=False,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        )
        return self

    def __exit__(self, *_):
        self.bar.close()

    def __call__(self, iterable, description, *, total=None):
        """Iterate, and move the bar.

        Parameters
        ----------
        iterable : iterable
            What to iterate over.
        description : str
            Title of the step.
        total : int, optional
            Number of items, where the iterable cannot tell.
        """
        number = self.done.setdefault(description, len(self.done) + 1)
        n_steps = max(len(self.known), len(self.done))
        self.bar.set_description(f"step {number} of {n_steps}: {description}")
        n = total or (len(iterable) if hasattr(iterable, "__len__") else 1)
        weight = self.known.pop(description, 0.0) / max(n, 1)  # drawn again, it is no new work
        self.known.setdefault(description, 0.0)
        for item in iterable:
            yield item
            moved = min(weight, self.total - self.at)
            self.at += moved
            self.bar.update(moved)
