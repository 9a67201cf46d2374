"""`jupyter nbconvert --config jupyter_nbconvert_config.py --to html notebooks/*.ipynb`: pictures keep their alt texts.

The environment that run_all.sh makes has this by itself.
"""

from html import escape

from nbconvert.preprocessors import Preprocessor


class Described(Preprocessor):
    """Makes each picture of a cell an HTML image with its alternative text."""

    def preprocess_cell(self, cell, resources, index):
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                png = "".join(output.data.pop("image/png").split())
                output.data["text/html"] = f'<img alt="{escape(alt)}" src="data:image/png;base64,{png}">'
        return cell, resources


c.HTMLExporter.preprocessors = [Described]  # noqa: F821 - Jupyter's configuration
