"""Renders a report as one HTML file that needs nothing else, neither a network nor a script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 1100px; }
h1 { margin-bottom: 0; } h2 { margin: 2.5rem 0 .75rem; border-bottom: 1px solid #ddd; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; }
.headline div { background: #f4f6f8; border-radius: .5rem; padding: .6rem .8rem; overflow-wrap: anywhere; }
.headline b { display: block; font-size: 1.5rem; } .headline span, figcaption, .note { color: #555; font-size: .85rem; }
.images { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1.5rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: 1rem .75rem; }
figure { margin: 0; min-width: 0; } figcaption { overflow-wrap: anywhere; } img { max-width: 100%; height: auto; }
.gallery img { width: 100%; height: 7rem; object-fit: contain; background: #f4f6f8; image-rendering: pixelated; }
.scroll { overflow-x: auto; } pre { background: #f4f6f8; border-radius: .5rem; padding: .8rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .2rem .7rem; text-align: right; }
th { border-bottom: 1px solid #bbb; } td:first-child, th:first-child, .facts td { text-align: left; }
tr:nth-child(even) td { background: #f8f9fa; }
.scroll td, .facts td:first-child { white-space: nowrap; } .facts td + td { overflow-wrap: anywhere; }
"""
# Nothing is fetched and nothing runs, whatever a class or a file is called.
_META = """
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""

Rows = Sequence[Sequence[str]]


class Image(NamedTuple):
    """A PNG or JPEG with a caption and, in a gallery, the name of the sample."""

    caption: str
    data: bytes
    name: str = ""


@dataclass
class Page:
    """The content of a page, in this order; empty parts are omitted.

    The first row of each of `tables`, and of `files`, further CSV files by name, is its header. `links` are names of
    files and folders, relative to the page.
    """

    title: str
    subtitle: str = ""
    headline: dict[str, str] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)
    tables: dict[str, Rows] = field(default_factory=dict)
    galleries: dict[str, list[Image]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    config: str = ""
    links: list[str] = field(default_factory=list)
    files: dict[str, Rows] = field(default_factory=dict)


def render(page: Page) -> str:
    """Returns the page as HTML."""
    parts = [f"<h1>{escape(page.title)}</h1>", f'<p class="note">{escape(page.subtitle)}</p>']
    if page.headline:
        tiles = "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in page.headline.items())
        parts.append(f'<div class="headline">{tiles}</div>')
    if page.images:
        parts.append(f'<h2>Figures</h2><div class="images">{"".join(map(_figure, page.images))}</div>')
    for title, rows in page.tables.items():
        parts.append(f"<h2>{escape(title)}</h2>{_table(rows)}")
    for title, images in page.galleries.items():
        parts.append(f'<h2>{escape(title)}</h2><div class="gallery">{"".join(map(_figure, images))}</div>')
    if page.links:
        links = ", ".join(f'<a href="{escape(link)}">{escape(link)}</a>' for link in page.links)
        parts.append(f"<h2>Files</h2><p>{links}</p>")
    facts = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in page.facts.items())
    parts.append(f'<h2>Experiment</h2><table class="facts">{facts}</table>')
    if page.config:
        parts.append(f"<p>Differences from the default configuration:</p><pre>{escape(page.config)}</pre>")
    head = f'<meta charset="utf-8"><title>{escape(page.title)}</title>{_META}<style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _figure(image: Image) -> str:
    kind = "png" if image.data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(image.data).decode()}"
    caption = escape(image.caption) + (f"<br>{escape(image.name)}" if image.name else "")
    return f'<figure><img src="{source}" alt="{escape(image.caption)}"><figcaption>{caption}</figcaption></figure>'


def _table(rows: Rows) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows[1:]]
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table></div>'
