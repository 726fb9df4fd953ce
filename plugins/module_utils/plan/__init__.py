# SPDX-License-Identifier: GPL-3.0-or-later
"""From the inventory to the plan: every value checked, every default decided, all mistakes reported at once. A check of one
variable belongs in the `inventory_` room of that variable, a check across variables in `inventory_conflicts`. It runs on the
controller, contacts nothing and never reads anything from a host.
"""
