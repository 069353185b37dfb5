"""The picture and the table of modules in docs/architecture.md, made from the code. ``make docs`` runs it."""

import ast
import html
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "charlm"
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 140, 38, 28, 34, 16
STYLE = """
  rect { fill: #f6f8fa; stroke: #57606a; rx: 6 }
  text { font: 15px ui-monospace, monospace; fill: #1f2328; text-anchor: middle; dominant-baseline: central }
  path { stroke: #57606a; fill: none; opacity: 0.55 }
  marker path { fill: #57606a; stroke: none; opacity: 1 }
  @media (prefers-color-scheme: dark) {
    rect { fill: #151b23; stroke: #9198a1 }
    text { fill: #f0f6fc }
    path { stroke: #9198a1 }
    marker path { fill: #9198a1 }
  }"""


def module_table() -> str:
    """The first sentence of every module's docstring."""
    lines = ["| module | purpose |", "| --- | --- |"]
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (path.relative_to(PACKAGE).parent.parts, path.name)):
        name = path.relative_to(PACKAGE).as_posix()
        if path.name == "__init__.py":
            name = f"{path.relative_to(PACKAGE).parent.as_posix()}/"
        if name != "./":
            lines.append(f"| `{name}` | {_first_sentence(path)} |")
    return "\n".join(lines)


def picture() -> str:
    """The packages and top-level modules, each below those that import it. Arrows point to what is imported."""
    graph = _imports()
    depths = dict.fromkeys(graph, 0)
    for name in reversed(list(TopologicalSorter(graph).static_order())):
        depths[name] = 1 + max((depths[other] for other in graph if name in graph[other]), default=-1)
    rows = [sorted(name for name in graph if depths[name] == depth) for depth in range(max(depths.values()) + 1)]
    width = max(len(row) for row in rows) * (BOX_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    places = {}
    for number, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for index, name in enumerate(row):
            places[name] = left + index * (BOX_WIDTH + GAP_X), MARGIN + number * (BOX_HEIGHT + GAP_Y)
    total_height = len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    arrows = [_arrow(places[name], places[other]) for name in sorted(graph) for other in sorted(_direct(graph, name))]
    boxes = [_box(name, *place) for name, place in places.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {total_height}" width="{width:.0f}">',
            "<title>The packages and modules of charlm, each below those that import it</title>",
            f"<style>{STYLE}\n</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z"/></marker>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return paragraph.replace("``", "`").replace("|", "\\|")


def _imports() -> dict[str, set[str]]:
    """For each package and top-level module, those that it imports."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name in ("__init__", "__main__"):
            continue
        found = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("charlm."):
                found.add(node.module.split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "charlm":
                found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
    return {name: {other for other in found if other in graph and other != name} for name, found in graph.items()}


def _direct(graph: dict[str, set[str]], name: str) -> set[str]:
    """What a module imports that it does not reach by another import too."""
    return {other for other in graph[name] if not any(other in _reached(graph, third) for third in graph[name])}


def _reached(graph: dict[str, set[str]], name: str) -> set[str]:
    return graph[name].union(*(_reached(graph, other) for other in graph[name]))


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + BOX_WIDTH / 2, start[1] + BOX_HEIGHT
    x2, y2 = end[0] + BOX_WIDTH / 2, end[1]
    middle = (y1 + y2) / 2
    curve = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"
    return f'<path d="{curve}" marker-end="url(#head)"/>'


def _box(name: str, x: float, y: float) -> str:
    label = html.escape(name + ("/" if (PACKAGE / name).is_dir() else ".py"))
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"/>'
        f'<text x="{x + BOX_WIDTH / 2:.0f}" y="{y + BOX_HEIGHT / 2:.0f}">{label}</text>'
    )
