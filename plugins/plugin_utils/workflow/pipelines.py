# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files with which a repository delivers a workflow: pipelines of three CI services, their script, `.gitignore`. Pure"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.anvil.serving.plugins.plugin_utils.plan.templating import render_template

GITIGNORE = """# Secrets, and what is made or fetched.
.env
private/
wheels/*.whl
mlflow/wheels/*.whl
image.txt
.ci-venv/
__pycache__/
"""
# File -> template.
PIPELINES = {
    "ci.sh": "ci.sh",
    ".github/workflows/workflow.yml": "github.yml",
    ".gitlab-ci.yml": "gitlab.yml",
    ".circleci/config.yml": "circleci.yml",
}


def render_pipelines(values: Mapping[str, Any]) -> dict[str, str]:
    """Path -> text. values: ``plan``, ``private``, and ``folders``, which the host of the deployment needs."""
    rendered = {path: render_template(f"workflow/ci/{name}.j2", **values) for path, name in PIPELINES.items()}
    return {".gitignore": GITIGNORE, **rendered}
