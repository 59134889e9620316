"""A deblender of the Blending ToolKit that asks this package, which runs in another interpreter.

The toolkit asks for astropy before 7 and this package for 7 or later, so that no environment holds
both. This module runs in the toolkit's; it imports nothing of this package but calls the command

    PYTHON -m benchmarks.btk.separation INPUT.npz OUTPUT.npz

(`benchmarks.btk.separation`), and files pass between the two. Of its own it needs the toolkit and
NumPy, so that the file alone may be taken elsewhere.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from btk.deblend import DeblendBatch, Deblender, DeblendExample
from surveycodex.utilities import mag2counts, mean_sky_level

__all__ = ["SeparatorDeblender"]


class SeparatorDeblender(Deblender):
    """Deblend images of one band by a model of this package.

    Every object that another deblender detects is separated from all other light, in a cutout of
    its own; its image is the mean of the posterior samples, without what is negative of it.

    Parameters
    ----------
    detector : `btk.deblend.Deblender`
        Whose catalog has the columns ``x_peak`` and ``y_peak``.
    command : sequence of str
        Which separates: called with the names of two files.
    model : str
        File or name of the model.
    band : int
        Of the survey's filters.
    threshold : float
        Segments are where the images exceed this, in standard deviations of the sky.
    n_samples : int
        Posterior samples of each object.
    seed : int
        Of the samples.
    psf_fwhm : float
        Full width at half maximum of the Gaussian that fits the PSF, in arcseconds.
    """

    def __init__(self, detector, command, model, *, psf_fwhm, band=0, threshold=1.5, n_samples=16,
                 seed=0):  # fmt: skip
        super().__init__(detector.max_n_sources)
        self.detector, self.command, self.model = detector, list(command), str(model)
        self.band, self.threshold, self.psf_fwhm = band, threshold, psf_fwhm
        self.n_samples, self.seed = n_samples, seed
        # Seconds of a processor core, and objects that they separated.
        self.seconds, self.n_separated = 0.0, 0

    def deblend(self, ii, blend_batch):
        """Deblend one of the images."""
        found = self.detector.deblend(ii, blend_batch)
        images = self.separate(blend_batch, [ii], [found.catalog])[0]
        return DeblendExample(
            self.max_n_sources, found.catalog, 1, blend_batch.image_size,
            self.segments(images, blend_batch), images[:, np.newaxis],
        )  # fmt: skip

    def batch_call(self, blend_batch, njobs=1, **kwargs):
        """Deblend all images at once."""
        found = self.detector.batch_call(blend_batch, njobs, **kwargs)
        rows = range(blend_batch.batch_size)
        images = self.separate(blend_batch, rows, found.catalog_list)
        return DeblendBatch(
            blend_batch.batch_size, self.max_n_sources, found.catalog_list, 1,
            blend_batch.image_size, self.segments(images, blend_batch), images[:, :, np.newaxis],
        )  # fmt: skip

    def segments(self, images, blend_batch):
        """Where images exceed the threshold, an ndarray of bool of their shape."""
        return images > self.threshold * np.sqrt(self._sky(blend_batch))

    def separate(self, blend_batch, rows, catalogs):
        """Images of the objects of some blends.

        Parameters
        ----------
        blend_batch : `btk.blend_batch.BlendBatch`
            The blends.
        rows : sequence of int
            Which of them.
        catalogs : sequence of `~astropy.table.Table`
            The objects detected in each.

        Returns
        -------
        images : ndarray, shape (len(rows), max_n_sources, ny, nx)
            In the toolkit's electrons; 0 beyond the objects of a catalog.

        Raises
        ------
        subprocess.CalledProcessError
            If the command fails.
        """
        survey = blend_batch.survey
        filt = survey.get_filter(survey.available_filters[self.band])
        places = np.full((len(rows), self.max_n_sources, 2), np.nan)
        for place, catalog in zip(places, catalogs, strict=True):
            place[: len(catalog)] = np.column_stack([catalog["x_peak"], catalog["y_peak"]])
        with tempfile.TemporaryDirectory() as folder:
            source, target = (Path(folder) / name for name in ("blends.npz", "separated.npz"))
            np.savez(
                source, images=blend_batch.blend_images[list(rows), self.band], places=places,
                sky=self._sky(blend_batch),
                electrons=mag2counts(0.0, survey, filt).to_value("electron"),
                pixel_scale=survey.pixel_scale.to_value("arcsec"), psf_fwhm=self.psf_fwhm,
                model=self.model, n_samples=self.n_samples, seed=self.seed,
            )  # fmt: skip
            subprocess.run([*self.command, source, target], check=True)  # noqa: S603
            with np.load(target) as file:
                self.seconds += float(file["seconds"])
                self.n_separated += sum(map(len, catalogs))
                return file["images"]

    def _sky(self, blend_batch):
        survey = blend_batch.survey
        filt = survey.get_filter(survey.available_filters[self.band])
        return mean_sky_level(survey, filt).to_value("electron")
