# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a serve: observe what runs, compare, admit, act through Docker Compose, wait until ready, retire. It never reads
the inventory, and never touches a container that is not ours unless that is asked for by name.
"""
