# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that run in a container of an engine's image. A room that sends one imports it inside a function."""
