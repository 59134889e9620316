"""What was learned: one record, assigned once, and its file."""

__all__ = ["Model"]

import abc
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import Self

import torch
from astropy import units as u

from .. import __version__
from ..diffusion.parallel import Execution
from ..errors import InputError, NotFittedError
from ..io.asdf import map_tree, read_file, write_tree
from ..io.migrations import migrate
from ..io.reading import file_name, reading, reason_of
from ..models import find_model
from ..registry import option
from .configured import Configured
from .state import FittedState, contents, digest, in_half_precision


@dataclass(eq=False)
class Model(Configured, abc.ABC):
    """An estimator that keeps what it has learned in a file."""

    sources: tuple[str, ...] | None = None
    device: InitVar[str | None] = None
    execution: Execution = option(Execution())
    in_units_of_noise: bool = False
    seed: int = option(0, least=0, most=2**63 - 1)
    progress: bool = True

    def __post_init__(self, device):
        self._fitted = None
        if device is not None:
            self.execution = replace(self.execution, device=device)

    def write(self, path, overwrite=False, *, weights="float32"):
        """Write the model as an ASDF file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool
            Whether an existing file may be replaced.
        weights : str
            ``"float32"``, as they are, or ``"float16"``: half the size, for models that are handed
            on. All that is computed with them stays in the separator's own precision.

        Raises
        ------
        InputError
            If the file exists and ``overwrite`` is not set.
        """
        fitted = self._learned
        if weights not in {"float32", "float16"}:
            raise InputError(f"weights: found {weights!r}, expected float32 or float16")
        tree = self._tree(fitted, draws=False)
        if weights == "float16":
            tree["state"] = in_half_precision(tree["state"])
        sha256 = write_tree(path, tree, overwrite=overwrite, compression="zlib")
        self._fitted = replace(fitted, file=Path(path), sha256=sha256)

    @classmethod
    def read(cls, path, device="auto", *, progress=True) -> Self:
        """Read a model.

        Parameters
        ----------
        path : path-like
            A file that `write` left, or the name of a model that comes with the package
            (`astro_ddprism.models.list_models`).
        device : str
            Where to compute with it, in the precision that is ``"auto"`` there.
        progress : bool
            Whether to show progress bars on standard error.

        Returns
        -------
        Model
            Of the class that wrote the file.

        Raises
        ------
        InputError
            If the file is no model of this class, damaged, of a newer version, or the checkpoint of
            an unfinished fit; or there is no model of this name.
        """
        path = find_model(path)
        tree, sha256 = _read(path)
        with reading(path, "a model of this version"):
            config = {**tree["config"], "device": device, "progress": progress}
            # What was fast where it was fitted may be slow here: seven times, where a processor
            # has no arithmetic in bfloat16.
            config["execution"] = {**config.get("execution", {}), "precision": "auto"}
            try:
                separator = cls.from_config(config)
            except InputError as error:
                raise InputError(f"{path}: no model of this version: {error}") from error
        if tree.get("unfinished"):
            raise InputError(
                f"{path}: an unfinished fit, still learning {', '.join(tree['unfinished'])}; "
                "expected a model whose fit has ended (go on with fit and resume)"
            )
        fitted = separator._load(tree, path)
        separator._fitted = replace(fitted, file=Path(path), sha256=sha256)
        return separator

    def has_learned(self, dataset, path, *, initial=None) -> bool:
        """Whether a model is what a fit of this separator to a dataset ends with.

        Parameters
        ----------
        dataset : MultiViewDataset
            The views.
        path : path-like
            The model's file.
        initial : SourceSeparator, optional
            The model that the fit starts from.

        Returns
        -------
        bool

        Raises
        ------
        InputError
            If the file is no model.
        """
        found = type(self).read(path, "cpu")._learned.fingerprint
        return found == self._fingerprint(dataset, initial)

    def digest(self) -> str:
        """SHA-256 of all that draws depend on: the configuration, and what was learned."""
        tree = self._tree(replace(self._learned, fingerprint=""), draws=False)
        return digest({**tree, "state": {**tree["state"], "history": []}})

    def _facts(self):
        if self._fitted is None:
            return [("fitted", "not yet: call fit, or read a model")]
        shapes = self.source_shapes_.items()
        sources = [(f"source {source}", " × ".join(map(str, shape))) for source, shape in shapes]
        return [*sources, *(("", line) for line in self.training_.lines())]

    def _tree(self, fitted: FittedState, *, draws: bool) -> dict:
        return {
            "kind": "model",
            "config": self._lasting,
            **fitted.tree(),
            "state": self._state_tree(fitted.state, draws=draws),
        }

    def _load(self, tree, path) -> FittedState:
        try:
            fitted = FittedState.from_tree(tree)
            return replace(fitted, state=self._from_tree(tree["state"], fitted.source_shapes))
        except Exception as error:  # what libraries raise where weights do not fit their networks
            reason = str(error) if isinstance(error, InputError) else reason_of(error)
            raise InputError(f"{path}: no model of this version: {reason}") from error

    def _resume(self, checkpoint, fingerprint) -> FittedState:
        if checkpoint is None:
            raise InputError("resume: no checkpoint; expected the file to go on from")
        with reading(checkpoint, "a checkpoint"):
            tree = migrate(map_tree(checkpoint, "model"))
        if tree.get("fingerprint") != fingerprint:
            raise InputError(
                f"{checkpoint}: the checkpoint of a fit to other data or with another "
                "configuration; expected one of this fit"
            )
        return self._load(tree, checkpoint)

    def _fingerprint(self, dataset, initial=None) -> str:
        """What must agree between a checkpoint and the fit that goes on from it."""
        begin = {}
        if initial is not None:
            begin["initial"] = initial._state_tree(initial._learned.state, draws=False)
        return digest({"views": contents(dataset), "config": self._lasting, **begin})

    @property
    def _lasting(self) -> dict:
        """The configuration, but for who watches, and on which device."""
        config = self.config
        config["execution"].pop("device")
        return {name: value for name, value in config.items() if name != "progress"}

    def _provenance(self, seed):
        provenance = {"version": __version__, "seed": seed}
        fitted = self._learned
        if fitted.file is not None:
            provenance |= {"model": file_name(fitted.file), "sha256": fitted.sha256}
        return provenance

    # -- what was learned ------------------------------------------------------------------------

    @property
    def _learned(self) -> FittedState:
        if self._fitted is None:
            raise NotFittedError("this separator has learned nothing yet; call fit or read a model")
        return self._fitted

    @property
    def sources_(self) -> tuple[str, ...]:
        """The sources that were learned."""
        return self._learned.sources

    @property
    def before_psf_(self) -> bool:
        """Whether any source was learned as light before a PSF."""
        return any(True in found for found in self._learned.before_psf.values())

    @property
    def source_shapes_(self) -> dict[str, tuple[int, ...]]:
        """Their shapes."""
        return self._learned.source_shapes

    @property
    def unit_(self) -> u.UnitBase:
        """Unit of flux."""
        return self._learned.unit

    @property
    def noise_scale_(self) -> float:
        """The flux, in ``unit_``, that is 1 inside."""
        return self._learned.noise_scale

    @property
    def training_(self):
        """What it was learned from."""
        return self._learned.training

    @property
    def device_(self) -> torch.device:
        """Where it computes."""
        return self.execution.torch_device

    @abc.abstractmethod
    def _state_tree(self, state, *, draws: bool) -> dict:
        """The state as plain arrays, numbers and names; ``draws``: with all to go on from."""

    @abc.abstractmethod
    def _from_tree(self, tree, source_shapes):
        """The state that a tree of `_state_tree` tells."""


def _read(path) -> tuple[dict, str]:
    """The tree of a model's file, in today's layout, and the SHA-256 of what was read."""
    tree, sha256 = read_file(path, "model")
    with reading(path, "a model"):
        return migrate(tree), sha256
