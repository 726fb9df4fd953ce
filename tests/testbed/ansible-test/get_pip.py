"""Stands in for the pip bootstrap script that ansible-test would download: ensurepip, then pip from the index."""

import subprocess
import sys

# A process each: ensurepip empties PIP_* and points PIP_CONFIG_FILE at nothing in its own.
subprocess.check_call([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL)
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip==@VERSION@"])
