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
"""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points

from .errors import InputError

__all__ = ["Registry"]


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
            Takes the class and returns it. It raises `InputError` where the name already means
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
        path = _path(cls if isinstance(cls, type) else type(cls))
        for name, known in self._classes.items():
            if _path(known) == path:
                return name
        raise InputError(f"{self.kind}: found {path}, expected one of {', '.join(self.names())}")

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
    """Where a class is defined; the same when its module is reloaded."""
    return f"{cls.__module__}.{cls.__qualname__}"
