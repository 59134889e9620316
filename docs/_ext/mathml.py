"""Formulas as MathML, which browsers draw by themselves: no script, no network, no fonts."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.errors import SphinxError
from sphinx.util.math import get_node_equation_number

_CONVERTER = LatexToMathML(fancy_error=False)


def _mathml(node, *, displaystyle):
    """The formula of a node; several, with empty lines between, one below the other."""
    text = node.astext().strip()
    parts = [part for part in text.split("\n\n") if part.strip()]
    if any("\\\\" in part for part in parts) and "\\begin" not in text:
        parts = [f"\\begin{{aligned}}{part}\\end{{aligned}}" for part in parts]
    try:
        return "".join(
            _CONVERTER.convert_with_local_state(part, displaystyle=displaystyle) for part in parts
        )
    except LatexError as error:
        raise SphinxError(f"formula {text!r}: {error}") from error


def visit_inline(writer, node):
    """A formula in a line."""
    writer.body.append(_mathml(node, displaystyle=False))
    raise nodes.SkipNode


def visit_block(writer, node):
    """A formula of its own."""
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})')
        writer.add_permalink_ref(node, "Link to this equation")
        writer.body.append("</span>")
    writer.body.append(_mathml(node, displaystyle=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    """Register the way to draw formulas."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
