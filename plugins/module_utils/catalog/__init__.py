# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knowledge without I/O: the LLM engines and their flags, what a card of a given compute capability can run, which models are
allowed, what counts as an answer. It never reads a file, a socket or the clock.
"""
