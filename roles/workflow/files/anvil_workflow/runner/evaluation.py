# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions are evaluated in threads of their own: over a large state they take milliseconds, and the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anvil_workflow.language.conditions import Expression

_THREADS = ThreadPoolExecutor(2, thread_name_prefix="conditions")


async def evaluate(expression: Expression, state: Mapping[str, Any]) -> Any:
    """The value of an expression over a state that does not change meanwhile. Raises ConditionError."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, expression.evaluate, state)
