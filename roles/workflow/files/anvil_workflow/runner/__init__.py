# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running jobs: call models and tools, go from node to node, save each step, retry, trace, measure. It knows stores only by their
interface, and nothing of the HTTP server.
"""
