"""How the pages are built: `make docs`. Nothing is fetched."""

import os
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
# What is made of other files at build time, so that it cannot differ from them.
GENERATED = HERE / "generated"

sys.path.insert(0, str(HERE))
from departures import write_departures  # noqa: E402

project = "hcml_lightning"
author = "the authors of hcml_lightning"
copyright = author
release = re.search(  # type: ignore[union-attr]
    r'__version__ = "(.+)"', (REPOSITORY / "src/hcml_lightning/_version.py").read_text()
)[1]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
# The last one is where notebooks leave their outputs.
exclude_patterns = ["_build", "examples", "generated/ipython", "jupyter_execute"]
html_theme = "furo"
html_title = "hcml_lightning"
html_static_path = ["_static"]
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
templates_path = []

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
# Notebooks are stored without what they print, so they run here, and again only when one of them changes.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

# Docstrings write `code` with single backticks.
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def _quiet_kernels() -> None:
    # Each would warn that it talks in clear, to this process.
    profile = GENERATED / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    os.environ["IPYTHONDIR"] = str(profile.parent)


def _generate() -> None:
    shutil.rmtree(GENERATED, ignore_errors=True)
    (GENERATED / "notebooks").mkdir(parents=True)
    write_departures(REPOSITORY, GENERATED / "departures.md")
    measured = REPOSITORY / "RESULTS.md"
    text = measured.read_text(encoding="utf-8") if measured.is_file() else ""
    # Its figures are seen from the top of the repository; what it links to is no page of these.
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", r"\1/../", text)
    text = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", r"\1 (`\2`)", text)
    (GENERATED / "measured.txt").write_text(text, encoding="utf-8")
    about = (
        "Of the folder `notebooks/`; each runs in two minutes on a CPU, and did so for these pages."
    )
    lines = ["# Notebooks\n", f"{about}\n"]
    lines += ["```{toctree}", ":maxdepth: 1\n"]
    for notebook in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, GENERATED / "notebooks")
        lines.append(f"notebooks/{notebook.stem}")
    (GENERATED / "notebooks.md").write_text("\n".join([*lines, "```\n"]), encoding="utf-8")


_generate()
_quiet_kernels()
