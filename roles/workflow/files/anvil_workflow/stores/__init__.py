# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs as data, and the stores that keep them: an SQLite file for one server, PostgreSQL for several. It never runs a job and
never reads its inputs or outputs.
"""
