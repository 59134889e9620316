"""Point spread functions: images of stars, profiles, models of photutils and astropy."""

from .base import PSF, BandPSFs, PointPSF
from .fields import PSFExPSF
from .images import GriddedPSF, ImagePSF
from .kernels import kernel_fwhm, open_psf, read_psf
from .profiles import GaussianPSF, MoffatPSF

__all__ = [
    "PSF",
    "BandPSFs",
    "GaussianPSF",
    "GriddedPSF",
    "ImagePSF",
    "MoffatPSF",
    "PSFExPSF",
    "PointPSF",
    "kernel_fwhm",
    "open_psf",
    "read_psf",
]
