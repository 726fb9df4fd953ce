"""What all unit tests share."""

from __future__ import annotations

import os

# Docker Compose is a short-lived Go program that would spend a third of its time on garbage collection.
os.environ.setdefault("GOGC", "off")
