# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On the controller, from the inventory to files: build the plan of a host or of an experiment, name the file and line of
a mistake, and render the plan with Jinja. It contacts no host.
"""
