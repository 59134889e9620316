"""Blends drawn, deblended and judged by the Blending ToolKit, in an interpreter that has it.

    PYTHON run_btk.py SETTINGS.json OUTPUT.npz

Nothing here imports this package; `deblender.SeparatorDeblender` asks it. SETTINGS holds what
`benchmarks.btk.study` says of the survey, the blends and the deblenders. OUTPUT holds one row for
each true galaxy: its ``blend``, ``magnitude``, ``snr``, ``blendedness`` (the toolkit's); and for
each deblender, as ``NAME/...``: whether it was ``matched``, its aperture ``flux`` over the true
one, minus 1, the toolkit's ``mse``, ``psnr``, ``ssim`` and ``iou``, and the error of its ``shape``
(two components, KSB), NaN where it was not matched; the toolkit's ``precision`` and ``recall``. Of
the first blends, ``blends``, ``truth`` and ``NAME/images`` (of the matched galaxies, in the order
of the true ones).
"""

import json
import sys
from pathlib import Path

import btk
import galsim
import numpy as np
from astropy import units as u
from astropy.table import Table
from deblender import SeparatorDeblender

N_SHOWN = 12
MATCH = 5.0  # pixels, the toolkit's default
NAMES_OF_DEBLENDERS = ("SepSingleBand", "SeparatorDeblender", "SeparatorDeblender, all")
NAMES = ("flux", "mse", "psnr", "ssim", "iou")


def make_survey(settings):
    """The survey, of one band, made of another that the toolkit knows."""
    survey = btk.survey.get_surveys("HSC")
    band = survey.get_filter("r")
    survey.name, survey.available_filters, survey._filters = "KiDS-like", ["r"], {"r": band}
    survey.pixel_scale = settings["pixel_scale"] * u.arcsec
    band.psf_fwhm = settings["moffat"][0] * u.arcsec
    band.zeropoint = settings["zero_point"] * u.mag
    band.sky_brightness = settings["sky_brightness"] * u.mag / u.arcsec**2
    band.full_exposure_time = settings["exposure"] * u.s
    fwhm, beta = settings["moffat"]
    band.psf = galsim.Moffat(beta=beta, fwhm=fwhm)
    return survey


class KnownPositions(btk.deblend.Deblender):
    """A detector that finds every galaxy of a blend at its true position."""

    def deblend(self, ii, blend_batch):
        """The true catalog of a blend."""
        return btk.blend_batch.DeblendExample(self.max_n_sources, blend_batch.catalog_list[ii])


def read_catalog(folder):
    """Galaxies of the COSMOS survey with parametric fits.

    The toolkit's own reader wants a file of selections, which the example catalog lacks.
    """
    name = "real_galaxy_catalog_23.5_example"
    path = Path(folder) / f"{name}.fits"
    catalog = galsim.COSMOSCatalog(path.name, dir=str(folder), use_real=False,
                                   exclusion_level="none")  # fmt: skip
    return btk.catalog.CosmosCatalog(Table.read(path)[catalog.orig_index], catalog)


def measured(images, xy, sky, radius):
    """Fluxes in apertures, (B, M), of images (B, M, ny, nx) about places (B, M, 2)."""
    flux = [
        btk.measure.get_aperture_fluxes(images[:, m], xy[:, m : m + 1, 0], xy[:, m : m + 1, 1],
                                        radius, sky)[0]
        for m in range(images.shape[1])
    ]  # fmt: skip
    return np.concatenate(flux, axis=1)


