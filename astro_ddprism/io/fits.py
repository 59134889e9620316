"""Writing FITS files whole or not at all.

A file is written under a temporary name in the folder where it shall lie, flushed to the disk and
then renamed: a write that is killed leaves the old file, or none, and never half of one.
"""

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["replacing", "write_fits"]


@contextlib.contextmanager
def replacing(path, overwrite=False):
    """A temporary path that becomes ``path`` when the block ends without an error.

    Parameters
    ----------
    path : path-like
        The file to be.
    overwrite : bool
        Whether an existing file is replaced.

    Yields
    ------
    pathlib.Path
        A path in the same folder, at which to write.

    Raises
    ------
    FileExistsError
        If the file exists and is not to be replaced.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists already; pass overwrite=True to replace it")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a product is as readable as any other.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_fits(hdus, path, overwrite=False):
    """Write a FITS file whole or not at all, with checksums.

    Parameters
    ----------
    hdus : HDUList
        What to write; verified against the standard first.
    path : path-like
        The file to be.
    overwrite : bool
        Whether an existing file is replaced.

    Raises
    ------
    FileExistsError
        If the file exists and is not to be replaced.
    astropy.io.fits.VerifyError
        If the content breaks the FITS standard.
    """
    hdus.verify("exception")
    with replacing(path, overwrite) as temporary, open(temporary, "wb") as file:
        hdus.writeto(file, checksum=True, output_verify="exception")
