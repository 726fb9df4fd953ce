# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground floor: the error type, files on the host, and what every module does around its one call. It knows nothing of
Docker, GPUs, models or routers, and imports nothing of this collection but itself.
"""
