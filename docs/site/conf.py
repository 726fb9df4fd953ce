# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx settings of the documentation's site. build.sh copies this file beside the pages.

Nothing is fetched while the site is built or read: no web font, no script or style from another server.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

SOURCE = Path(__file__).parent

project = "anvil.serving"
author = "the anvil.serving authors"
project_copyright = "the anvil.serving authors, GPL-3.0-or-later"
extensions = ["myst_parser", "sphinx.ext.intersphinx", "sphinx_antsibull_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["reference/environment_variables.rst"]
language = "en"
smartquotes = False
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "native"
suppress_warnings: list[str] = []

myst_heading_anchors = 3

html_theme = "furo"
html_title = "anvil.serving"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False, "top_of_page_buttons": []}
antsibull_ext_color_scheme = "default-autodark"

# Labels of Ansible's own documentation that the reference names. An inventory of them is written here: theirs would be fetched.
ANSIBLE = "https://docs.ansible.com/ansible-core/devel/"
ANSIBLE_LABELS = {
    "action_plugins": "plugins/action.html",
    "common_return_values": "reference_appendices/common_return_values.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
}


def write_inventory(path: Path) -> str:
    lines = [f"{label} std:label -1 {page} {label}" for label, page in ANSIBLE_LABELS.items()]
    head = "# Sphinx inventory version 2\n# Project: ansible\n# Version: devel\n# The rest is compressed with zlib.\n"
    content = head.encode() + zlib.compress("".join(f"{line}\n" for line in lines).encode())
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
    return str(path)


intersphinx_mapping = {"ansible": (ANSIBLE, write_inventory(SOURCE / "ansible.inv"))}


def page_of(name: str) -> str:
    """The page of the reference for a module (its short name will do) or a role (by its full name), or nothing."""
    kind = "role" if name.startswith(COLLECTION) and name.removeprefix(COLLECTION) not in MODULES else "module"
    page = f"reference/{name.removeprefix(COLLECTION)}_{kind}"
    return page if (SOURCE / f"{page}.rst").exists() else ""


class LinkReference(SphinxTransform):
    """A module or role that a page names in code font leads to its page of the reference. On a code host it is plain text."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        if self.env.docname.startswith("reference/"):
            return
        for literal in list(self.document.findall(nodes.literal)):
            page = page_of(literal.astext())
            if not page or isinstance(literal.parent, (nodes.reference, nodes.title, addnodes.pending_xref)):
                continue
            target = {"refdomain": "std", "reftype": "doc", "refexplicit": True, "reftarget": f"/{page}"}
            link = addnodes.pending_xref("", refdoc=self.env.docname, **target)
            literal.replace_self(link)
            link += literal


COLLECTION = "anvil.serving."
MODULES = {path.name.removesuffix("_module.rst") for path in (SOURCE / "reference").glob("*_module.rst")}


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LinkReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
