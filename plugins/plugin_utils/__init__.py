# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of the action plugins and the callback on the controller, in wings. A wing imports only wings before it in this list:

host_code, plan, report, weights, workflow

It may also import module_utils. docs/development.md says what each wing and each room is about; tests/unit/test_layout.py checks
both.
"""
