"""Fluxes in circular apertures, with pixels cut by an edge counted by their area inside."""

import numpy as np
from astropy import units as u
from photutils.aperture import CircularAperture

from ..errors import InputError

__all__ = ["aperture_flux", "aperture_weights", "radius_in_pixels"]


def radius_in_pixels(aperture, pixel_scales=None, shape=None):
    """Radius of an aperture in pixels.

    Parameters
    ----------
    aperture : float or Quantity
        In pixels or as an angle.
    pixel_scales : ndarray, shape (N,), optional
        Sides of the pixels of each image in degrees, where they are known.
    shape : tuple of int, optional
        ``(ny, nx)`` of the images.

    Returns
    -------
    radius : float or ndarray, shape (N,)

    Raises
    ------
    InputError
        If it is neither, or an angle where no pixel scale is known; or it is not positive, or
        larger than the images' diagonal.
    """
    if not isinstance(aperture, u.Quantity) or aperture.unit == u.pix:
        radius = u.Quantity(aperture, u.pix).value
    elif pixel_scales is None or not aperture.unit.is_equivalent(u.deg):
        raise InputError(f"aperture: found {aperture}, expected pixels, or an angle and a WCS")
    else:
        radius = aperture.to_value(u.deg) / pixel_scales
    most = np.inf if shape is None else np.hypot(*shape)
    if not np.all((np.asarray(radius) > 0) & (np.asarray(radius) <= most)):
        raise InputError(
            f"aperture: found a radius of {np.max(radius):g} pixels, expected a positive one up to "
            f"{most:.4g}, the diagonal of the images"
        )
    return radius


def aperture_weights(positions, radius, shape):
    """The part of each pixel that lies in a circular aperture.

    Parameters
    ----------
    positions : array_like, shape (N, 2)
        Centres ``(x, y)`` in pixels of each image; the first pixel's centre is 0.
    radius : float or array_like, shape (N,)
        In pixels.
    shape : tuple of int
        ``(ny, nx)`` of the images.

    Returns
    -------
    weights : ndarray, shape (N, ny, nx)
        Between 0 and 1.

    Raises
    ------
    InputError
        If the radius is not positive.

    Examples
    --------
    >>> from astro_ddprism.posterior.apertures import aperture_weights
    >>> weights = aperture_weights([(7.0, 7.0)], 3.0, (15, 15))
    >>> float(weights.sum() / 3.0**2)
    3.14159265
    """
    positions = np.asarray(positions, dtype=float).reshape(-1, 2)
    radius = np.broadcast_to(np.asarray(radius, dtype=float), len(positions))
    if not np.all(np.isfinite(radius) & (radius > 0)):
        raise InputError(f"radius: found {radius.min()}, expected a positive number of pixels")
    weights = np.zeros((len(positions), *shape))
    for weight, position, r in zip(weights, positions, radius, strict=True):
        image = CircularAperture(position, r).to_mask().to_image(shape)
        if image is not None:  # None: the aperture lies outside the image
            weight[:] = image
    return weights


def aperture_flux(images, radius, positions=None):
    """Flux in a circular aperture.

    Parameters
    ----------
    images : Quantity or ndarray, shape (..., N, bands, ny, nx)
        Flux per pixel of N objects, such as samples of them.
    radius : float or array_like, shape (N,)
        In pixels.
    positions : array_like, shape (N, 2), optional
        Centres ``(x, y)`` in pixels of each image; by default the pixel ``(nx // 2, ny // 2)``, in
        which a cutout holds its position.

    Returns
    -------
    flux : Quantity or ndarray, shape (..., N, bands)

    Examples
    --------
    >>> import numpy as np
    >>> from astropy import units as u
    >>> from astro_ddprism.posterior.apertures import aperture_flux
    >>> images = np.ones((2, 1, 15, 15)) * u.uJy
    >>> aperture_flux(images, 3.0)
    <Quantity [[28.27433388], [28.27433388]] uJy>
    """
    number, _, ny, nx = images.shape[-4:]
    if positions is None:
        positions = np.broadcast_to([nx // 2, ny // 2], (number, 2))
    weights = aperture_weights(positions, radius, (ny, nx))
    values = np.einsum("...nbyx,nyx->...nb", np.asarray(images), weights)
    return values << images.unit if isinstance(images, u.Quantity) else values
