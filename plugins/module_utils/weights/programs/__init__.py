# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that run in a process of their own, under another interpreter. They import nothing of this collection."""
