"""Pages that stand beside code and experiments join the site, and every link is made to fit both places.

A link in a page is written as it works in the repository. On the site a link to another page leads there, and a link to
any other file of the repository leads to the public host. A link to nothing is a warning, which `--strict` refuses.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PLACES = {"README.md": "index.md"}  # in the repository -> on the site; other pages keep their path
INCLUDED = ("*.md", "vacsr_jax/**/*.md", "experiments/**/*.md", "experiments/**/*.png", "tests/**/*.md", "docs/**/*.*")
LINK = re.compile(r"(\]\()([^()\s#:]+)((?:#[^()\s]*)?\))")
log = logging.getLogger("mkdocs.hooks.pages")


def on_files(files: Files, config) -> Files:
    for place, path in site_files().items():
        if place not in files.src_uris:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    repository = {path: place for place, path in site_files().items()}
    repository |= {f"{place.removesuffix('.md')}.ipynb": place for place in files.src_uris}  # docs/hooks/notebooks.py
    path = site_files().get(page.file.src_uri)
    if path is None:  # a generated page has links of the site only
        return markdown

    def rewrite(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[2]))
        if (ROOT / target).is_dir() and f"{target}/README.md" in repository:
            target += "/README.md"
        if target in repository:
            to = posixpath.relpath(repository[target], posixpath.dirname(page.file.src_uri) or ".")
        else:
            if not (ROOT / target).exists():
                log.warning("%s: a link leads to %s, which is not there", path, found[2])
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            to = f"{config.extra['repository']}/{kind}/main/{target}"
        return f"{found[1]}{to}{found[3]}"

    return outside_code(markdown, lambda text: LINK.sub(rewrite, text))


def site_files() -> dict[str, str]:
    """Place on the site -> path in the repository, of all files that are not generated."""
    paths = [path.relative_to(ROOT) for pattern in INCLUDED for path in ROOT.glob(pattern) if path.is_file()]
    names = sorted(path.as_posix() for path in paths if path.parts[:2] != ("docs", "hooks"))
    return {PLACES.get(name, name.removeprefix("docs/")): name for name in names}


def outside_code(markdown: str, change) -> str:
    """The text with `change` applied to all but its fenced blocks."""
    parts = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else change(part) for part in parts)
