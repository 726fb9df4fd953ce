# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the router modules."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.router.module_parameters import encode_text


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(AnvilError, match="UTF-8"):
        encode_text("config", "a\udcffb")
