# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx settings of the documentation's site. build.sh copies this file beside the pages.

Nothing is fetched while the site is built or read: no web font, no script or style from another server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

SOURCE = Path(__file__).parent

project = "anvil.serving"
author = "the anvil.serving authors"
project_copyright = "the anvil.serving authors, GPL-3.0-or-later"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
language = "en"
smartquotes = False
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "native"
# Environment variables of Ansible itself stay without a link.
nitpick_ignore_regex = [("envvar", "ANSIBLE_.*")]

myst_heading_anchors = 3

html_theme = "furo"
html_title = "anvil.serving"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False, "top_of_page_buttons": []}
antsibull_ext_color_scheme = "default-autodark"

# Labels of Ansible's own documentation that the reference names. Sphinx would fetch an inventory of them.
ANSIBLE = "https://docs.ansible.com/ansible-core/devel/"
ANSIBLE_LABELS = {
    "action_plugins": "plugins/action.html",
    "callback_plugins": "plugins/callback.html",
    "common_return_values": "reference_appendices/common_return_values.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
}


def link_to_ansible(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """A label that is not on this site leads to Ansible's, if it is one of theirs."""
    label = str(node["reftarget"])
    builtin = re.fullmatch(r"ansible_collections\.ansible\.builtin\.(\w+)", label)
    page = f"collections/ansible/builtin/{builtin[1]}.html" if builtin else ANSIBLE_LABELS.get(label)
    return nodes.reference("", "", content, internal=False, refuri=ANSIBLE + page) if page else None


def page_of(name: str) -> str:
    """The page of the reference for a module (its short name will do), a role or a callback (by its full name), or nothing."""
    short = name.removeprefix(COLLECTION)
    kinds = ("module", "role", "callback") if name != short else ("module",)
    pages = [f"reference/{short}_{kind}" for kind in kinds]
    return next((page for page in pages if (SOURCE / f"{page}.rst").exists()), "")


def plain_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """A page of the reference has a short title, for the list at the left, and no list of contents: the theme shows one."""
    if docname.startswith("reference/"):
        text = re.sub(r"^\.\. contents::\n(?: +:.*\n)+", "", source[0], flags=re.MULTILINE)
        heading = re.compile(r"^anvil\.serving\.(\w+) (\w+) -- (.+)\n(\++)$", flags=re.MULTILINE)
        source[0] = heading.sub(lambda found: f"{found[1]} {found[2]}\n{found[4]}\n\n{found[3]}.", text)


class LinkReference(SphinxTransform):
    """A module or role that a page names in code font leads to its page of the reference. On a code host it is plain text."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        if self.env.docname.startswith("reference/") or self.env.docname == "inventory":  # one variable is called like a module
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


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LinkReference)
    app.connect("source-read", plain_page)
    app.connect("missing-reference", link_to_ansible)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
