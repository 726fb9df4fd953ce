# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw docs/images/architecture.svg from docs/images/architecture.txt. ``--check`` fails if the file is not up to date.

Two kinds of blocks: a row of stages with arrows between them, and a house, which is a list of wings. The colours follow the
scheme of the reader; the picture has a background of its own, so it is readable where the page and the picture disagree.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent / "images"
SOURCE, TARGET = IMAGES / "architecture.txt", IMAGES / "architecture.svg"

WIDTH, MARGIN, GAP = 1000, 20, 24
STAGE_HEIGHT, STAGE_COLUMNS = 108, 5
STAGE_WIDTH = (WIDTH - 2 * MARGIN - (STAGE_COLUMNS - 1) * GAP) / STAGE_COLUMNS
INDENT = 16  # of an arrow that comes from the row above; the row's title stands right of it
WING_HEIGHT = 30
NOTES = [
    "A wing imports only wings above it in its list.",
    "A label at the right of a wing names the stages that the wing carries out.",
]
STYLE = """
  svg { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
  .ground { fill: #ffffff; } .ink { fill: #1c2430; } .soft { fill: #566172; } .title { fill: #1c2430; font-weight: 600; }
  .box { fill: #f2f5f9; stroke: #b3bdca; } .stage { fill: #e2edfb; stroke: #6f9fd8; } .pill { fill: #e2edfb; stroke: #6f9fd8; }
  .arrow { stroke: #566172; stroke-width: 1.6; fill: none; } .head { fill: #566172; }
  .code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #15191f; } .ink, .title { fill: #e6eaf0; } .soft { fill: #a3adbb; }
    .box { fill: #1e242d; stroke: #465160; } .stage, .pill { fill: #1b2e47; stroke: #4c7fbd; }
    .arrow { stroke: #a3adbb; } .head { fill: #a3adbb; }
  }
"""


@dataclass
class Block:
    """kind: ``way`` or ``wings``. rows: the three cells of each line."""

    kind: str
    title: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)


def read_blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            kind, _unused, title = line.partition(" ")
            blocks.append(Block(kind, title))
            continue
        name, about, more = (cell.strip() for cell in line.split("|"))
        blocks[-1].rows.append((name, about, more))
    return blocks


def write_text(x: float, y: float, text: str, size: int, kind: str = "ink", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def draw_box(x: float, y: float, width: float, height: float, kind: str, radius: int = 7) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" class="{kind}"/>'


def draw_arrow(*points: tuple[float, float]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" class="arrow" marker-end="url(#head)"/>'


def draw_way(block: Block, top: float, title_left: float) -> list[str]:
    """A title, and below it the stages from left to right."""
    found = [write_text(title_left, top + 14, block.title, 15, "title")]
    for number, (name, module, about) in enumerate(block.rows):
        x, y = MARGIN + number * (STAGE_WIDTH + GAP), top + 26
        found.append(draw_box(x, y, STAGE_WIDTH, STAGE_HEIGHT, "stage"))
        found.append(write_text(x + 12, y + 23, name, 16, "title"))
        found.append(write_text(x + 12, y + 40, module, 11, "soft code"))
        for line_number, line in enumerate(textwrap.wrap(about, 24)):
            found.append(write_text(x + 12, y + 59 + 15 * line_number, line, 12))
        if number:
            found.append(draw_arrow((x - GAP + 2, y + STAGE_HEIGHT / 2), (x - 3, y + STAGE_HEIGHT / 2)))
    return found


def draw_wings(block: Block, left: float, top: float, width: float, name_width: float) -> list[str]:
    """A title, and below it the wings of a house in their order."""
    height = WING_HEIGHT * len(block.rows) + 12
    house, _unused, place = block.title.partition(": ")
    title = f'<tspan class="title">{escape(house)}</tspan><tspan class="soft" dx="10">{escape(place)}</tspan>'
    found = [f'<text x="{left:g}" y="{top + 14:g}" font-size="13">{title}</text>', draw_box(left, top + 26, width, height, "box")]
    for number, (name, about, stages) in enumerate(block.rows):
        y = top + 26 + 6 + WING_HEIGHT * number
        found.append(write_text(left + 14, y + 20, name + "/", 13, "title code"))
        found.append(write_text(left + name_width, y + 20, about, 12))
        right = left + width - 12
        for stage in reversed(stages.split()):
            pill = 16 + 6.6 * len(stage)
            found.append(draw_box(right - pill, y + 5, pill, 21, "pill", 10))
            found.append(write_text(right - pill / 2, y + 20, stage, 12, "ink", "middle"))
            right -= pill + 6
    return found


def draw(blocks: list[Block]) -> str:
    ways = [block for block in blocks if block.kind == "way"]
    houses = [block for block in blocks if block.kind == "wings"]
    found: list[str] = []
    top = float(MARGIN)
    for number, way in enumerate(ways):
        found += draw_way(way, top, MARGIN + (2 * INDENT if number else 0))
        top += 26 + STAGE_HEIGHT
        if number + 1 < len(ways):
            last = MARGIN + (len(way.rows) - 1) * (STAGE_WIDTH + GAP) + STAGE_WIDTH / 2
            first, between = MARGIN + INDENT, top + 18
            found.append(draw_arrow((last, top), (last, between), (first, between), (first, top + 42 + 26 - 4)))
            top += 42
    top += 34
    left_width = 560.0
    found += draw_wings(houses[0], MARGIN, top, left_width, 110)
    left_bottom = top + 26 + WING_HEIGHT * len(houses[0].rows) + 12
    x, right_bottom = MARGIN + left_width + GAP, top - GAP
    for house in houses[1:]:
        found += draw_wings(house, x, right_bottom + GAP, WIDTH - MARGIN - x, 122)
        right_bottom += GAP + 26 + WING_HEIGHT * len(house.rows) + 12
    for number, line in enumerate(NOTES):
        found.append(write_text(MARGIN, left_bottom + 28 + 18 * number, line, 12, "soft"))
    bottom = max(left_bottom + 28 + 18 * len(NOTES), right_bottom)
    height = bottom + MARGIN
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    head += '<path d="M0,0 L8,4 L0,8 z" class="head"/></marker>'
    label = "The way of the data from the inventory to a verified router, and the wings of the code"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" aria-label="{label}">\n<title>{label}</title>\n<style>{STYLE}</style>\n<defs>{head}</defs>\n'
        + draw_box(0, 0, WIDTH, height, "ground", 10)
        + "\n"
        + "\n".join(found)
        + "\n</svg>\n"
    )


def main() -> None:
    picture = draw(read_blocks(SOURCE.read_text()))
    if "--check" not in sys.argv:
        TARGET.write_text(picture)
    elif not TARGET.exists() or TARGET.read_text() != picture:
        sys.exit(f"{TARGET} is not what {SOURCE.name} says: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
