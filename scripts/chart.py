#!/usr/bin/env python3
"""Draws how fast things are compared with a reference, as SVG: a part of scripts/bench.

usage: scripts/chart.py < figures.json > chart.svg

Equal figures give an equal file. They are: {"title": …, "note": …, "sides": ["reference", …],
"rows": [{"name": …, "values": [[share of the reference's speed, text], … one for each side]}]}.
"""

import html
import json
import sys

WIDTH, LEFT, RIGHT = 820, 250, 120
BAR, GAP, HEAD = 13, 12, 76
# The reference, ours, others.
COLOURS = ["#9aa0a6", "#1a73e8", "#e8710a", "#188038"]
# A bar ends here; its text tells the rest.
MOST = 1.25


def text(x, y, content, size=12, colour="#202124", anchor="start"):
    """Returns an element of text."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">'
        f"{html.escape(content)}</text>"
    )


def render(figures):
    """Returns the chart."""
    sides, rows = figures["sides"], figures["rows"]
    row_height = len(sides) * BAR + GAP
    height = HEAD + len(rows) * row_height + 8
    scale = (WIDTH - LEFT - RIGHT) / MOST
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text(16, 24, figures["title"], 16),
        text(16, 42, figures["note"], 11, "#5f6368"),
    ]
    x = 16
    for side, colour in zip(sides, COLOURS):
        parts.append(f'<rect x="{x}" y="52" width="10" height="10" fill="{colour}"/>')
        parts.append(text(x + 15, 61, side))
        x += 40 + 7 * len(side)
    full = LEFT + scale
    parts.append(
        f'<line x1="{full:.1f}" y1="{HEAD - 8}" x2="{full:.1f}" y2="{height - 8}" '
        'stroke="#dadce0" stroke-dasharray="3 3"/>'
    )
    for number, row in enumerate(rows):
        top = HEAD + number * row_height
        parts.append(text(LEFT - 10, top + len(sides) * BAR / 2 + 4, row["name"], anchor="end"))
        for place, ((share, told), colour) in enumerate(zip(row["values"], COLOURS)):
            y, length = top + place * BAR, max(1, min(share, MOST) * scale)
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>'
            )
            parts.append(text(round(LEFT + length + 5, 1), y + BAR - 4, told, 10, "#5f6368"))
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    sys.stdout.write(render(json.load(sys.stdin)))
