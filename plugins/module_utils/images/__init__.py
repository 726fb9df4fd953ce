# SPDX-License-Identifier: GPL-3.0-or-later
"""Building, pushing and describing images, and fetching the wheels they are built from. It never starts a serve."""
