"""The directive ``study-table``: a table of what a benchmark wrote, so that no page can differ.

.. code-block:: rst

   .. study-table:: ../benchmarks/results/study.json
      :rows: problems sources

      problems.name: Problem
      sources.psnr_mean: PSNR [dB]

Rows of further records follow. ``rows`` names the nested lists of the figures that they are made
of; each line of the content is a key of one of them, and the title of its column. Further dots in a
key lead into nested mappings.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


class StudyTable(SphinxDirective):
    """One row for each element of the innermost list."""

    required_arguments = 1
    optional_arguments = 9
    has_content = True
    option_spec = {"rows": directives.unchanged_required}  # noqa: RUF012

    def run(self):
        """Read the record and build the table."""
        columns = [tuple(part.strip() for part in line.split(":", 1)) for line in self.content]
        rows = []
        for name in self.arguments:
            path = (Path(self.env.doc2path(self.env.docname)).parent / name).resolve()
            self.env.note_dependency(str(path))
            figures = json.loads(path.read_text())["figures"]
            rows += _rows({"": figures}, self.options["rows"].split())
        table = nodes.table()
        group = nodes.tgroup(cols=len(columns))
        group += [nodes.colspec(colwidth=1) for _ in columns]
        head, body = nodes.thead(), nodes.tbody()
        head += _row(title for _, title in columns)
        for row in rows:
            body += _row(_text(row, key) for key, _ in columns)
        group += [head, body]
        table += group
        return [table]


def _rows(found: dict, names: list[str], inner: str = ""):
    if not names:
        yield found
        return
    for element in found[inner][names[0]]:
        yield from _rows(found | {names[0]: element}, names[1:], names[0])


def _text(row: dict, key: str) -> str:
    where, *names = key.split(".")
    value = row[where]
    for name in names:
        value = None if value is None else value.get(name)
    if isinstance(value, float):
        return f"{value:.2f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def _row(texts):
    row = nodes.row()
    for text in texts:
        entry = nodes.entry()
        entry += nodes.paragraph(text=text)
        row += entry
    return row


def setup(app):
    """Register the directive."""
    app.add_directive("study-table", StudyTable)
    return {"parallel_read_safe": True}
