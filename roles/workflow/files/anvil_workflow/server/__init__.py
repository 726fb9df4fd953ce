# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP server: routes, access, readiness, the OpenAPI document and the two pages. It never runs a job itself: the wing
``runner`` does.
"""
