# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that this wing sends into a workflow's container. Each is a file of its own and imports nothing of this collection."""
