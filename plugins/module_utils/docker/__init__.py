# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine API, the Compose command line, and a service of a compose file as data. Each call carries out one operation
and returns the answer of the Docker Engine; this wing never decides whether a container should change, and knows nothing about
models, serves or routers.
"""
