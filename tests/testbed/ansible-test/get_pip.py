"""Stands in for the pip bootstrap script that ansible-test would download: unpacks the wheel of pip that sanity.sh fetched once.

ansible-test makes a virtual environment for each test and Python, a dozen: ensurepip and pip would take eight seconds for each.
"""

import sysconfig
import zipfile

with zipfile.ZipFile("@WHEEL@") as wheel:
    wheel.extractall(sysconfig.get_path("purelib"))
