# SPDX-License-Identifier: GPL-3.0-or-later
"""The request for a promotion: the files or the revision to make live, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import OBSERVATION


@dataclass(frozen=True)
class PromotionRequest:
    """One request to promote or to roll back.

    files: stock file name -> content; the live file is kept for a name that is missing. Ignored by a roll back.
    rollback_to: empty for a promotion; ``previous`` or the beginning of a revision's name for a roll back.
    replace_all: keep no live file beside ``files``. plain_layout: leave plain files in the volume and remove ``.anvil``.
    writer_image: an image whose python3 writes into the volume, where the replica's own has none. lock_wait: seconds.
    observation: seconds for which a candidate with no earlier evidence is observed. is_rendered: ``files`` are what an
    inventory renders, as opposed to files that an operator names. overruled: the names of which the inventory's content
    replaces a promoted one. may_repeat: whether rendered files are promoted again that were rolled back. by: who promotes.
    discard_journal: whether a journal that cannot be read counts as none.
    """

    files: Mapping[str, bytes]
    rollback_to: str = ""
    keep: int = 10
    reload: bool = True
    check_mode: bool = False
    validate_only: bool = False
    replace_all: bool = False
    plain_layout: bool = False
    writer_image: str = ""
    lock_wait: float = 60.0
    observation: float = OBSERVATION
    is_rendered: bool = False
    overruled: Tuple[str, ...] = ()
    may_repeat: bool = True
    by: str = ""
    discard_journal: bool = False

    @property
    def only_restores_plain_files(self) -> bool:
        """Whether the layout of the volume is all that is to change."""
        return self.plain_layout and not self.files and not self.rollback_to
