"""matplotlib's SVG -> an svg element for the inside of a page: no style sheet, ids of its own, colours of the page."""

import re
from collections.abc import Mapping

# What matplotlib leaves in a style attribute; a page whose policy forbids inline styles takes them as attributes.
DECLARATION = re.compile(r"\s*([a-z-]+)\s*:\s*([^;]+?)\s*(?:;|$)")


def inline_svg(svg: str, name: str, title: str, caption: str, variables: Mapping[str, str]) -> str:
    """The svg element alone.

    Args:
        svg: as matplotlib wrote it.
        name: stands in front of every id.
        title: what the picture is, for those who cannot see it.
        caption: how to read it.
        variables: CSS variable for each colour it was drawn in.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'url\(#|(?:xlink:)?href="#', lambda found: f"{found[0].removeprefix('xlink:')}{name}-", svg)
    svg = re.sub(r'\sstyle="([^"]*)"', _as_attributes, svg)
    for colour, variable in variables.items():
        svg = svg.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {view[0] if view else ""} class="plot" role="img" aria-label="{title}. {caption}">'
    return re.sub(r"<svg[^>]*>", lambda _: f"{head}<title>{title}</title>", svg, count=1).strip()


def _as_attributes(found: re.Match[str]) -> str:
    """A style attribute as presentation attributes; the page chooses the font's family."""
    pairs = [pair for pair in DECLARATION.findall(found[1]) if pair[0] not in {"font-family", "font"}]
    size = re.search(r"font:\s*(?:\w+ )*?([\d.]+px)", found[1])
    if size:
        pairs.append(("font-size", size[1]))
    return "".join(f' {name}="{value}"' for name, value in pairs)
