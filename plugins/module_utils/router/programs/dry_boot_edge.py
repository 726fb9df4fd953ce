# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of an edge's dry boot: it starts HAProxy, and ends it when its own standard input ends.

Perl, because the image has neither python nor socat: Ansible packs only ``.py`` files into a module, so the program is text here.
"""

from __future__ import annotations

# Arguments: the command to start. Exits with 1 when that ends by itself. The handler is set first: a command may end at once.
PERL = r"""
$SIG{CHLD} = sub { waitpid(-1, 0); exit(1); };
my $child = fork();
die "fork: $!\n" unless defined $child;
if (!$child) { open(STDIN, "<", "/dev/null"); exec { $ARGV[0] } @ARGV; die "$ARGV[0]: $!\n"; }
1 while sysread(STDIN, my $unused, 1);
kill("KILL", $child);
"""
