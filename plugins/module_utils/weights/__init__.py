# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files: fetching and verifying them, what their headers say, and whether a model fits its engine and its cards. It
never starts or stops a serve.
"""
