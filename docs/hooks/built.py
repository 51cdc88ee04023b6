"""Checks the built site: every link and every anchor leads somewhere, and no page fetches from another host."""

import html
import logging
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

ATTRIBUTE = re.compile(r'<(\w+)[^>]*?\s(href|src)="([^"]*)"')
NAME = re.compile(r'\s(?:id|name)="([^"]+)"')
log = logging.getLogger("mkdocs.hooks.built")


def on_post_build(config) -> None:
    site = Path(config.site_dir)
    base = urlparse(config.site_url).path  # how 404.html links to the others
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    names = {path: set(NAME.findall(text)) for path, text in pages.items()}
    for page, text in pages.items():
        for tag, attribute, url in ATTRIBUTE.findall(text):
            fault = fault_of(urlparse(html.unescape(url)), page, site, base, names, fetched=is_fetched(tag, attribute))
            if fault:
                log.warning("%s: %s in %s", page.relative_to(site), fault, url)


def is_fetched(tag: str, attribute: str) -> bool:
    return attribute == "src" or tag == "link"


def fault_of(url, page: Path, site: Path, base: str, names: dict[Path, set[str]], *, fetched: bool) -> str:
    """What is wrong with a link of a page; empty if nothing is."""
    if url.scheme or url.netloc:
        own = f"{url.scheme}://{url.netloc}/"
        return f"fetched from {own}" if fetched and url.scheme != "data" and not url.path.startswith(base) else ""
    path = unquote(url.path)
    target = site / path.removeprefix(base) if path.startswith("/") else (page.parent / path if path else page)
    target = target.resolve()
    target = target / "index.html" if target.is_dir() else target
    if not target.exists():
        return "nothing there"
    if url.fragment and target in names and unquote(url.fragment) not in names[target]:
        return "no such heading"
    return ""
