# SPDX-License-Identifier: GPL-3.0-or-later
"""The promotion of files in a Docker volume: immutable revisions, the pointer to the live one, the journal, the lock, and the
roll back after a failure. It knows the containers that read the files only as ``Replica``, and never decides how a router or an
edge is validated or reloaded: that is in the wing ``router``.
"""
