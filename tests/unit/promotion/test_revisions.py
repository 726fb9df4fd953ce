# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Revisions and snapshots of a volume as data."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Entry, Place, Snapshot, hash_revision
from hypothesis import given
from hypothesis import strategies as st

PLACE = Place("cfg", "/etc/anvil", "router", ("config.toml", "profile.json"))
FILES = st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\n/\0"), min_size=1), st.binary())


# ------------------------------------------------------------------------------------------------------------- hashing


@given(FILES, FILES)
def test_revisions_have_the_same_name_if_and_only_if_their_files_are_equal(
    one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    assert (hash_revision(one) == hash_revision(other)) == (one == other)


@given(FILES)
def test_the_order_of_files_does_not_matter(files: dict[str, bytes]) -> None:
    assert hash_revision(files) == hash_revision(dict(reversed(list(files.items()))))


def test_bytes_moved_from_one_file_to_another_change_the_hash() -> None:
    assert hash_revision({"a": b"b\n1\nx"}) != hash_revision({"a": b"", "b": b"x"})


# ------------------------------------------------------------------------------------------------------------ snapshots


def snapshot(stock: dict[str, Entry], inner: dict[str, Entry]) -> Snapshot:
    return Snapshot(PLACE, stock, inner, {})


def ours(files: dict[str, bytes], name: str | None = None) -> Snapshot:
    """A volume in our layout whose live revision has these files."""
    revision = name or hash_revision(files)
    inner = {".anvil/live/router": Entry("link", target="../revisions/" + revision)}
    inner[".anvil/revisions/" + revision] = Entry("folder")
    inner.update({f".anvil/revisions/{revision}/{path}": Entry("file", content) for path, content in files.items()})
    stock = {path: Entry("link", target=".anvil/live/router/" + path) for path in PLACE.names}
    return snapshot(stock, inner)


def test_files_read_through_our_links_are_the_live_revision() -> None:
    seen = ours({"config.toml": b"c"})
    assert seen.observed() == {"config.toml": b"c"} and seen.is_ours and seen.live == hash_revision(seen.observed())


def test_an_altered_revision_is_not_ours() -> None:
    assert not ours({"config.toml": b"c"}, "a" * 64).is_ours


def test_a_plain_file_in_place_of_a_link_is_read_and_is_not_ours() -> None:
    seen = ours({"config.toml": b"c", "profile.json": b"p"})
    mixed = snapshot({**seen.stock, "profile.json": Entry("file", b"peer")}, dict(seen.inner))
    assert mixed.observed() == {"config.toml": b"c", "profile.json": b"peer"} and not mixed.is_ours


@pytest.mark.parametrize("target", ["../revisions/zzz", "/etc", "../revisions/../" + "a" * 64, "a" * 64])
def test_a_pointer_outside_the_revisions_names_no_live_revision(target: str) -> None:
    assert snapshot({}, {".anvil/live/router": Entry("link", target=target)}).live is None


@pytest.mark.parametrize("bad", ["", "a/b", "..", "-x", "$(id)", "a\nb", ";rm -rf /", "x" * 300, "a\udcff"])
def test_invalid_volume_and_container_names_are_refused(bad: str) -> None:
    with pytest.raises(AnvilError):
        Place(bad, "/etc/anvil", "router", ())
    with pytest.raises(AnvilError):
        Place("cfg", "/etc/anvil", bad, ())


@pytest.mark.parametrize("bad", ["", "/", "etc", "/etc/../x", "/etc/", "//etc", "/etc/anvil:rw"])
def test_invalid_mount_points_are_refused(bad: str) -> None:
    with pytest.raises(AnvilError):
        Place("cfg", bad, "router", ())
