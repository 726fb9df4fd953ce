# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment variables: those that a workflow file refers to, the settings of the server, secrets from files. It knows nothing
of workflows, jobs or HTTP.
"""
