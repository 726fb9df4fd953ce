# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground floor that every other wing may use: errors, files and locks on a host, HTTP requests, the frame around a module's
one call, and lines for the operator while it runs. It knows nothing about Docker, GPUs, models or routers, and imports no other
wing.
"""
