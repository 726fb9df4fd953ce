# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that run inside side containers. Each is sent as source text, runs alone and imports only the standard library."""
