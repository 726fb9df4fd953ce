# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the inventory to the plan: every value checked, every default decided, all mistakes reported at once. It runs on the
controller, contacts nothing and never looks at a host.
"""
