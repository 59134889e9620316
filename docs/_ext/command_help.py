"""The directive ``command-help``: what ``ddprism COMMAND --help`` prints."""

import contextlib
import io
import os

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from astro_ddprism.cli import main


class CommandHelp(SphinxDirective):
    """The help of one command, asked of the program, so that the page cannot fall behind it."""

    required_arguments = 1

    def run(self):
        """Run the command line, and show what it prints."""
        os.environ["COLUMNS"] = "95"  # argparse wraps its lines to this
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([self.arguments[0], "--help"])
        if not text.getvalue():
            raise self.error(f"ddprism has no command {self.arguments[0]!r}")
        return [nodes.literal_block(text.getvalue(), text.getvalue(), language="none")]


def setup(app):
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
