"""A few facts as an HTML table, for notebooks."""

from html import escape

__all__ = ["html_table"]


def html_table(title, rows, columns=()) -> str:
    """An HTML table of texts.

    Parameters
    ----------
    title : str
        Its caption.
    rows : iterable of sequence
        The cells of each row; the first one is its head.
    columns : sequence of str
        Heads of the columns, if they have any.

    Returns
    -------
    html : str

    Examples
    --------
    >>> from astro_ddprism.io.html import html_table
    >>> html_table("View", [("sources", "los & galaxy")])
    '<table><caption>View</caption><tr><th>sources</th><td>los &amp; galaxy</td></tr></table>'
    """
    head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
    lines = [f"<tr>{head}</tr>"] if columns else []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in others)
        lines.append(f"<tr><th>{escape(str(first))}</th>{cells}</tr>")
    return f"<table><caption>{escape(str(title))}</caption>{''.join(lines)}</table>"
