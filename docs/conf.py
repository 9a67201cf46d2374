"""Sphinx's settings for the site; docs/build_site.py builds it. Notebooks are shown as they are, never executed."""

import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.util.osutil import relative_uri

project = "Multiresolution Knowledge Distillation"
html_title = project
author = "The kdhelpers authors"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "data/README.md", "results/README.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "site", "kdhelpers", "data/[!R]*", "results/[!R]*", "notebooks/profiles"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # would come from another server, as MathJax would
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_extra_path = ["../results/report.html"]
html_show_copyright = False
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],
    "use_download_button": True,
    "use_fullscreen_button": False,
}

CONTENTS = """
```{toctree}
:hidden:
:caption: Results
docs/findings
docs/where_this_stands
results/README
notebooks/90_tables_and_figures
```
```{toctree}
:hidden:
:caption: Data sets
:glob:
notebooks/0[1-7]*
data/README
```
```{toctree}
:hidden:
:caption: Ablations and time
:glob:
notebooks/1*
notebooks/2*
```
```{toctree}
:hidden:
:caption: Use it
notebooks/00_quickstart
notebooks/30_beside_anomalib
docs/onnx
docs/cluster
CONTRIBUTING
CHANGELOG
```
"""


def add_contents(app, docname: str, source: list[str]) -> None:
    """The README is the first page and, on the site only, lists the others; its badge is for GitHub."""
    if docname == root_doc:
        source[0] = re.sub(r"^\[!\[.*\]\(\.\./\.\./actions/.*\n", "", source[0], flags=re.MULTILINE) + CONTENTS


def mend_links(app, doctree) -> None:
    """A link to the report opens it, instead of a download; a folder is no page, so a link to one becomes text."""
    name = app.env.docname
    for node in list(doctree.findall(addnodes.download_reference)):
        if Path(node["reftarget"]).name == "report.html":
            uri = relative_uri(app.builder.get_target_uri(name), "report.html")
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri))
    for node in list(doctree.findall(addnodes.pending_xref)):
        if Path(app.env.doc2path(name)).parent.joinpath(node["reftarget"]).is_dir():
            node.replace_self(node.children)


def describe_figures(app, doctree, name: str) -> None:
    """A notebook's figures are described by the heading that they stand under; Sphinx would read out a file name."""
    for image in doctree.findall(nodes.image):
        section = image
        while not isinstance(section, nodes.section):
            section = section.parent
        image["alt"] = image.get("alt") or f"Figure: {section[0].astext()}"


def mathml(builder, node) -> None:
    """Formulas as MathML, which browsers and screen readers know without a script."""
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    builder.body.append(f'<div class="formula" tabindex="0">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", mend_links)
    app.connect("doctree-resolved", describe_figures)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
