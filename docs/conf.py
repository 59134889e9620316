"""Sphinx configuration. No intersphinx: the documentation builds without a network."""

from importlib.metadata import version as metadata_version

project = "astro-ddprism"
author = "the astro-ddprism developers"
copyright = f"2026, {author}"
release = metadata_version(project)
version = ".".join(release.split(".")[:2])

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_automodapi.automodapi",
]
root_doc = "index"
exclude_patterns = ["_build"]
default_role = "autolink"  # `name` is a link where there is such a name, and text elsewhere
nitpicky = True
# Types of other packages, and the words with which numpydoc describes types, are text here.
_others = (
    "asdf|astropy|azula|collections|matplotlib|np|numpy|os|pathlib|photutils|scipy|torch|typing"
)
nitpick_ignore_regex = [("py:.*", rf"({_others})(\..*)?")]

# A class's members stand on its own page: a second table of them in the text would name them twice.
numpydoc_show_class_members = False
automodapi_toctreedirnm = "api"
automodapi_inheritance_diagram = False
automodsumm_inherited_members = False
autodoc_typehints = "none"

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
