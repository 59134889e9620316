"""What the columns of a catalog are: in words, and in those of the Virtual Observatory.

Descriptions stand in every format that holds them, and so do the UCDs (Unified Content Descriptors,
https://www.ivoa.net/documents/UCD1+/), by which programs such as TOPCAT find fluxes and positions.
"""

import re

__all__ = ["describe"]

# Name of a measurement: what it is, and its UCD.
_MEASUREMENTS = {
    "flux": ("total flux in the cutout", "phot.flux"),
    "aperture_flux": ("flux in the aperture", "phot.flux"),
    "mag": ("magnitude of the total flux", "phot.mag"),
    "aperture_mag": ("magnitude of the flux in the aperture", "phot.mag"),
    "x_centroid": ("centroid along x, in pixels of the cutout from 0", "pos.cartesian.x"),
    "y_centroid": ("centroid along y, in pixels of the cutout from 0", "pos.cartesian.y"),
    "sky_centroid": ("centroid on the sky", "pos.eq"),
    "ra": ("right ascension of the centroid, ICRS", "pos.eq.ra"),
    "dec": ("declination of the centroid, ICRS", "pos.eq.dec"),
    "half_light_radius": ("radius that holds half of the flux, in pixels", "phys.angSize"),
    "half_light_radius_sky": ("radius that holds half of the flux", "phys.angSize"),
    "ellipticity": ("one minus the ratio of the axes", "src.ellipticity"),
    "position_angle": ("major axis, from north through east", "pos.posAng"),
    "orientation": ("major axis, from x towards y", "pos.posAng"),
    "defined_fraction": ("part of the samples in which all has a value", "stat.fit.goodness"),
    "flags": ("what may be wrong with it, as bits", "meta.code.qual"),
}
_ENDINGS = {
    "": ("posterior mean", "stat.mean"),
    "_error": ("posterior standard deviation", None),
    "_p025": ("posterior quantile of 0.025", "stat.value"),
    "_p16": ("posterior quantile of 0.16", "stat.value"),
    "_p50": ("posterior median", "stat.median"),
    "_p84": ("posterior quantile of 0.84", "stat.value"),
    "_p975": ("posterior quantile of 0.975", "stat.value"),
}
# Those of an observation.
_OWN = {
    "id": ("name of the observation", "meta.id;meta.main"),
    "sky_coord": ("position of the observation", "pos.eq;meta.main"),
    "ra": ("right ascension of the observation, ICRS", "pos.eq.ra;meta.main"),
    "dec": ("declination of the observation, ICRS", "pos.eq.dec;meta.main"),
    "chi2": ("reduced chi-squared, mean over the samples", "stat.fit.chi2"),
    "n_valid": ("number of pixels that carry information", "meta.number;instr.pixel"),
    "masked_fraction": ("part of the aperture that is masked", "meta.code.qual"),
    "flags": ("what may be wrong, as bits: 1 masked, 2 edge, 4 saturated, 8 bad fit, 16 undefined",
              "meta.code.qual"),
}  # fmt: skip
_PLAIN = {"defined_fraction", "flags", "sky_centroid", "ra", "dec"}  # no statistics
_NAMES = sorted(_MEASUREMENTS, key=len, reverse=True)
_PATTERN = re.compile(rf"({'|'.join(_NAMES)})({'|'.join(filter(None, _ENDINGS))})?(?:_(\d+))?")
_WCS = re.compile(r"(CTYPE|CUNIT|CRVAL|CRPIX)\d|CD\d_\d|RADESYS|EQUINOX")


def describe(table, sources) -> None:
    """Give every column of a catalog its description and its UCD.

    Parameters
    ----------
    table : `~astropy.table.Table`
        A catalog; ``info.description`` and ``info.meta["ucd"]`` of its columns are set.
    sources : sequence of str
        The sources whose names its columns begin with.
    """
    for name in table.colnames:
        description, ucd = _of(name, sources)
        info = table[name].info
        info.description = description
        if ucd:
            info.meta = {**(info.meta or {}), "ucd": ucd}


def _of(name, sources):
    if name in _OWN:
        return _OWN[name]
    # Names of sources may begin alike: the longest holds.
    for source in sorted(sources, key=len, reverse=True):
        if name.startswith(f"{source}_"):
            match = _PATTERN.fullmatch(name.removeprefix(f"{source}_"))
            if match:
                return _measurement(source, *match.groups())
    for own in ("chi2", "n_valid"):
        if name.startswith(f"{own}_"):
            text, ucd = _OWN[own]
            return f"{text}, of the images of {name.removeprefix(f'{own}_')}", ucd
    if _WCS.fullmatch(name):
        return f"FITS keyword {name} of the WCS of the cutout's pixels", "pos.wcs"
    return f"{name}", None


def _measurement(source, name, ending, band):
    what, ucd = _MEASUREMENTS[name]
    of_band = f", band {band}" if band else ""
    if name in _PLAIN and (name not in {"ra", "dec"} or not ending):
        return f"{source}: {what}{of_band}", ucd
    if name in {"ra", "dec"}:
        axis = "to the east" if name == "ra" else "to the north"
        return f"{source}: standard deviation of the centroid, {axis}{of_band}", f"stat.error;{ucd}"
    statistic, word = _ENDINGS[ending or ""]
    main = ucd.split(";")[0]
    ucd = f"stat.error;{main}" if ending == "_error" else f"{main};{word}"
    return f"{source}: {what}{of_band}, {statistic}", ucd
