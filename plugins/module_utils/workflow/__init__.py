# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows on a host: deploy one, replace its replicas one by one, send it one request, remove it. It never reads a workflow
file: the controller does that, and so does the program inside the workflow's container (``roles/workflow/files``).
"""
