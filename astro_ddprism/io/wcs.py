r"""Many world coordinate systems in a few arrays.

Cutouts of one image share its projection and differ in the reference pixel alone. A list of
:math:`N` such WCS is stored as its distinct headers, written with 17 significant digits so that
every number comes back to the last bit, and for each observation the number of its header, its
``CRPIX`` and the shape of its image. SIP coefficients are kept as arrays, since a FITS card has no
room for 17 digits of them. Three thousand cutouts of one tile are thus one header and three arrays.

What no header says (distortion look-up tables, ``-TAB`` axes, pixel bounds) is left to
asdf-astropy, one WCS at a time.
"""

import logging
from collections.abc import Sequence

import numpy as np
from astropy.wcs import WCS, WCSHDO_P17, Sip, WCSHDO_all, Wcsprm
from astropy.wcs.wcsapi import HighLevelWCSWrapper
from astropy.wcs.wcsapi.wrappers import SlicedLowLevelWCS

from ..errors import InputError

__all__ = ["PackedWCS", "celestial_wcs", "has_tables", "pack_wcs", "unpack_wcs"]

logger = logging.getLogger(__name__)

MOST = 1e9  # degrees or pixels, beyond which no image lies
_SIP = ("a", "b", "ap", "bp")


def has_tables(wcs) -> bool:
    """Whether a WCS has distortions in look-up tables."""
    tables = (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2)
    return any(table is not None for table in tables)


def celestial_wcs(wcs, label) -> WCS:
    """The celestial WCS in what an image has for one.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`, a part of one, or None
        Parts of an `~astropy.nddata.NDData` wrap the WCS of the whole.
    label : str
        What messages call the image.

    Returns
    -------
    `~astropy.wcs.WCS`
        Of two axes. SIP coefficients that its axes do not name (``CTYPE`` without ``-SIP``) are
        left over from before an image was resampled, and dropped.

    Raises
    ------
    InputError
        If there is none.
    """
    wcs = _unwrapped(wcs, label)
    if wcs is None or not wcs.has_celestial:
        found = "no WCS" if wcs is None else f"axes {list(wcs.wcs.ctype)}"
        raise InputError(
            f"{label}: found no celestial WCS ({found}), expected one with right ascension and "
            "declination (CTYPE1, CTYPE2, CRVAL1, ...)"
        )
    if wcs.naxis > 2:
        if has_tables(wcs):
            raise InputError(
                f"{label}: found a WCS of {wcs.naxis} axes with distortion tables, expected two"
            )
        wcs = wcs.celestial
    _check_numbers(wcs, label)
    if wcs.sip is not None and not any(kind.endswith("-SIP") for kind in wcs.wcs.ctype):
        logger.warning(
            "%s: found SIP coefficients, which the axes %s do not name: left over, and not used",
            label, ", ".join(wcs.wcs.ctype),
        )  # fmt: skip
        wcs = wcs.deepcopy()
        wcs.sip = None
    return wcs


def _check_numbers(wcs, label):
    """Refuse a WCS of which the reference pixel or the pixels' size is no number."""
    wcs.wcs.set()
    matrix = wcs.pixel_scale_matrix
    size = abs(np.linalg.det(matrix)) if np.isfinite(matrix).all() else np.nan
    numbers = np.concatenate([wcs.wcs.crval, wcs.wcs.crpix, [size]])
    if not (np.abs(numbers) < MOST).all() or not size > 0:
        raise InputError(
            f"{label}: found a WCS with CRVAL {wcs.wcs.crval.tolist()}, CRPIX "
            f"{wcs.wcs.crpix.tolist()} and pixels of {size:.3g} square degrees, expected one of "
            "the sky"
        )


def _unwrapped(wcs, label):
    """The WCS behind wrappers, moved as they say."""
    if isinstance(wcs, HighLevelWCSWrapper):
        return _unwrapped(wcs.low_level_wcs, label)
    if isinstance(wcs, SlicedLowLevelWCS):
        whole, slices = _unwrapped(wcs._wcs, label), wcs._slices_array
        plain = all(isinstance(one, int | np.integer) or one.step in {None, 1} for one in slices)
        if isinstance(whole, WCS) and plain:
            moved = whole.deepcopy()
            if has_tables(whole):
                raise InputError(
                    f"{label}: found a part of an image with distortion tables, expected the whole"
                )
            first = [one if isinstance(one, int | np.integer) else one.start or 0 for one in slices]
            first = np.array(first[::-1], dtype=float)
            moved.wcs.crpix = moved.wcs.crpix - first
            if moved.sip is not None:
                sip = moved.sip
                moved.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - first[:2])
            return moved
    if wcs is not None and not isinstance(wcs, WCS):
        raise InputError(
            f"{label}: found a WCS of type {type(wcs).__name__}, expected astropy.wcs.WCS"
        )
    return wcs


