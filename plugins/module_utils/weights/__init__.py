# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files: fetching and verifying them, what their headers say, and whether a model fits its engine and its cards. It
never starts or stops a serve.
"""
