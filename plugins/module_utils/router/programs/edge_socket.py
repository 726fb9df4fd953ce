# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends one command to HAProxy's runtime API from inside the edge's container and prints the answer.

Perl, because the image has neither python nor socat: Ansible packs only ``.py`` files into a module, so the program is text here.
"""

from __future__ import annotations

# Arguments: the socket's path, the command. No shell runs it, so nothing is quoted.
PERL = r"""
use Socket;
socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!\n";
connect($socket, sockaddr_un($ARGV[0])) or die "$ARGV[0]: $!\n";
defined(syswrite($socket, "$ARGV[1]\n")) or die "write: $!\n";
print while <$socket>;
"""
