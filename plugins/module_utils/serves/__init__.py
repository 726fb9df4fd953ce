# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a serve: observe what runs, compare, admit, act through Docker Compose, wait until ready, retire. It never reads
the inventory, and never touches a container that is not ours unless that is asked for by name.
"""
