# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router and its edge: how their files are validated, loaded and verified when they are promoted, and the verbs that restart
replicas, take a tier out of service and report. It never starts or changes a serve.
"""
