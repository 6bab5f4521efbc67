"""Configures Sphinx: MyST pages, the furo theme, nothing loaded from other hosts."""

from pathlib import Path

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
html_css_files = ["matrix.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
exclude_patterns = ["_build"]
