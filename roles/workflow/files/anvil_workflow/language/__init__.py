# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The language of workflow files: read one, report every mistake in it with its line, compile it into a workflow that can run. It
never calls a model and opens no file but the workflow file.
"""
