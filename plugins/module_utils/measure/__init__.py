# SPDX-License-Identifier: GPL-3.0-or-later
"""Measuring tiers: load and evaluations in a side container, limits that a measurement must keep, and what was measured.

It never starts or changes a serve or a router; promoting what was measured is the wing `router`.
"""
