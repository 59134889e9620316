"""The observations of a view as the core asks for them: whitened, in batches, on a device.

A view that fits on a GPU is there as a whole, once, and with it what depends on an observation's
row alone: batches are then rows of tensors, which the device picks without a word to the host. Of a
view that does not fit, every batch comes from the host; a GPU trains on parts of it, one after the
other, each of which is there as a whole. A processor has small views so, and makes the batches of
others where they lie, in memory or in a file: they are never in memory once more.
"""

__all__ = ["ViewLoader"]

from functools import cached_property

import numpy as np
import torch
from astropy import units as u
from torch import Tensor

from ..diffusion.observation import JointObservation
from ..io.mapped import release_pages
from ..mixing.base import MixingOperator
from ..mixing.noise import Noise
from ..views.base import Batch

# Bytes of a view that may be in a processor's memory once more; of a part of one on a GPU, and
# the part of a GPU's free memory that one may take.
MOST_BYTES, PART_BYTES, MOST_OF_FREE = 1 << 26, 1 << 30, 0.25
# Observations at a time whose information is found.
AT_A_TIME = 256


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
    rows : numpy.ndarray of int, optional
        Which of the observations there are; all by default.
    """

    def __init__(self, view, scale: float, device: torch.device, rows=None):
        self.view, self.scale, self.device = view, scale, device
        self.rows = np.arange(len(view)) if rows is None else np.asarray(rows)
        self.ids = view.ids[self.rows]
        self.source_shapes = view.source_shapes
        self.n_observed = sum(image.data[0].size for image in view.images.values())

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(self.source_shapes)

    def __len__(self):
        return len(self.rows)

    def n_valid(self, index) -> np.ndarray:
        """Number of informative pixels of some observations."""
        return self.view.n_valid(self.rows[index])

    def masked(self, index) -> np.ndarray | None:
        """Which pixels of some observations carry no information; None of several images."""
        images = list(self.view.images.values())
        masked = images[0].mask[self.rows[index]] if len(images) == 1 else None
        release_pages()
        return masked

    @property
    def declinations(self) -> np.ndarray | None:
        """Where on the sky the observations are, in degrees; None where it is not known."""
        known = self.view.coordinates
        return None if known is None else known.icrs.dec.deg[self.rows]

    @cached_property
    def independent(self) -> bool:
        """Whether the noise of every pixel is its own."""
        return not any(noise.factors_size for noise in _noises(self.view[:1]))

    @cached_property
    def seeing(self) -> float | None:
        """Width of the PSF through which the sources are seen, in pixels: its mean over the bands.

        None of several images, of sources before a PSF, or where it is not known.
        """
        images = list(self.view.images.values())
        known = images[0].conditions
        if len(images) != 1 or known is None or known.psf_fwhm is None:
            return None
        if any(operator.before_psf for operator in images[0].mixing.values()):
            return None
        return float((known.psf_fwhm / known.pixel_scale).to_value(u.one).mean())

    @cached_property
    def is_whole(self) -> bool:
        """Whether the whole view is on the device: it takes 64 MiB at most, of a GPU a quarter."""
        most = MOST_BYTES
        if self.device.type == "cuda":
            most = MOST_OF_FREE * torch.cuda.mem_get_info(self.device)[0]
        if self._each * len(self) > most:
            return False
        factors = sum(noise.factors_size for noise in _noises(self.view))
        return self._each * len(self) + factors <= most

    @cached_property
    def _each(self) -> float:
        """Bytes of an observation on the device."""
        few = min(len(self), 2)
        information = 8 * sum(np.prod(shape) for shape in self.source_shapes.values())
        return _size(_ready(self._batch(np.arange(few)))) / few + information

    @property
    def n_held(self) -> int:
        """Of how many observations batches may be picked on the device.

        All, where the view `is_whole`, and on a processor, which reads them where they are; else
        those of a GiB.
        """
        if self.is_whole or self.device.type == "cpu":
            return len(self)
        return min(max(int(PART_BYTES / self._each), 1), len(self))

    def part(self, index) -> "ViewLoader":
        """The loader of some of the observations."""
        return type(self)(self.view, self.scale, self.device, self.rows[index])

    def observe(self, index) -> JointObservation:
        """Some observations, whitened.

        Parameters
        ----------
        index : numpy.ndarray of int, or torch.Tensor
            Which; repeats are allowed. Of a tensor on the device nothing is known on the host, and
            nothing is asked, where the view `is_whole`.
        """
        if isinstance(index, Tensor):
            if self.is_whole:
                return self._observe(index, None)
            index = index.cpu().numpy()
        once, inverse = np.unique(index, return_inverse=True)

        def distinct():
            return self.observe(once), torch.as_tensor(inverse, device=self.device)

        return self._observe(index, None if len(once) == len(index) else distinct)

    def _observe(self, index, distinct) -> JointObservation:
        if not self.is_whole:
            batch = self._batch(index)
            return JointObservation(batch, self.source_shapes, distinct, seeing=self.seeing)
        rows = torch.as_tensor(index, device=self.device)
        images = self._images(index, rows)

        def information():
            return tuple(part[rows] for part in self._information)

        if any(image.noise.depends_on_signal for image in images):
            information = None
        return JointObservation(images, self.source_shapes, distinct, information, self.seeing)

    def _images(self, index, rows: Tensor) -> tuple[Batch, ...]:
        # Equal noise of several rows is found on the host, where the host knows the rows.
        return tuple(
            Batch(
                image.y[rows],
                {source: operator[rows] for source, operator in image.mixing.items()},
                image.noise[index],
            )
            for image in self._whole
        )

    @cached_property
    def _whole(self) -> tuple[Batch, ...]:
        return _ready(self._batch(slice(None)))

    @cached_property
    def _information(self) -> tuple[Tensor, Tensor]:
        parts = []
        for i in range(0, len(self), AT_A_TIME):
            some = np.arange(i, min(i + AT_A_TIME, len(self)))
            images = self._images(some, torch.as_tensor(some, device=self.device))
            parts.append(JointObservation(images, self.source_shapes).information)
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _batch(self, index):
        batch = self.view.batch(
            self.rows[index], scale=self.scale, device=self.device, dtype=torch.float32
        )
        release_pages()
        return batch


def _ready(batch) -> tuple[Batch, ...]:
    """Images of a batch, whose noise has found what it keeps."""
    images = batch if isinstance(batch, tuple) else (batch,)
    for image in images:
        image.noise.whiten(torch.zeros_like(image.y))
    return images


def _noises(view):
    return [image.noise for image in view.images.values() if image.noise is not None]


def _size(of) -> int:
    """Bytes of all tensors in a batch."""
    if isinstance(of, Tensor):
        return of.nbytes
    if isinstance(of, dict):
        return sum(map(_size, of.values()))
    if isinstance(of, list | tuple):
        return sum(map(_size, of))
    return _size(vars(of)) if isinstance(of, Batch | MixingOperator | Noise) else 0
