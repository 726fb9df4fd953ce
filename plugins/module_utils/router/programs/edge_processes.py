# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts the HAProxy processes that take requests in the edge's container, without the master. Perl, as in ``edge_socket``."""

from __future__ import annotations

# A worker is a child of the master. Without a master there is one process.
PERL = r"""
my (%parent, $workers);
for my $file (glob "/proc/[0-9]*/stat") {
    open(my $stream, "<", $file) or next;
    (<$stream> // "") =~ /^(\d+) \(haproxy\S*\) \S (\d+)/ and $parent{$1} = $2;
}
exists $parent{$_} and $workers++ for values %parent;
print $workers || 1, "\n";
"""
