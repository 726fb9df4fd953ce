# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are sent to a host as text."""
