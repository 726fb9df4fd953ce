# SPDX-License-Identifier: GPL-3.0-or-later
"""Knowledge as data and pure functions: the LLM engines and their flags, what a card of a given compute capability can run, and
which models a policy allows. It never reads a file, opens a connection or reads the clock.
"""
