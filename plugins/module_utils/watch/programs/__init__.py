# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of this wing that run elsewhere, each in a file of its own."""