def judge(batch, result, settings, sky):
    """The toolkit's metrics of one deblender: values (B, M) of the true galaxies, and others."""
    matching = btk.match.PixelHungarianMatcher(pixel_max_sep=MATCH)(
        batch.catalog_list, result.catalog_list
    )
    size = batch.batch_size
    # What rings below 0 in a drawn galaxy is no light to the metrics.
    truth = matching.match_true_arrays(batch.isolated_images[:, :, 0].clip(min=0))
    found = matching.match_pred_arrays(result.deblended_images[:, :, 0])
    segments = matching.match_pred_arrays(result.segmentation).astype(bool)
    true_segments = btk.metrics.utils.get_segmentation(truth, sky, settings["threshold"])
    true_segments = np.nan_to_num(true_segments).astype(bool)
    rows = [(b, int(t)) for b in range(size) for t in matching.true_matches[b]]
    reconstruction = btk.metrics.reconstruction
    metrics = {"mse": reconstruction.MSE, "psnr": reconstruction.PSNR,
               "ssim": reconstruction.StructSim}  # fmt: skip
    lists = {}
    for name, metric in metrics.items():
        metric = metric(size)
        metric(truth, found)
        lists[name] = metric.all_data[0][name]
        if len(lists[name]) != len(rows):
            raise RuntimeError(f"{name}: found {len(lists[name])} values for {len(rows)} galaxies")
    iou = btk.metrics.segmentation.IoU(size)
    iou(true_segments, segments)
    n_matched = [len(matched) for matched in matching.true_matches]
    lists["iou"] = np.concatenate([iou.all_data[0]["iou"][b, :n] for b, n in enumerate(n_matched)])
    xy = np.zeros((size, truth.shape[1], 2))
    for b, (catalog, matched) in enumerate(
        zip(batch.catalog_list, matching.true_matches, strict=True)
    ):
        here = catalog[matched]
        xy[b, : len(here)] = np.column_stack([here["x_peak"], here["y_peak"]])
    radius = settings["aperture"]
    fluxes, true_fluxes = (measured(images, xy, sky, radius) for images in (found, truth))
    # GalSim counts pixels from 1.
    psf, pixel = batch.psf[0], settings["pixel_scale"]
    shape, true_shape = (
        btk.measure.get_ksb_ellipticity(images, xy + 1, psf, pixel) for images in (found, truth)
    )
    n_true = truth.shape[1]
    inside = np.arange(n_true) < np.array(n_matched)[:, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore"):
        lists["flux"] = (fluxes / true_fluxes - 1)[inside]
    most = batch.max_n_sources
    values = {name: np.full((size, most), np.nan) for name in NAMES}
    values["shape"], values["matched"] = (
        np.full((size, most, 2), np.nan),
        np.zeros((size, most), bool),
    )
    values["images"] = np.zeros((size, most, *truth.shape[2:]))
    where = tuple(np.array(rows).T)
    for name in NAMES:
        values[name][where] = lists[name]
    values["shape"][where] = (shape - true_shape)[inside]
    values["matched"][where] = True
    values["images"][where] = found[inside]
    counts = np.array([matching.tp.sum(), matching.p.sum(), matching.t.sum()])
    return values, counts


def main(settings, target):
    """Draw, deblend and judge."""
    settings = json.loads(Path(settings).read_text())
    survey = make_survey(settings)
    sampling = btk.sampling_functions.DefaultSampling(
        stamp_size=settings["stamp"], min_number=settings["n_sources"][0],
        max_number=settings["n_sources"][1], max_shift=settings["max_shift"],
        seed=settings["seed"], mag_name="MAG", max_mag=settings["faintest"],
    )  # fmt: skip
    draw = btk.draw_blends.CosmosGenerator(
        read_catalog(settings["cosmos"]), sampling, survey, batch_size=settings["batch_size"],
        seed=settings["seed"], augment_data=True, gal_type="parametric",
    )  # fmt: skip
    most = settings["max_n_detected"]
    sep = btk.deblend.SepSingleBand(most, thresh=settings["threshold"], use_band=0)
    ours = [
        SeparatorDeblender(
            detector, settings["command"], settings["model"], psf_fwhm=settings["psf_fwhm"],
            threshold=settings["threshold"], n_samples=settings["n_samples"],
            seed=settings["seed"],
        )
        for detector in (sep, KnownPositions(settings["n_sources"][1]))
    ]  # fmt: skip
    deblend = btk.deblend.DeblendGenerator([sep, *ours], draw)
    names = dict(zip(deblend.deblender_names, NAMES_OF_DEBLENDERS, strict=True))
    sky = btk.draw_blends.mean_sky_level(survey, survey.get_filter("r")).to_value("electron")
    parts, counts = {}, {}
    for k in range(settings["n_batches"]):
        batch, results = next(deblend)
        real = np.arange(batch.max_n_sources) < np.array(
            [len(catalog) for catalog in batch.catalog_list]
        ).reshape(-1, 1)
        isolated = batch.isolated_images[:, :, 0]
        blend = np.broadcast_to(np.arange(len(real))[:, np.newaxis] + k * len(real), real.shape)
        mine = {
            "blend": blend[real],
            "magnitude": np.concatenate([catalog["MAG"] for catalog in batch.catalog_list]),
            "snr": btk.measure.get_snr(isolated, sky)[real],
            "blendedness": btk.measure.get_blendedness(isolated)[real],
        }
        if k == 0:
            parts["blends"] = [batch.blend_images[:N_SHOWN, 0]]
            parts["truth"] = [isolated[:N_SHOWN]]
        for key, result in results.items():
            name = names[key]
            values, number = judge(batch, result, settings, sky)
            images = values.pop("images")
            if k == 0:
                parts[f"{name}/images"] = [images[:N_SHOWN]]
            mine |= {f"{name}/{what}": value[real] for what, value in values.items()}
            counts[name] = counts.get(name, 0) + number
        for name, value in mine.items():
            parts.setdefault(name, []).append(value)
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    for name, (tp, p, t) in counts.items():
        arrays |= {f"{name}/precision": tp / p, f"{name}/recall": tp / t}
    arrays |= {name: sum(getattr(one, name) for one in ours) for name in ("seconds", "n_separated")}
    np.savez(target, **arrays, sky=sky, btk=btk.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
