# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of the modules, in wings. A wing imports only wings before it in this list:

core, docker, catalog, host, weights, plan, images, promotion, serves, router, measure, watch, workflow

A room imports only rooms of its own wing and of those wings. docs/development.md says what each wing and each room is about;
tests/unit/test_layout.py checks both.
"""
