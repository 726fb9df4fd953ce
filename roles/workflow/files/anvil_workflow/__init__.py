# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program inside a workflow's container: it reads workflow.yaml, runs jobs durably, and serves them over HTTP.

A wing imports only wings before it in this list:

environment, language, stores, runner, server
"""

from __future__ import annotations

__version__ = "1.0.0"
