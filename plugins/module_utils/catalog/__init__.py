# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knowledge as data and pure functions: the LLM engines and their flags, what a card of a given compute capability can run, and
which models a policy allows. It never reads a file, opens a connection or reads the clock.
"""
