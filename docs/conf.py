"""Configures Sphinx: MyST pages, the furo theme, nothing loaded from other hosts."""

import os
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

_version = Path(__file__).parents[1] / "VERSION"

project = "vLLM on Ascend"
copyright = "the contributors"  # noqa: A001 - Sphinx reads this name
release = _version.read_text().strip() if _version.is_file() else ""
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "vLLM on Ascend"
html_static_path = ["_static"]
templates_path = ["_templates"]
# Furo's sidebar, with the ways to the pages that are not Sphinx's.
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "evidence.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_css_files = ["states.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
# What other pages include is no page.
exclude_patterns = ["_build", "counts.md", "registry.md"]

_SIMULATOR_PAGES = ("chips", "versions", "operators")


def _write_simulator_pages(app: Sphinx) -> None:
    """Writes the simulator's reference pages, from its own data, beside the pages that are read."""
    folder = Path(app.srcdir) / "simulator"
    ran = subprocess.run([sys.executable, "-m", "cannsim.reference", str(folder)], check=False)
    if ran.returncode == 0:
        return
    folder.mkdir(exist_ok=True)
    for name in _SIMULATOR_PAGES:
        note = "The simulator was not installed where these pages were built."
        (folder / f"{name}.md").write_text(f"# Simulator: {name}\n\n{note}\n")


def _write_registry(app: Sphinx) -> None:
    """Writes what the plugin puts in vLLM's place, which a page includes, out of its registries."""
    here, into = Path(__file__).parent, Path(app.srcdir) / "registry.md"
    # The registries import torch, which would load torch-npu, which needs CANN.
    variables = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    command = [sys.executable, str(here / "plugin_reference.py"), str(into)]
    if subprocess.run(command, env=variables, check=False).returncode != 0:
        into.write_text("The plugin was not installed where this page was built.\n")


def setup(app: Sphinx) -> None:
    """Called by Sphinx when it loads this file."""
    app.connect("builder-inited", _write_simulator_pages)
    app.connect("builder-inited", _write_registry)
