# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: its cards, driver, container toolkit, daemon.json and ports. It reads and describes; only ``docker_daemon``
changes anything, and no room here looks at serves or models.
"""
