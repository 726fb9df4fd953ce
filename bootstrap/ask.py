"""Ask each tier one question through the router, print the answers, and the curl line that repeats it.
The line passes the token on standard input: every user of a machine sees the arguments of a process.

usage: ask.py ENDPOINT TOKEN_FILE TIER...
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def ask(endpoint: str, token: str, tier: str) -> str:
    """Return the tier's answer to a chat completion; OSError when the router or the tier does not answer."""
    body = {"model": tier, "messages": [{"role": "user", "content": "Who answers?"}]}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/v1/chat/completions", json.dumps(body).encode(), headers)
    # A proxy that the environment names has no business between us and loopback.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def main(endpoint: str, token_file: str, *tiers: str) -> int:
    """Ask all tiers; 1 when one of them did not answer."""
    failed = False
    print(f"\nThe router answers at {endpoint}/v1\n")
    for tier in tiers:
        try:
            print(f"  {tier:8} {ask(endpoint, Path(token_file).read_text().strip(), tier)}")
        except urllib.error.HTTPError as e:
            print(f"  {tier:8} HTTP {e.code}: {e.read().decode(errors='replace')[:300]}")
            failed = True
        except OSError as e:
            print(f"  {tier:8} no answer: {e}")
            failed = True
    if failed:
        print("\nTo see what runs:\n  .venv/bin/ansible-playbook playbooks/status.yml -i inventory/local")
    body = json.dumps({"model": tiers[0], "messages": [{"role": "user", "content": "Who answers?"}]})
    print(f"""
Repeat it:
  sed 's/^/Authorization: Bearer /' {token_file} | curl -s -H @- {endpoint}/v1/chat/completions \\
    -H 'Content-Type: application/json' -d '{body}'
""")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
