"""Point spread functions: images of stars, profiles, models of photutils and astropy."""

from .base import PSF, BandPSFs, PointPSF
from .images import GriddedPSF, ImagePSF
from .kernels import kernel_fwhm, read_psf
from .profiles import GaussianPSF, MoffatPSF

__all__ = [
    "PSF",
    "BandPSFs",
    "GaussianPSF",
    "GriddedPSF",
    "ImagePSF",
    "MoffatPSF",
    "PointPSF",
    "kernel_fwhm",
    "read_psf",
]