def pack_wcs(wcs) -> dict:
    """Arrays from which `unpack_wcs` builds a list of WCS again.

    Parameters
    ----------
    wcs : sequence of `~astropy.wcs.WCS`
        Two-dimensional.

    Returns
    -------
    node : dict
        ``headers`` (K,), bytes; ``index`` (N,); ``crpix`` (N, 2); ``shape`` (N, 2), pixels along x
        and y, or 0 where unknown; with SIP also ``sip``, a list of K dictionaries or None, and
        ``sip_crpix`` (N, 2). Where a header does not say it all: ``whole``, the list itself.
    """
    if isinstance(wcs, PackedWCS):
        return wcs.node
    if not all(map(_is_in_header, wcs)):
        return {"whole": list(wcs)}
    numbers, headers, sips = {}, [], []
    index = np.empty(len(wcs), dtype=np.int32)
    crpix, sip_crpix = np.empty((len(wcs), 2)), np.zeros((len(wcs), 2))
    shape = np.zeros((len(wcs), 2), dtype=np.int64)
    for i, one in enumerate(wcs):
        header, sip = _common_header(one), _sip_arrays(one)
        coefficients = [
            None if array is None else array.tobytes() for array in (sip or {}).values()
        ]
        key = (header, *coefficients)
        if key not in numbers:
            numbers[key] = len(headers)
            headers.append(header)
            sips.append(sip)
        index[i] = numbers[key]
        crpix[i] = one.wcs.crpix
        if sip:
            sip_crpix[i] = one.sip.crpix
        if one.pixel_shape is not None:
            shape[i] = one.pixel_shape
    node = {"headers": np.array(headers), "index": index, "crpix": crpix, "shape": shape}
    if any(sips):
        node |= {"sip": sips, "sip_crpix": sip_crpix}
    return node


def unpack_wcs(node) -> Sequence[WCS]:
    """The list that `pack_wcs` packed.

    Parameters
    ----------
    node : mapping
        What `pack_wcs` returned.

    Returns
    -------
    wcs : list of `~astropy.wcs.WCS`, or PackedWCS
    """
    return list(node["whole"]) if "whole" in node else PackedWCS(node)


class PackedWCS(Sequence):
    """Many WCS, each of which is made when it is asked for.

    Parameters
    ----------
    node : mapping
        What `pack_wcs` returned, without ``whole``.

    Attributes
    ----------
    bases : list of `~astropy.wcs.WCS`
        Those of the headers; the others differ from them in the reference pixel alone.
    """

    def __init__(self, node):
        self.node = dict(node)
        self.bases = [_from_header(bytes(header)) for header in node["headers"]]

    @classmethod
    def joined(cls, several) -> "Sequence[WCS]":
        """The WCS of several sequences, one after the other.

        Parameters
        ----------
        several : sequence of sequences of `~astropy.wcs.WCS`

        Returns
        -------
        wcs : list of `~astropy.wcs.WCS`, or PackedWCS
        """
        nodes = []
        if any(isinstance(some, cls) for some in several):
            nodes = [pack_wcs(some) for some in several]
        if not nodes or any("whole" in node for node in nodes):
            return [one for some in several for one in some]
        firsts = np.cumsum([0, *(len(node["headers"]) for node in nodes)])
        node = {
            "headers": np.concatenate([node["headers"] for node in nodes]),
            "index": np.concatenate(
                [np.asarray(n["index"]) + f for n, f in zip(nodes, firsts, strict=False)]
            ).astype(np.int32),
            **{k: np.concatenate([np.asarray(n[k]) for n in nodes]) for k in ("crpix", "shape")},
        }
        if any("sip" in one for one in nodes):
            node["sip"] = [s for n in nodes for s in n.get("sip") or [None] * len(n["headers"])]
            node["sip_crpix"] = np.concatenate(
                [np.asarray(n.get("sip_crpix", np.zeros((len(n["index"]), 2)))) for n in nodes]
            )
        return cls(node)

    def __len__(self):
        return len(self.node["index"])

    def __getitem__(self, index):
        """One WCS; or those of a slice or an array of numbers, packed."""
        if isinstance(index, int | np.integer):
            return self._at(range(len(self))[index])
        new = object.__new__(type(self))
        new.bases, new.node = self.bases, dict(self.node)
        for name in {"index", "crpix", "shape", "sip_crpix"} & set(self.node):
            new.node[name] = np.asarray(self.node[name])[index]
        return new

    def _at(self, i) -> WCS:
        node, number = self.node, self.node["index"][i]
        one = self.bases[number].deepcopy()
        one.wcs.crpix = node["crpix"][i]
        sip = node["sip"][number] if node.get("sip") else None
        if sip:
            arrays = (
                None if sip[name] is None else np.asarray(sip[name], dtype=float) for name in _SIP
            )
            one.sip = Sip(*arrays, np.asarray(node["sip_crpix"][i], dtype=float))
        one.wcs.set()
        if node["shape"][i].any():
            one.pixel_shape = tuple(int(size) for size in node["shape"][i])
        return one


def _is_in_header(wcs) -> bool:
    """Whether header and SIP coefficients say all about this WCS."""
    return type(wcs) is WCS and not has_tables(wcs) and not wcs.wcs.tab and wcs.pixel_bounds is None


def _common_header(wcs) -> bytes:
    """The header without what tells one cutout from the next."""
    parameters = wcs.wcs.sub([1, 2])
    parameters.alt = " "
    parameters.crpix = [0.0, 0.0]
    return parameters.to_header(WCSHDO_all | WCSHDO_P17).encode("ascii")


def _from_header(header: bytes) -> WCS:
    wcs = WCS(naxis=2)
    # WCS(header) would read the header as FITS cards first, which takes ten times longer.
    wcs.wcs = Wcsprm(header=header, relax=True)
    wcs.wcs.fix()
    return wcs


def _sip_arrays(wcs) -> dict | None:
    if wcs.sip is None:
        return None
    return {name: getattr(wcs.sip, name) for name in _SIP}
