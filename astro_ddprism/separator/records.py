"""What the tiles of a survey were made from, and how it went: one record a tile, as JSON."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .. import __version__
from ..io.outputs import replacing
from ..io.reading import open_input
from ..survey.footprints import Footprint

__all__ = ["Record", "digest_of", "file_hash", "published", "read_records", "write_manifest"]

_HASHES: dict = {}


@dataclass(frozen=True)
class Record:
    """What became of a tile.

    Attributes
    ----------
    name : str
        Of the tile.
    status : str
        ``"done"`` or ``"failed"``.
    key : str
        A digest of all that it was made from.
    message : str
        Why it failed, or why there is nothing in it, in a line.
    files : list
        Of each image file its path, its size and time, and its SHA-256.
    footprint : list
        Header and shape.
    counts : dict of str to int
        Objects that were ``"found"`` and ``"separated"``, and that are ``"published"``.
    warnings : list of str
    times, processor_times : dict of str to float
        Seconds by step (`~astro_ddprism.steps`), and those of the processor.
    """

    name: str
    status: str
    key: str = ""
    message: str = ""
    files: list = field(default_factory=list)
    footprint: list = field(default_factory=list)
    counts: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)
    times: dict = field(default_factory=dict)
    processor_times: dict = field(default_factory=dict)

    def is_current(self, key, folder, products) -> bool:
        """Whether the tile need not be made again."""
        made = [folder / "tiles" / f"{self.name}.parquet"]
        if products and self.counts.get("separated"):
            made.append(folder / "products" / f"{self.name}.fits")
        return self.status == "done" and self.key == key and all(p.is_file() for p in made)

    def footprint_of(self, images) -> Footprint | None:
        """The footprint, if it is that of these files as they are."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = [[path, stamp] for path, stamp, _ in self.files]
            if self.footprint and known == [[str(p), _stamp(p)] for p in images]:
                header, shape = self.footprint
                return Footprint(header, tuple(shape))
        return None

    def written(self, folder) -> "Record":
        """Keep the record in a folder; returns it."""
        with replacing(folder / f"{self.name}.json", overwrite=True) as part:
            part.write_text(json.dumps(asdict(self), indent=1))
        return self


def read_records(folder) -> dict[str, Record]:
    """The records in a folder, by the names of their tiles; those that are damaged are none."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        with contextlib.suppress(ValueError, TypeError, OSError):
            record = Record(**json.loads(path.read_text()))
            found[record.name] = record
            for file, stamp, sha256 in record.files:
                _HASHES[file, stamp] = sha256
    return found


def write_manifest(path, records, model_hash):
    """All records, and with which model and software, as one file of JSON."""
    manifest = {
        "software": {"name": "astro-ddprism", "version": __version__},
        "model": model_hash,
        "tiles": [asdict(records[name]) for name in sorted(records)],
    }
    with replacing(path, overwrite=True) as part:
        part.write_text(json.dumps(manifest, indent=1))


def published(record, n) -> Record:
    """The record with the number of its objects that came out."""
    return replace(record, counts={**record.counts, "published": n})


def _stamp(path) -> str:
    stat = Path(path).stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def file_hash(path) -> tuple[str, str]:
    """Size and time of a file, and its SHA-256, which is known of one that stays as it is."""
    stamp = _stamp(path)
    key = str(path), stamp
    if key not in _HASHES:
        with open_input(path) as file:
            _HASHES[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return stamp, _HASHES[key]


def digest_of(*things) -> str:
    """SHA-256 of what can be told as text."""
    return hashlib.sha256(repr(things).encode()).hexdigest()
