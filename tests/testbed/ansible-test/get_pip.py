"""Replaces the pip bootstrap script that ansible-test would download: it unpacks the wheel of pip that sanity.sh downloaded.

ansible-test makes a dozen virtual environments, one for each test and Python; ensurepip and pip would take 8 s for each.
"""

import sysconfig
import zipfile

with zipfile.ZipFile("@WHEEL@") as wheel:
    wheel.extractall(sysconfig.get_path("purelib"))
