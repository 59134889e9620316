"""The observations of a view as the core asks for them: whitened, in batches, on a device."""

__all__ = ["ViewLoader"]

import numpy as np
import torch

from ..diffusion.observation import JointObservation


class ViewLoader:
    """The `~astro_ddprism.diffusion.observation.Loader` of a view.

    Parameters
    ----------
    view : View or MultiInstrumentView
        The observations.
    scale : float
        The flux, in the view's unit, that is 1 in the core.
    device : torch.device
        Where batches are.
    """

    def __init__(self, view, scale: float, device: torch.device):
        self.view, self.scale, self.device = view, scale, device
        self.ids = view.ids
        self.source_shapes = view.source_shapes
        self.n_observed = sum(image.data[0].size for image in view.images.values())

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(self.source_shapes)

    def __len__(self):
        return len(self.view)

    def n_valid(self, index) -> np.ndarray:
        """Number of informative pixels of some observations."""
        return self.view.n_valid(index)

    def masked(self, index) -> np.ndarray | None:
        """Which pixels of some observations carry no information; None of several images."""
        images = list(self.view.images.values())
        return images[0].mask[index] if len(images) == 1 else None

    def observe(self, index, change=None) -> JointObservation:
        """Some observations, whitened.

        Parameters
        ----------
        index : numpy.ndarray of int
            Which; repeats are allowed.
        change : callable, optional
            Called with the batch of them; returns another.
        """
        batch = self.view.batch(index, scale=self.scale, device=self.device, dtype=torch.float32)
        batch = batch if change is None else change(batch)
        once, inverse = np.unique(index, return_inverse=True)

        def distinct():
            return self.observe(once), torch.as_tensor(inverse, device=self.device)

        return JointObservation(
            batch, self.source_shapes, None if len(once) == len(index) else distinct
        )
