# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: its cards, driver, container toolkit, daemon.json and ports. It reads and describes; only ``docker_daemon``
changes anything, and no room here looks at serves or models.
"""
