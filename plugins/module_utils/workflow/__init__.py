# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows on a host: bring one up, replace its replicas one by one, ask it once, remove it. What runs inside the workflow's
container is not here but in ``roles/workflow/files``.
"""
