# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine, Docker Compose, volumes, and one service of a compose file as data. It carries out single operations and
reports what the Docker Engine answers; it never decides whether a container should be changed.
"""
