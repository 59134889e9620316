"""Sphinx configuration. The documentation builds, and is read, without a network."""

import re
import sys
from pathlib import Path

import astro_ddprism

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "astro-ddprism"
author = "the astro-ddprism developers"
copyright = f"2026, {author}"
release = astro_ddprism.__version__
version = ".".join(release.split(".")[:2])

extensions = [
    "command_help",
    "mathml",
    "study_table",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_automodapi.automodapi",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "gallery", "inventories"]
html_math_renderer = "mathml"
default_role = "autolink"  # `name` is a link where there is such a name, and text elsewhere
nitpicky = True
suppress_warnings = ["ref.citation"]  # numpydoc makes a citation of every reference, cited or not
# Types of other packages are text here, and so are base classes that are nobody's business.
_others = (
    "abc|argparse|asdf|astropy|azula|collections|dataclasses|enum|matplotlib|np|numpy|os|pathlib|photutils|scipy|torch|"
    "typing"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({_others})(\..*)?"),
    ("py:.*", r"astro_ddprism\..*\._\w+"),
    ("py:obj", r"[A-Z][A-Z_]+"),  # constants have no pages
]

# What the names of others are is read from files beside this one, not from their pages.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "astropy": ("https://docs.astropy.org/en/stable/", "inventories/astropy.inv"),
    "scipy": ("https://docs.scipy.org/doc/scipy/", "inventories/scipy.inv"),
}

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "image_scrapers": ("figures",),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "plot_gallery": "True",
    "min_reported_time": 1e6,
    "show_memory": False,
    "write_computation_times": False,
    "reference_url": {"astro_ddprism": None},
}

# A class's members stand on its own page: a second table of them in the text would name them twice.
numpydoc_show_class_members = False
automodapi_toctreedirnm = "api"
automodapi_inheritance_diagram = False
automodsumm_inherited_members = False
autodoc_typehints = "none"

html_theme = "pydata_sphinx_theme"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's machine is
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}


def escape_shapes(app, what, name, obj, options, lines):
    """Let docstrings say (N, *shape) as Python does, where reStructuredText sees emphasis begin."""
    for i, line in enumerate(lines):
        text = line.split("``")  # every second piece is literal
        text[::2] = [
            re.sub(r"(?<=[(,] )\*(?=\w)|(?<=\()\*(?=\w)", r"\\*", piece) for piece in text[::2]
        ]
        lines[i] = "``".join(text)


def link_public_names(app, env, node, contnode):
    """Let `astro_ddprism.View.to` lead to the module where the name is documented."""
    package, _, rest = node["reftarget"].partition(".")
    home = astro_ddprism._MODULES.get(rest.partition(".")[0])
    if package != "astro_ddprism" or home is None:
        return None
    target = f"{package}.{home}.{rest}"
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", target, node, contnode
    )


def setup(app):
    app.connect("missing-reference", link_public_names)
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)  # before numpydoc
