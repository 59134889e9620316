"""Parameters of an estimator: checked whenever they are set, and read and written as trees."""

__all__ = ["SEPARATORS", "Configured"]

from dataclasses import dataclass, fields, replace

from ..errors import InputError
from ..io.html import html_table
from ..registry import Part, Registry, checked_fields, to_tree

#: Separators by name.
SEPARATORS = Registry("method", "astro_ddprism.separators")


@dataclass(eq=False)
class Configured:
    """An object whose fields are its parameters, among them parts (`~astro_ddprism.registry.Part`).

    Two of them are equal if they are the same.
    """

    def __setattr__(self, name, value):
        # Parameters are checked whenever they are set: there is no separator that cannot be used.
        known = [f.name for f in fields(self)]
        if name in known:
            value = checked_fields(type(self), {name: value})[name]
        elif not name.startswith("_"):
            raise InputError(f"{name}: no parameter; expected one of {', '.join(known)}")
        super().__setattr__(name, value)

    @classmethod
    def from_config(cls, config) -> "Configured":
        """Make one from a mapping of its parameters.

        Parameters
        ----------
        config : mapping of str to object
            Parameters by name; parts of it as tables with a ``name`` and options, as names, which
            stand for the defaults, or as objects. ``method`` names the class, if it is another.

        Returns
        -------
        Configured

        Raises
        ------
        InputError
            If a name is no parameter, or a value cannot be.
        """
        config = dict(config)
        kind = cls.kind_of(config.pop("method", None))
        known = sorted({"device", *(f.name for f in fields(kind))})
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise InputError(
                f"configuration: unknown {', '.join(unknown)}; expected names out of "
                f"{', '.join(known)}"
            )
        return kind(**config)

    @classmethod
    def kind_of(cls, method: str | None) -> "type[Configured]":
        """The class of a method's name; the class itself if there is none.

        Raises
        ------
        InputError
            If it is no class of this one's.
        """
        kind = cls if method is None else SEPARATORS[method]
        if not issubclass(kind, cls):
            own = SEPARATORS.name_of(cls)
            raise InputError(f"method: found {method!r}, expected {own!r}, that of {cls.__name__}")
        return kind

    @property
    def config(self) -> dict:
        """The parameters by name, as `from_config` takes them and files keep them."""
        parameters = {f.name: to_tree(getattr(self, f.name)) for f in fields(self)}
        return {"method": SEPARATORS.name_of(self), **parameters}

    def _repr_html_(self):
        """What a notebook shows: the parameters that are not the defaults, and what was learned."""
        own = [(f.name, getattr(self, f.name)) for f in fields(self)]
        defaults = type(self)()
        rows = [(name, value) for name, value in own if value != getattr(defaults, name)]
        return html_table(type(self).__name__, [*rows, *self._facts()])

    def _facts(self) -> list[tuple[str, object]]:
        """What there is to tell beside parameters."""
        return []

    def get_params(self, deep: bool = True) -> dict:
        """Parameters by name, as scikit-learn has them.

        Parameters
        ----------
        deep : bool
            Whether to add the options of parts, as ``part__option``.
        """
        params = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, part in [*params.items()] if deep else ():
            if isinstance(part, Part):
                params |= {f"{name}__{key}": value for key, value in _options(part).items()}
        return params

    def set_params(self, **params) -> "Configured":
        """Set parameters by name, and options of parts as ``part__option``.

        Parameters
        ----------
        **params
            The new values.

        Returns
        -------
        Configured
            The object itself; unchanged if any of them is refused.

        Raises
        ------
        InputError
            If a name is no parameter, or a value cannot be.
        """
        new = {name: getattr(self, name) for name in self.get_params(deep=False)}
        # Parts before their options, whatever the order in which they come.
        for name in sorted(params, key=lambda name: name.count("__")):
            first, *rest = name.split("__")
            if first not in new:
                raise InputError(f"{name}: no parameter; expected one of {', '.join(new)}")
            value = _with_option(new[first], rest, params[name], name)
            new |= checked_fields(type(self), {first: value})
        for name, value in new.items():
            setattr(self, name, value)
        return self


def _options(part) -> dict:
    """The options of a part, and those of its parts, as ``option__option``."""
    options = {}
    for f in fields(part):
        value = getattr(part, f.name)
        options[f.name] = value
        if isinstance(value, Part):
            options |= {f"{f.name}__{key}": v for key, v in _options(value).items()}
    return options


def _with_option(part, names, value, label):
    """A part with an option of it, or of its parts, in place of another."""
    if not names:
        return value
    if not isinstance(part, Part) or names[0] not in {f.name for f in fields(part)}:
        raise InputError(f"{label}: no parameter; see get_params")
    return replace(
        part, **{names[0]: _with_option(getattr(part, names[0]), names[1:], value, label)}
    )
