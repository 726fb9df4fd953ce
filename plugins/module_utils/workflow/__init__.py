# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows on a host: deploy one, replace its replicas one by one, send it one request, remove it. It never reads a workflow
file: the controller does that, and so does the program inside the workflow's container (``roles/workflow/files``).
"""
