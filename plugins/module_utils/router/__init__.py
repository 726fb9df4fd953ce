# SPDX-License-Identifier: GPL-3.0-or-later
"""The router and its edge: how their files are validated, loaded and verified when they are promoted, and the verbs that restart
replicas, take a tier out of service and report. It never starts or changes a serve.
"""
