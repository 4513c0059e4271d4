"""Which files are generated, whole or between markers, and how they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from jetmem.docs import alerts, asyncapi, dashboards, pages, schemas
from jetmem.runtime.errors import invariant

GENERATED: Final = Path("schemas/generated")
CLI: Final = Path("services/CLI.md")
#: Whole folders: what nothing makes any more goes.
DASHBOARDS: Final = (Path("compose/grafana/dashboards"), Path("k8s/operators/dashboards"))
FOLDERS: Final = (GENERATED, *DASHBOARDS)
#: Pages with generated parts between `<!-- begin:NAME … -->` and `<!-- end:NAME -->`.
PAGES: Final = (Path("README.md"), Path("services/README.md"))
_PART: Final = re.compile(r"(<!-- begin:(?P<name>[a-z-]+)[^>]*-->\n).*?(<!-- end:(?P=name) -->)", re.DOTALL)


def generated(root: Path) -> dict[Path, str]:
    """Every generated file of a checkout with what it must hold; the same input gives the same bytes."""
    files = {GENERATED / f"{name}.schema.json": schemas.text_of(each) for name, each in schemas.documents().items()}
    files[GENERATED / "asyncapi.yaml"] = asyncapi.text()
    files[CLI] = pages.command_line()
    files[Path(alerts.PAGE)] = alerts.page()
    files[Path("compose/prometheus/rules/jetmem.yml")] = alerts.rules()
    files[Path("k8s/operators/rules.yaml")] = alerts.resource()
    files |= {folder / name: text for folder in DASHBOARDS for name, text in dashboards.files().items()}
    for page in PAGES:
        files[page] = filled((root / page).read_text(encoding="utf-8"))
    return files


def filled(page: str) -> str:
    """A page with its generated parts made anew.

    Raises:
        Broken: It names a part that nobody makes.
    """

    def part(found: re.Match[str]) -> str:
        invariant(found["name"] in pages.PARTS, f"part {found['name']} of a page is known")
        return f"{found[1]}\n{pages.PARTS[found['name']]().strip()}\n\n{found[3]}"

    return _PART.sub(part, page)


def write(root: Path) -> list[Path]:
    """Write what differs, remove from generated folders what is no longer made; returns what was touched.

    Raises:
        Broken: `root` is no checkout.
    """
    invariant((root / "services/jetmem/flow.py").is_file(), "documents are generated in a checkout")
    files = generated(root)
    touched: list[Path] = []
    for path, text in files.items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            touched.append(path)
    for path in stale(root):
        (root / path).unlink()
        touched.append(path)
    return touched


def stale(root: Path) -> list[Path]:
    """Files in generated folders that nothing makes any more."""
    there = {path.relative_to(root) for folder in FOLDERS for path in (root / folder).glob("*")}
    return sorted(there - set(generated(root)))
