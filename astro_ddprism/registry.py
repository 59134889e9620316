"""Classes by the names that files and options give them.

A `Registry` holds the classes of one kind, such as the mixing operators. A name means one class: a
second class of that name is refused rather than taken in place of the first, so that a file never
loads with another class than it was written with. Only the same class may come again, as when its
module is reloaded or the cell of a notebook runs twice.

Other packages add classes through entry points: a registry's group holds the names, and the class
of a name is imported when it is first asked for. So a package that cannot be imported does no harm
to who does not use it. With ::

    [project.entry-points."astro_ddprism.operators"]
    Lens = "lensing.operators:Lens"

in its ``pyproject.toml``, a package makes files with its operator ``Lens`` readable wherever it is
installed.

What is configured is a tree of small frozen objects, each a `Part`: ``{"name": ..., options}`` in a
file, an object in Python.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields
from importlib.metadata import entry_points
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import ClassVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

__all__ = ["MOST_REPEATS", "Part", "Registry", "checked_fields", "option", "to_tree"]

# Of what is counted, and of what is done again and again: iterations, steps, rounds.
MOST_COUNTED, MOST_REPEATS = 10**12, 10_000


class Registry:
    """The classes of one kind, by name.

    Parameters
    ----------
    kind : str
        What messages call such a class.
    entry_points : str, optional
        Group of the entry points through which other packages add classes.

    Examples
    --------
    >>> from astro_ddprism.registry import Registry
    >>> shapes = Registry("shape")
    >>> @shapes.register("circle")
    ... class Circle:
    ...     pass
    >>> shapes["circle"] is Circle, "square" in shapes, shapes.names()
    (True, False, ('circle',))
    >>> shapes.name_of(Circle())
    'circle'
    """

    def __init__(self, kind: str, entry_points: str | None = None):
        self.kind = kind
        self.group = entry_points
        self._classes: dict[str, type] = {}

    def register(self, name: str | None = None) -> Callable[[type], type]:
        """Add a class: a decorator.

        Parameters
        ----------
        name : str, optional
            Its name; by default that of the class itself.

        Returns
        -------
        decorator : callable
            Takes the class and returns it. It raises InputError where the name already means
            another class.
        """

        def add(cls: type) -> type:
            key = cls.__name__ if name is None else name
            known = self._classes.setdefault(key, cls)
            if _path(known) != _path(cls):
                raise InputError(
                    f"{self.kind} {key!r}: found {_path(cls)} beside {_path(known)}, expected one "
                    "class of that name: rename yours"
                )
            self._classes[key] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> type:
        """The class of a name.

        Parameters
        ----------
        name : str

        Returns
        -------
        cls : type

        Raises
        ------
        InputError
            If no class has that name, or its package cannot be imported.
        """
        if name not in self._classes:
            self._load(name)
        return self._classes[name]

    def __contains__(self, name) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self):
        return len(self.names())

    def names(self) -> tuple[str, ...]:
        """All names in alphabetical order, also of classes that are not imported yet."""
        return tuple(sorted({*self._classes, *(plugin.name for plugin in self._plugins())}))

    def name_of(self, cls) -> str:
        """The name of a class.

        Parameters
        ----------
        cls : type or object
            A class, or an instance of it.

        Returns
        -------
        name : str

        Raises
        ------
        InputError
            If the class has no name here.
        """
        name = self.find(cls)
        if name is None:
            raise InputError(
                f"{self.kind}: found {_path(cls)}, expected one of {', '.join(self.names())}"
            )
        return name

    def find(self, cls) -> str | None:
        """The name of a class, or of that of an object; None if it has none here."""
        path = _path(cls)
        return next((name for name, known in self._classes.items() if _path(known) == path), None)

    def _plugins(self):
        return () if self.group is None else entry_points(group=self.group)

    def _load(self, name):
        plugins = [plugin for plugin in self._plugins() if plugin.name == name]
        if not plugins:
            raise InputError(
                f"{self.kind}: found {name!r}, expected one of {', '.join(self.names())}"
            )
        if len(plugins) > 1:
            found = " and ".join(plugin.value for plugin in plugins)
            raise InputError(
                f"{self.kind} {name!r}: found {found}, expected one class of that name"
            )
        try:
            cls = plugins[0].load()
        except Exception as error:  # whatever the other package does when it is imported
            raise InputError(
                f"{self.kind} {name!r}: found a plug-in that cannot be imported, "
                f"{plugins[0].value} ({type(error).__name__}: {error})"
            ) from error
        self.register(name)(cls)


def _path(cls) -> str:
    """Where a class, or that of an object, is defined; the same when its module is reloaded."""
    cls = cls if isinstance(cls, type) else type(cls)
    return f"{cls.__module__}.{cls.__qualname__}"


class Part:
    """A piece of a configuration: a frozen dataclass that checks itself.

    Fields are checked against their types, and their limits (`option`). A field whose type is a
    part takes an object of it, or what a file says of one: a name, which stands for the defaults,
    or a table with a ``name`` and options.

    Attributes
    ----------
    registry : Registry or None
        Where the kinds of such a part are found by name; None where there is but one kind.
    """

    registry: ClassVar[Registry | None] = None

    def __post_init__(self):
        for name, value in checked_fields(type(self), vars(self)).items():
            object.__setattr__(self, name, value)

    def to_tree(self) -> dict:
        """The part as a table: its ``name``, if there are several kinds, and all its options."""
        name = {} if self.registry is None else {"name": self.registry.name_of(self)}
        return name | {f.name: to_tree(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_tree(cls, tree) -> "Part":
        """The part that a table, or a name, describes.

        Parameters
        ----------
        tree : mapping, str or Part
            Options by name; those that are not given have their defaults.

        Returns
        -------
        part : Part

        Raises
        ------
        InputError
            If a name or an option is unknown, or its value cannot be.
        """
        if isinstance(tree, cls):
            return tree
        kind = cls.__name__ if cls.registry is None else cls.registry.kind
        if isinstance(tree, str) and cls.registry is not None:
            tree = {"name": tree}
        if not isinstance(tree, Mapping):
            raise InputError(f"{kind}: found {tree!r}, expected {_described(cls)}")
        options, part = dict(tree), cls
        if cls.registry is not None:
            name = options.pop("name", cls.registry.find(cls))
            if not isinstance(name, str):
                names = ", ".join(cls.registry.names())
                raise InputError(f"{kind}: found a table without a name, expected one of {names}")
            part = cls.registry[name]
            if not issubclass(part, cls):
                raise InputError(
                    f"{kind} {name!r}: found {_path(part)}, expected a kind of {cls.__name__}"
                )
        known = [f.name for f in fields(part)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(
                f"{part.__name__}: found {', '.join(unknown)}, expected options out of "
                f"{', '.join(known) or 'none'}"
            )
        return part(**options)


def option(default, *, least=None, above=None, most=None, choices=None):
    """A field of a part, with limits that hold for its value, or for each of several.

    Parameters
    ----------
    default
        Its default.
    least, above, most : float, optional
        The value is not below, is above, is not above this. Without ``most`` an integer, which
        counts something, is not above a million millions.
    choices : sequence, optional
        What it may be.

    Returns
    -------
    dataclasses.Field
    """
    limits = {"least": least, "above": above, "most": most, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=limits)
    return field(default=default, metadata=limits)


def checked_fields(cls, values) -> dict:
    """Values of fields of a dataclass, of their types and within their limits.

    Parameters
    ----------
    cls : type
        The dataclass.
    values : mapping
        Values by name of the field; others are passed over.

    Returns
    -------
    checked : dict
        With parts for what describes parts, and tuples for lists.

    Raises
    ------
    InputError
        Naming the first field that is wrong.
    """
    hints, checked = get_type_hints(cls), {}
    for f in fields(cls):
        if f.name in values:
            label = f"{cls.__name__}.{f.name}"
            value = _coerced(values[f.name], hints[f.name], label)
            _check_limits(value, f.metadata, label)
            checked[f.name] = value
    return checked


def to_tree(value):
    """A value of a field as files keep it: tables for parts, lists for tuples."""
    if isinstance(value, Part):
        return value.to_tree()
    if isinstance(value, Mapping):
        return {key: to_tree(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_tree(item) for item in value]
    return value


def _coerced(value, hint, label):
    """The value in the type of an annotation."""
    if get_origin(hint) in {Union, UnionType}:
        return _coerced_to_any(value, hint, label)
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        kinds = arguments
        if arguments[-1] is Ellipsis:
            kinds = arguments[:1] * len(value)
        if len(kinds) == len(value):
            return tuple(_coerced(v, kind, label) for v, kind in zip(value, kinds, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        key, item = arguments
        return {
            _coerced(k, key, label): _coerced(v, item, f"{label}[{k!r}]") for k, v in value.items()
        }
    elif origin in _NUMBERS:
        if isinstance(value, _NUMBERS[origin]) and not isinstance(value, bool):
            return origin(value)
    elif issubclass(origin, Part):
        return origin.from_tree(value)
    elif isinstance(value, origin):
        return value
    raise InputError(f"{label}: found {value!r}, expected {_described(hint)}")


def _coerced_to_any(value, hint, label):
    kinds = get_args(hint)
    if value is None and NoneType in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not NoneType]
    for kind in kinds:
        if len(kinds) == 1 or isinstance(value, _accepted(kind)):
            return _coerced(value, kind, label)
    raise InputError(f"{label}: found {value!r}, expected {_described(hint)}")


def _accepted(kind) -> tuple[type, ...]:
    """The types of values that may stand for a kind of field."""
    origin = get_origin(kind) or kind
    if origin in _NUMBERS:
        return (_NUMBERS[origin],)
    return {tuple: (Sequence,), dict: (Mapping,)}.get(origin, (origin, Mapping, str))


def _described(hint) -> str:
    """What an annotation expects, in words."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in {Union, UnionType}:
        return " or ".join("nothing" if a is NoneType else _described(a) for a in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_described(arguments[0])}"
        return f"{len(arguments)} values, {_described(arguments[0])} each"
    if origin is dict:
        return f"a table, each {_described(arguments[1])}"
    if issubclass(origin, Part):
        if origin.registry is None:
            return f"a table of {origin.__name__}"
        names = ", ".join(origin.registry.names())
        return f"a {origin.registry.kind}, one of {names}, or a table with its name"
    return _WORDS.get(origin, f"a {origin.__name__}")


def _check_limits(value, limits, label):
    if value is None:
        return
    if isinstance(value, Mapping | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            _check_limits(one, limits, label)
        return
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        raise InputError(f"{label}: found {value!r}, expected one of {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{label}: found {value!r}, expected a finite number")
    for name, holds, words in _LIMITS:
        limit = limits.get(name)
        if limit is None and name == "most" and isinstance(value, int):
            limit = MOST_COUNTED
        if limit is not None and not holds(value, limit):
            raise InputError(f"{label}: found {value!r}, expected {words} {limit:g}")


_NUMBERS = {int: Integral, float: Real}
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
_LIMITS = (
    ("least", operator.ge, "a number not below"),
    ("above", operator.gt, "a number above"),
    ("most", operator.le, "a number not above"),
)
