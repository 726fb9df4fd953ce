# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router and its edge: promote and roll back their files, restart replicas, take a tier out of service. It never starts or
changes a serve.
"""
