# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident service of a host: whether the tokens of each serve come, what is restarted, and what is told. What runs there is
Python's standard library and rooms of wings above, packed into one file. It never reads the inventory,
and never starts what was stopped.
"""
